/**
 * Opening a file or a block device: kind, size, lock, abilities.
 *
 * Invariant: while a device is open for writing it holds an exclusive advisory lock (flock) on the file;
 * readers hold a shared one. Nothing on disk is changed before the lock is held. A file that was made here goes
 * again if it cannot be opened: the next opening would take it for one with its storage reserved.
 */
import { type SettingsTable, checkSettings, setting } from "../contract/settings.ts";
import {
  type BigIntStats,
  type Stats,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import { shellQuote } from "../bytes/text.ts";
import { SECTOR } from "../contract/device.ts";
import { type Environment, realEnvironment } from "../contract/environment.ts";
import { BlockIoError, codeOf, refuse, systemHint, toBlockIoError } from "../contract/errors.ts";
import { ofStore, storeAround, syncFolder } from "../folders.ts";
import { native, withoutNative } from "./native.ts";
import { blockDeviceQueue, blockDeviceSectorSize, blockDeviceSize } from "./block-device-facts.ts";
import { FileDevice } from "./file.ts";
import { type Origin, holding, lockedElsewhere, originOf } from "./origin.ts";

/** How a file or block device is opened. */
export interface FileDeviceOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /** Create the file with this size in bytes if it does not exist; an existing one is opened as it is. */
  readonly createSize?: number;
  /** Reserve the storage of the whole file, so that no later write can run out of space. Default false. */
  readonly preallocate?: boolean;
  /** Hold an advisory lock while open. Default true; needs the optional package koffi. */
  readonly lock?: boolean;
  /** A device of the same file, open read-only by the same owner: the lock for writing takes the place of its lock. */
  readonly beside?: FileDevice | undefined;
  /** Asked right before the lock is taken, in the same turn; throws `EBUSY` where nobody may. */
  readonly mayLock?: (origin: Origin) => void;
  /** Default: the path. */
  readonly name?: string;
  readonly environment?: Environment;
}

export const fileSettings: SettingsTable<FileDeviceOptions> = {
  readOnly: setting.flag,
  createSize: setting.integer(0, Number.MAX_SAFE_INTEGER),
  preallocate: setting.flag,
  lock: setting.flag,
  beside: setting.device,
  mayLock: setting.call,
  name: setting.anyText,
  environment: setting.environment,
};

/** Opens a file. Errors: ENOENT, EACCES, EBUSY (locked), EINVAL (size, kind of file), ENOSPC (preallocation). */
export async function openFile(path: string, options: FileDeviceOptions = {}): Promise<FileDevice> {
  checkSettings(fileSettings, options);
  const name = options.name ?? path;
  const readOnly = options.readOnly === true;
  const { fd, made } = openDescriptor(path, name, options);
  try {
    const stat = fstatSync(fd);
    requireStorage(stat, name, path);
    const node = fstatSync(fd, { bigint: true });
    const origin = originOf(node);
    if (options.lock !== false) {
      options.mayLock?.(origin);
      lock(fd, name, readOnly, options.beside);
      refuseElsewhere(path, name, node, !readOnly);
    }
    const size = stat.isFile() ? stat.size : blockDeviceSize(fd, stat, name);
    const sectorSize = stat.isFile() ? 512 : blockDeviceSectorSize(stat);
    const holes = native() !== undefined && (readOnly || (await canPunch(fd, stat, size)));
    const device = new FileDevice(path, fd, size, {
      name,
      readOnly,
      holes,
      sectorSize,
      isRegular: stat.isFile(),
      locks: options.lock !== false,
      origin,
      environment: options.environment ?? realEnvironment,
    });
    device.whenClosed(holding(node));
    if (options.preallocate) await preallocate(fd, name, size);
    return device;
  } catch (error) {
    closeSync(fd);
    if (made) rmSync(path, { force: true });
    throw toBlockIoError(error, { device: name, op: "open" });
  }
}

function openDescriptor(
  path: string,
  name: string,
  { readOnly, createSize }: FileDeviceOptions,
): { readonly fd: number; readonly made: boolean } {
  try {
    // Looked at first: opening a FIFO waits for somebody at its other end, and that may be nobody.
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat !== undefined) requireStorage(stat, name, path);
    return { fd: openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR), made: false };
  } catch (error) {
    if (error instanceof BlockIoError) throw error;
    const code = codeOf(error);
    if (code === "ENOENT" && createSize !== undefined && !readOnly) {
      return { fd: create(path, name, createSize), made: true };
    }
    const store = code === "ENOENT" ? storeAround(path) : undefined;
    const hint = openHints[code] ?? systemHint(error);
    throw new BlockIoError(openReasons[code] ?? `cannot be opened: ${(error as Error).message}`, {
      code,
      device: name === "" ? '""' : name,
      op: "open",
      cause: error,
      hint: store === undefined ? hint : `${hint ?? ""}. But ${store} is an object store. ${ofStore(store)}`,
    });
  }
}

const openReasons: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  EACCES: "permission denied",
  EROFS: "the file system is read-only",
};

const openHints: Readonly<Record<string, string>> = {
  ENOENT: "Check the path, or create an image with: truncate -s 1G FILE",
  EACCES: "Check the file's permissions; what is only to be read can be opened read-only.",
  EROFS: "Mount the file system for writing; what is only to be read can be opened read-only.",
};

function create(path: string, name: string, size: number): number {
  if (!Number.isSafeInteger(size) || size <= 0 || size % SECTOR !== 0) {
    throw refuse(name, "EINVAL", `size ${size} is not a positive multiple of ${SECTOR} bytes`, undefined);
  }
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    ftruncateSync(fd, size);
    fsyncSync(fd);
    syncFolder(dirname(path));
    return fd;
  } catch (error) {
    if (fd !== undefined) {
      closeSync(fd);
      rmSync(path, { force: true });
    }
    const code = codeOf(error);
    const [reason, hint] = createReasons[code] ?? [(error as Error).message, undefined];
    throw new BlockIoError(`cannot be created: ${reason}`, {
      code,
      device: name,
      op: "open",
      cause: error,
      hint,
    });
  }
}

const createReasons: Readonly<Record<string, readonly [reason: string, hint: string]>> = {
  ENOENT: ["its folder does not exist", "Make the folder first: mkdir -p FOLDER"],
  EACCES: ["permission denied", "Choose a folder you may write to."],
  EROFS: ["the file system is read-only", "Choose a folder that can be written to."],
  ENOSPC: ["no space is left", "Make room, or choose another file system."],
};

function lock(fd: number, name: string, readOnly: boolean, beside: FileDevice | undefined): void {
  const calls = native();
  if (calls === undefined) {
    // Reading beside a writer can show torn data but harms nobody's image.
    if (readOnly) return;
    const { reason, help } = withoutNative();
    throw refuse(
      name,
      "ENOTSUP",
      `cannot be locked: ${reason}`,
      `${help}make sure that nothing else writes to it, and open it without a lock: ${shellQuote(`${name}?no-lock`)}`,
    );
  }
  beside?.unlock();
  if (calls.tryLock(fd, !readOnly)) return;
  beside?.lockShared();
  throw refuse(
    name,
    "EBUSY",
    "is in use by another process",
    "Stop the server or tool that has it open; see who does with: fuser -v FILE. On a running server tables name its devices dm:NAME.",
  );
}

/** Throws `EBUSY` where another process has the same bytes open under another name. */
function refuseElsewhere(path: string, name: string, node: BigIntStats, exclusive: boolean): void {
  const other = lockedElsewhere(path, node, exclusive);
  if (other === undefined) return;
  throw refuse(
    name,
    "EBUSY",
    `is in use by another process, as ${other}: these are the same bytes`,
    `Stop the server or tool that has it open; see who does with: fuser -v ${shellQuote(other)}`,
  );
}

async function preallocate(fd: number, name: string, size: number): Promise<void> {
  const calls = native();
  if (calls === undefined) {
    const { reason, help } = withoutNative();
    const hint = `${help}reserve it with: fallocate -l ${size} ${shellQuote(name)}`;
    throw refuse(name, "ENOTSUP", `cannot preallocate: ${reason}`, hint);
  }
  await calls.fallocate(fd, "allocate", 0, size);
}

/** Asks the file system by punching behind the end of the file, where nothing is. */
async function canPunch(fd: number, stat: Stats, size: number): Promise<boolean> {
  const calls = native();
  if (calls === undefined) return false;
  if (stat.isBlockDevice()) return (blockDeviceQueue(stat, "write_zeroes_max_bytes") ?? 0) > 0;
  try {
    await calls.fallocate(fd, "punchHole", size, 4096);
    return true;
  } catch {
    return false;
  }
}

/** Throws EINVAL for what is neither a regular file nor a block device. */
function requireStorage(stat: Stats, name: string, path: string): void {
  const isOdd = stat.isFile() && stat.size % SECTOR !== 0;
  const store = isOdd || stat.isDirectory() ? storeAround(path) : undefined;
  // It must not be made a multiple of sectors.
  if (isOdd && store !== undefined && dirname(resolve(path)) !== store)
    throw refuse(name, "EINVAL", `is no disk: a part of the object store ${store}`, ofStore(store));
  if (stat.isFile() || stat.isBlockDevice()) return;
  if (store !== undefined)
    throw refuse(
      name,
      "EINVAL",
      `is no disk: ${store} is an object store of images or archives`,
      ofStore(store),
    );
  throw refuse(
    name,
    "EINVAL",
    `${kindOf(stat)} cannot be used as a block device`,
    "Give a regular file or a block device.",
  );
}

function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return "a directory";
  if (stat.isCharacterDevice()) return "a character device";
  if (stat.isFIFO()) return "a FIFO";
  return "this kind of file";
}
