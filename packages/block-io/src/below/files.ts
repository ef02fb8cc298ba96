/** Which files stand behind the paths of a table: a name may come to mean another one while the table is in use. */
import { resolve } from "node:path";
import type { BlockDevice } from "../contract/device.ts";
import { type BlockIoError, refuse } from "../contract/errors.ts";
import { FileDevice } from "../devices/file.ts";
import { originAt, textOf } from "../devices/origin.ts";
import { schemeOf } from "./schemes.ts";

/**
 * The same text for references to the same bytes: a file and its other names, links and loop devices. A URI, and a
 * path where nothing is, stand for themselves.
 */
export function identityOf(reference: string): string {
  if (schemeOf(reference) !== undefined) return reference;
  try {
    const origin = originAt(reference);
    return origin === undefined ? reference : textOf(origin);
  } catch {
    return reference;
  }
}

/** What stood behind absolute paths when they were opened. */
export type FilesBelow = ReadonlyMap<string, string>;

/** Those of devices that are files, or block devices. */
export function filesOf(devices: Iterable<BlockDevice>): FilesBelow {
  const files = [...devices].filter((device) => device instanceof FileDevice);
  return new Map(files.map(({ path, origin }) => [resolve(path), textOf(origin)]));
}

/** The error where another file has taken the place of one that is in use. */
export function replacedFile(path: string): BlockIoError {
  return refuse(
    path,
    "ENOENT",
    "is not the file that was in use under this name: another one has taken its place",
    "Give the file that was there its name back, and load the table again. If the new one is meant, load it with --force: whoever uses the device gets other bytes then.",
  );
}
