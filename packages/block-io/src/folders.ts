/**
 * Folders: making them with those above them, and making names in them last. Node's own `recursive` never comes back where a
 * system says that a folder that is there is not (`/proc`): it tries for ever. Here every folder is tried once.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, statSync } from "node:fs";
import { mkdir, open, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { shellQuote } from "./bytes/text.ts";
import { codeOf } from "./contract/errors.ts";

/** The name of the file that tells which object store a folder holds (object-store's store-witness.ts). */
export const STORE_WITNESS = ".dmkit-store";

/** The folder of the object store that a path is, or is in; undefined where there is none. */
export function storeAround(path: string): string | undefined {
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    if (existsSync(join(folder, STORE_WITNESS))) return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

/** What to do where the path of an object store was given for that of a disk: a hint. */
export function ofStore(folder: string): string {
  const [shown, uri] = [shellQuote(folder), shellQuote(`${folder}/NAME`)];
  return `What is in it is named by a URI: dmkit image ls ${shown} lists images (image:${uri}), dmkit archive ls ${shown} disks with their past (archive:${uri}).`;
}

// Permissions, before those the process takes away.
const DEFAULT_MODE = 0o777;

/**
 * Makes a folder, and those above it that are missing; the first that it made, or undefined if none had to be. Throws
 * what the system says: `EEXIST` if there is something else, `ENOENT`, `EACCES`, ….
 */
export function makeFolders(path: string, mode: number = DEFAULT_MODE): string | undefined {
  const missing: string[] = [];
  for (const folder of chainOf(path)) {
    if (missing.length > 0 && existsSync(folder)) break;
    missing.push(folder);
  }
  let first: string | undefined;
  for (const folder of missing.toReversed()) {
    try {
      mkdirSync(folder, { mode });
      first ??= folder;
    } catch (error) {
      if (codeOf(error) !== "EEXIST" || !statSync(folder).isDirectory()) throw error;
    }
  }
  return first;
}

/** The same, without waiting in the way of others. */
export async function makeFoldersLater(
  path: string,
  mode: number = DEFAULT_MODE,
): Promise<string | undefined> {
  const missing: string[] = [];
  for (const folder of chainOf(path)) {
    if (missing.length > 0 && (await exists(folder))) break;
    missing.push(folder);
  }
  let first: string | undefined;
  for (const folder of missing.toReversed()) {
    try {
      await mkdir(folder, { mode });
      first ??= folder;
    } catch (error) {
      if (codeOf(error) !== "EEXIST" || !(await stat(folder)).isDirectory()) throw error;
    }
  }
  return first;
}

/** Makes the names in a folder survive a crash, which fsync of the files does not. Throws what the system says. */
export function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** The same, without waiting in the way of others. */
export async function syncFolderLater(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A path, the folder it is in, and so on up to the root. */
function chainOf(path: string): string[] {
  const chain = [resolve(path)];
  for (;;) {
    const last = chain.at(-1) as string;
    if (dirname(last) === last) return chain;
    chain.push(dirname(last));
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
