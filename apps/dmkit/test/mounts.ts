/** Exports as files, and file systems on them, as long as a test needs them. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { cleanUp, run, succeed, tempFolder, until } from "./support.ts";

export interface Attached {
  /** A file with the contents of the export. */
  readonly file: string;
  /** Lets go of it, and of what is mounted from it, also when the server is gone. */
  readonly away: () => Promise<void>;
}

/** An export as a file, by nbdfuse. */
export async function attach(uri: string): Promise<Attached> {
  const folder = tempFolder();
  const nbdfuse = run("nbdfuse", [folder, uri]);
  const away = async (): Promise<void> => {
    await run("fusermount3", ["-uz", folder]);
    await nbdfuse;
  };
  cleanUp(away);
  const file = join(folder, "nbd");
  await until(() => existsSync(file), "nbdfuse");
  return { file, away };
}

export interface Mounted {
  readonly folder: string;
  readonly away: () => Promise<void>;
}

/** The file system on an export, mounted in a folder. */
export async function mount({ file }: Attached): Promise<Mounted> {
  const folder = join(tempFolder(), "mount");
  mkdirSync(folder);
  const away = async (): Promise<void> => {
    await run("umount", ["-l", folder]);
  };
  cleanUp(away);
  await succeed("mount", ["-o", "loop", file, folder]);
  return { folder, away };
}
