/** A machine with a disk behind a cache whose log goes to an archive. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface ArchivedDisk {
  /** Of the files that are made: 32M and 16M unless told otherwise. */
  readonly disk?: string;
  readonly cache?: string;
  /** The target's own default unless told otherwise. */
  readonly flush?: "local" | "remote";
  /** Whether data goes to the disk while it is served; default: as it is usual. */
  readonly writesBack?: false;
  /** Of the stack file. */
  readonly name?: string;
}

/** Writes the stack file of a disk that has never been used; its files, `disk.img` and `cache.img`, will lie beside it. */
export function archivedDisk(
  folder: string,
  archive: string,
  { disk = "32M", cache = "16M", flush, writesBack, name = "stack.yaml" }: ArchivedDisk = {},
): string {
  mkdirSync(folder, { recursive: true });
  const stack = join(folder, name);
  writeFileSync(
    stack,
    `devices:
  disk:
    target: writeboost
    backing: { file: disk.img, create: ${disk} }
    cache: { file: cache.img, create: ${cache} }
    archive: ${archive}
${flush === undefined ? "" : `    archive_flush: ${flush}\n`}${writesBack === undefined ? "" : "    allow_writeback: 0\n"}exports: [disk]
`,
  );
  return stack;
}
