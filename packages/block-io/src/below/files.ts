/** Which files stand behind the paths of a table: a name may come to mean another one while the table is in use. */
import { accessSync, constants, statSync } from "node:fs";
import { resolve } from "node:path";
import type { BlockDevice } from "../contract/device.ts";
import { type BlockIoError, codeOf, refuse } from "../contract/errors.ts";
import { FileDevice } from "../devices/file.ts";
import { originAt, textOf } from "../devices/origin.ts";
import { PartitionDevice } from "./partition.ts";
import { parsePath } from "./paths.ts";
import { schemeOf } from "./schemes.ts";

/**
 * The same text for references to the same bytes: a file and its other names, links and loop devices. A URI, and a
 * path where nothing is, stand for themselves.
 */
export function identityOf(reference: string): string {
  if (schemeOf(reference) !== undefined) return reference;
  try {
    const { path, partition } = parsePath(reference);
    const origin = originAt(path);
    if (origin === undefined) return reference;
    return partOf(textOf(origin), partition);
  } catch {
    return reference;
  }
}

/** What is in a file, by whatever that is called: all of it, or a partition. */
export function partOf(whole: string, partition: number | undefined): string {
  return partition === undefined ? whole : `${whole}?partition=${partition}`;
}

/** Whatever references to one thing have in common, which is opened once; undefined for another thing every time. */
export function keyOf(reference: string): string | undefined {
  const scheme = schemeOf(reference);
  // Several RAM disks of one size are several devices.
  if (scheme === "mem" || scheme === "null") return undefined;
  if (scheme !== undefined) return reference;
  try {
    const { path, partition } = parsePath(reference);
    const { dev, ino } = statSync(path, { bigint: true });
    return partOf(`${dev}:${ino}`, partition);
  } catch {
    return reference;
  }
}

/** What stood behind absolute paths when they were opened. */
export type FilesBelow = ReadonlyMap<string, string>;

/** What a path is called among {@link FilesBelow}: absolute, and without the words that say how it is opened. */
export function fileKey(reference: string): string {
  const { path, partition } = parsePath(reference);
  return partOf(resolve(path), partition);
}

/** Those of devices that are files, block devices, or partitions of them. */
export function filesOf(devices: Iterable<BlockDevice>): FilesBelow {
  const files = new Map<string, string>();
  for (const device of devices) {
    const identity = openIdentity(device);
    if (identity !== undefined) files.set(keyOfFile(device), identity);
  }
  return files;
}

/** What it is called there. */
function keyOfFile(device: BlockDevice): string {
  return device instanceof FileDevice ? resolve(device.path) : fileKey(device.name);
}

/** The identity of what is open, whatever its path means by now; undefined for what is no file. */
export function openIdentity(device: BlockDevice): string | undefined {
  if (device instanceof FileDevice) return textOf(device.origin);
  if (!(device instanceof PartitionDevice)) return undefined;
  const whole = openIdentity(device.whole);
  return whole === undefined ? undefined : partOf(whole, device.number);
}

/**
 * Why one of the files behind devices could not be opened again: it belongs to another user than this process has become, its
 * mode has changed, it is gone. Undefined: all of them can be, as far as can be told. @param keys of those that are asked about.
 */
export function whyNotAgain(
  devices: Iterable<BlockDevice>,
  keys: ReadonlySet<string>,
): BlockIoError | undefined {
  for (const device of devices) {
    const file = device instanceof PartitionDevice ? device.whole : device;
    if (!(file instanceof FileDevice) || !keys.has(keyOfFile(device))) continue;
    const { R_OK, W_OK } = constants;
    try {
      accessSync(file.path, device.limits.capabilities.readOnly ? R_OK : R_OK | W_OK);
    } catch (error) {
      return refuse(
        file.path,
        codeOf(error),
        "is in use, and could not be opened again",
        "Give this server's user what it needs to open it, or give the file its name back, and load the table again.",
      );
    }
  }
  return undefined;
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
