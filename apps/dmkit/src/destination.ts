/**
 * Where a command writes a whole image or a whole text to: a device that is there, or a new file.
 *
 * Invariants:
 *
 * - a new file has its name only when all of it is written and stable. Until then it is NAME.dmkit-part, so that
 *   neither a failure nor a crash leaves something behind that passes for a whole image;
 * - what was there before is neither removed, replaced nor written over, unless that was asked for;
 * - the part goes when the command fails or is interrupted; one that a crash has left is replaced by the next run.
 */
import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  opendirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import {
  type BlockDevice,
  type Environment,
  type FileDeviceOptions,
  type PathWords,
  BlockIoError,
  asking,
  syncFolder,
  codeOf,
  identityOf,
  newPath,
  openFile,
  parsePath,
  refuse,
  requireBlank,
  schemeOf,
  shellQuote,
  toBlockIoError,
} from "@dmkit/block-io";
import { openReference } from "./devices.ts";
import { beforeEnd } from "./ui/end.ts";

export interface DestinationOptions {
  /** Bytes of a file that has to be made. */
  readonly size: number;
  readonly environment: Environment;
  /** Whether what is there may be written over, or else has to be blank, with a word of --force to whoever calls. */
  readonly overwrite: boolean;
  /** Goes on in the part that an interrupted run has kept. Throws `ENOENT` if there is none. Default false. */
  readonly resume?: boolean | undefined;
  /** Whether the part of a new file is kept when the work does not come to its end. Default: it is removed. */
  readonly keep?: (() => boolean) | undefined;
}

export interface Destination {
  readonly device: BlockDevice;
  /** It was made just now: all of it reads as zeroes. */
  readonly blank: boolean;
}

/** Whether a reference is the path of a file that would have to be made. */
export function isNewFile(reference: string): boolean {
  return schemeOf(reference) === undefined && !exists(parsePath(reference).path);
}

/** Throws `EINVAL` where the destination is, by whatever name, one of those that are read. */
export function requireOther(to: string, from: readonly string[]): void {
  // Each of these is another device.
  if (["mem", "null"].includes(schemeOf(to) ?? "")) return;
  const identity = identityOf(to);
  const source = from.find((one) => identityOf(one) === identity);
  if (source === undefined) return;
  const same =
    source === to ? "source and destination are the same" : `source and destination are the same: ${source}`;
  throw refuse(to, "EINVAL", same, "Give another destination.");
}

/**
 * Runs `work` with a path or URI opened for writing; a path that does not exist becomes a new file, once `work` has
 * succeeded and all is stable. The device is closed here. Errors: those of opening, what {@link requireBlank} says of
 * what is there, `EEXIST` if the name was taken meanwhile.
 */
export async function withDestination<T>(
  reference: string,
  options: DestinationOptions,
  work: (destination: Destination) => Promise<T>,
): Promise<T> {
  if (isNewFile(reference)) return withNewFile(newPath(reference), options, work);
  const device = await openReference(reference, "write", options.environment);
  return closing(device, async () => {
    if (device.limits.capabilities.readOnly) {
      const hint = "Give another destination. An image in a store gets a new version with: dmkit publish";
      throw refuse(reference, "EROFS", "can only be read", hint);
    }
    if (!options.overwrite) await requireBlank(device, { force: false, word: "--force" });
    return work({ device, blank: false });
  });
}

async function withNewFile<T>(
  { path, lock }: PathWords,
  { size, environment, resume = false, keep = () => false }: DestinationOptions,
  work: (destination: Destination) => Promise<T>,
): Promise<T> {
  const part = partOf(path);
  const device = await openPart(part, size, resume, { name: path, lock, environment });
  const discard = (): void => {
    if (!keep()) rmSync(part, { force: true });
  };
  return orDiscarded(discard, (finished) =>
    closing(device, async () => {
      const result = await work({ device, blank: !resume });
      await device.flush();
      finished();
      publish(part, path);
      return result;
    }),
  );
}

/**
 * Runs `work`. What it has made is discarded if it fails, or the process ends, before it has called `finished`: from then
 * on that stays, whatever happens.
 */
async function orDiscarded<T>(discard: () => void, work: (finished: () => void) => Promise<T>): Promise<T> {
  let stays = false;
  const undo = (): void => {
    if (stays) return;
    try {
      discard();
    } catch {
      // What went wrong before is what has to be told; the next run replaces it.
    }
  };
  const settled = beforeEnd(undo);
  try {
    return await work(() => {
      stays = true;
    });
  } catch (error) {
    undo();
    throw error;
  } finally {
    settled();
  }
}

async function openPart(
  part: string,
  size: number,
  resume: boolean,
  options: FileDeviceOptions & { readonly name: string },
): Promise<BlockDevice> {
  const { name: path } = options;
  if (!exists(part)) {
    if (resume) throw refuse(path, "ENOENT", "there is nothing to go on with", "Begin at the start.");
    return openFile(part, { ...options, createSize: size });
  }
  // Fails if somebody is at work on it.
  const left = await openFile(part, options);
  if (resume && left.size === size) return left;
  return closing(left, async () => {
    const wrong = `the part that was written has ${left.size} bytes, not ${size}`;
    if (resume) throw refuse(path, "EINVAL", wrong, "Begin at the start.");
    asking({ device: part, op: "open" }, () => unlinkSync(part));
    return openFile(part, { ...options, createSize: size });
  });
}

/**
 * Runs `work` with the names that new files have until it has made them, all is stable and they are closed; then each
 * gets its own, the first one last. Errors: `EEXIST`, `EBUSY` if somebody is making them at the time.
 * @param files paths by what they are for.
 */
export async function withNewFiles<T>(
  files: Readonly<Record<string, string>>,
  environment: Environment,
  work: (parts: Readonly<Record<string, string>>) => Promise<T>,
): Promise<T> {
  const paths = Object.values(files);
  for (const path of paths) requireNewFile(path);
  for (const path of paths) {
    const part = partOf(path);
    if (!exists(part)) continue;
    // Fails if somebody is at work on it.
    const left = await openFile(part, { name: path, environment });
    await closing(left, async () => asking({ device: part, op: "open" }, () => unlinkSync(part)));
  }
  const discard = (): void => {
    for (const path of paths) rmSync(partOf(path), { force: true });
  };
  return orDiscarded(discard, async (finished) => {
    const parts = Object.entries(files).map(([role, path]) => [role, partOf(path)] as const);
    const result = await work(Object.fromEntries(parts));
    finished();
    for (const path of paths.toReversed()) publish(partOf(path), path);
    return result;
  });
}

async function closing<T>(device: BlockDevice, work: () => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await work();
  } catch (error) {
    await device.close().catch(() => {});
    throw error;
  }
  await device.close();
  return result;
}

export interface WholeFileOptions {
  /**
   * Which files that are there may be replaced, by the 16 bytes they begin with; empty ones and what is no file, a pipe
   * say, are written to. Default: none, `EEXIST`.
   */
  readonly replaces?: ((head: string) => boolean) | undefined;
  /** Permissions. Default 0600. */
  readonly mode?: number;
}

/**
 * Throws what {@link writeWholeFile} would, as far as it can be known: to be asked before the work whose result is
 * written. Errors: `EEXIST`, `EISDIR`, `EINVAL` (words behind `?`), those of the folder.
 */
export function requireNewFile(path: string, { replaces }: Pick<WholeFileOptions, "replaces"> = {}): void {
  const { path: plain } = parsePath(path);
  if (plain !== path) {
    const hint = `Words behind ? are for devices: give a name such as ${shellQuote(plain)}.`;
    throw refuse(path, "EINVAL", "cannot be the name of a new file", hint);
  }
  if (replaces === undefined ? exists(path) : !isReplaceable(path, replaces)) {
    throw new BlockIoError("exists already", { code: "EEXIST", device: path, hint: "Give another name." });
  }
  asking({ device: path, op: "write" }, () => {
    if (isSpecial(path)) return;
    // Its folder has to be one: of a file it would be asked below, too.
    opendirSync(dirname(path)).closeSync();
    accessSync(dirname(path), constants.W_OK | constants.X_OK);
  });
}

/** Whether a path is free, no file but a pipe or a device, or a file that is empty or begins like what we write. */
function isReplaceable(path: string, isOurs: (head: string) => boolean): boolean {
  return asking({ device: path, op: "open" }, () => {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found?.isDirectory() === true) return false;
    if (found === undefined || !found.isFile() || found.size === 0) return true;
    const fd = openSync(path, "r");
    try {
      const head = Buffer.alloc(16);
      const length = readSync(fd, head, 0, head.length, 0);
      return isOurs(head.subarray(0, length).toString("latin1"));
    } finally {
      closeSync(fd);
    }
  });
}

/** Writes a file of this contents, or none. Errors: `EEXIST`, and what the system says. */
export function writeWholeFile(
  path: string,
  contents: string | Uint8Array,
  { replaces, mode = 0o600 }: WholeFileOptions = {},
): void {
  requireNewFile(path, { replaces });
  const replace = replaces !== undefined;
  const part = partOf(path);
  try {
    // What a device or a pipe is given is not to be replaced by a file.
    if (replace && isSpecial(path)) {
      writeFileSync(path, contents);
      return;
    }
    rmSync(part, { force: true });
    try {
      const fd = openSync(part, "wx", mode);
      try {
        writeFileSync(fd, contents);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      if (replace) renameSync(part, path);
      else publish(part, path);
    } catch (error) {
      rmSync(part, { force: true });
      throw error;
    }
  } catch (error) {
    throw toBlockIoError(error, { device: path, op: "write" });
  }
}

/** Gives the part its name, which nobody may have taken meanwhile, and makes that survive a crash. */
function publish(part: string, path: string): void {
  try {
    linkSync(part, path);
    unlinkSync(part);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") {
      throw new BlockIoError("somebody else has made a file of this name meanwhile", {
        code: "EEXIST",
        device: path,
        op: "close",
        cause: error,
        hint: `All was written, to ${part}: rename it.`,
      });
    }
    // A file system without links: there is no way to look and rename at once.
    if (exists(path)) throw toBlockIoError(error, { device: path, op: "close" });
    asking({ device: path, op: "close" }, () => renameSync(part, path));
  }
  asking({ device: dirname(path), op: "close" }, () => syncFolder(dirname(path)));
}

/** The name of a file until it is complete; one that nobody else would choose. */
export function partOf(path: string): string {
  return `${path}.dmkit-part`;
}

/** Also a link to nothing: it has the name. */
function exists(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw toBlockIoError(error, { device: path, op: "open" });
  }
}

function isSpecial(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() === false;
}
