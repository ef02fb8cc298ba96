/**
 * A regular file or a block device of the operating system.
 *
 * Invariants:
 *
 * - a failed fsync, or a failed write with FUA, puts the device into the failed state: the kernel marks
 *   pages it could not write as clean, so a retry would succeed without the data;
 * - while the device is open for writing, it holds an exclusive advisory lock (flock) on the file; readers
 *   hold a shared one;
 * - the size is fixed at open; a file cut shorter behind our back gives EIO, never short data.
 */
import {
  type Stats,
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  ftruncateSync,
  openSync,
  read,
  readFileSync,
  readSync,
  write,
  writeSync,
} from "node:fs";
import { type Extent, type Limits, SECTOR, type WriteZeroesOptions, done, plainLimits } from "../device.ts";
import { type Environment, realEnvironment } from "../environment.ts";
import { BlockIoError, codeOf, toBlockIoError } from "../errors.ts";
import { FlushGroup } from "../flush-group.ts";
import { GuardedDevice } from "../guard.ts";
import { native } from "../native.ts";
import { SyncGate } from "./sync-gate.ts";

export interface FileDeviceOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /** Create the file with this size in bytes if it does not exist; an existing one is opened as it is. */
  readonly createSize?: number;
  /** Reserve the storage of the whole file, so that no later write can run out of space. Default false. */
  readonly preallocate?: boolean;
  /** Hold an advisory lock while open. Default true; needs the optional package koffi. */
  readonly lock?: boolean;
  /** Default: the path. */
  readonly name?: string;
  readonly environment?: Environment;
}

/** Opens a file. Errors: ENOENT, EACCES, EBUSY (locked), EINVAL (size, kind of file), ENOSPC (preallocation). */
export async function openFile(path: string, options: FileDeviceOptions = {}): Promise<FileDevice> {
  const name = options.name ?? path;
  const readOnly = options.readOnly === true;
  const fd = openDescriptor(path, name, options);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw new BlockIoError(`${kindOf(stat)} cannot be used as a block device`, {
        code: "EINVAL",
        device: name,
        op: "open",
        hint: "Give a regular file or a block device.",
      });
    }
    if (options.lock !== false) lock(fd, name, readOnly);
    const size = stat.isFile() ? stat.size : blockDeviceSize(fd, stat, name);
    const sectorSize = stat.isFile() ? 512 : blockDeviceSectorSize(stat);
    const holes = native !== undefined && (readOnly || (await canPunch(fd, stat, size)));
    const device = new FileDevice(path, fd, size, {
      name,
      readOnly,
      holes,
      sectorSize,
      environment: options.environment ?? realEnvironment,
    });
    if (options.preallocate) await preallocate(fd, name, size);
    return device;
  } catch (error) {
    closeSync(fd);
    throw toBlockIoError(error, { device: name, op: "open" });
  }
}

interface FileFacts {
  readonly name: string;
  readonly readOnly: boolean;
  /** Holes can be found and (if writable) punched. */
  readonly holes: boolean;
  readonly sectorSize: 512 | 4096;
  readonly environment: Environment;
}

// The largest request that may be carried out in this thread; larger ones gain from running beside it.
const SYNC_LIMIT = 64 * 1024;

/** Made by {@link openFile}. */
export class FileDevice extends GuardedDevice {
  readonly path: string;
  readonly #fd: number;
  readonly #flushes: FlushGroup;
  readonly #reads: SyncGate;
  readonly #writes: SyncGate;
  // Opened with O_DSYNC by the first FUA write: it makes one range stable without flushing the whole file.
  #syncedFd: number | undefined;
  #zeroRange = true;

  constructor(path: string, fd: number, size: number, facts: FileFacts) {
    super(facts.name, size, limitsOf(facts));
    this.path = path;
    this.#fd = fd;
    this.#flushes = new FlushGroup(() => this.#sync());
    this.#reads = new SyncGate(facts.environment.clock);
    this.#writes = new SyncGate(facts.environment.clock);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (into.length > SYNC_LIMIT || !this.#reads.enter()) return this.#readFrom(offset, into, 0);
    const count = readSync(this.#fd, into, 0, into.length, offset);
    this.#reads.leave();
    return count === into.length ? done : this.#readFrom(offset, into, count);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    if (fua) return this.#writeSynced(offset, from);
    if (from.length > SYNC_LIMIT || !this.#writes.enter()) return writeTo(this.#fd, offset, from, 0);
    const count = writeSync(this.#fd, from, 0, from.length, offset);
    this.#writes.leave();
    return count === from.length ? done : writeTo(this.#fd, offset, from, count);
  }

  protected override doFlush(): Promise<void> {
    return this.#flushes.flush();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    if (this.limits.capabilities.discard === "native") await this.#punch(offset, length);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    const zeroed = await this.#zero(offset, length, options);
    if (!zeroed) {
      if (options.fast) {
        throw new BlockIoError("the file system cannot zero a range fast", {
          code: "ENOTSUP",
          device: this.name,
          op: "writeZeroes",
          offset,
          length,
        });
      }
      await super.doWriteZeroes(offset, length, {});
    }
    if (options.fua) {
      await this.#flushes.flush().catch((error: unknown) => {
        throw this.#failed(error, "writeZeroes");
      });
    }
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    if (native === undefined || !this.limits.capabilities.extents) {
      yield { offset, length, kind: "data" };
      return;
    }
    const block = this.limits.logicalBlockSize;
    const end = offset + length;
    for (let at = offset; at < end; ) {
      // Rounded so that a block that holds any data counts as data.
      const found = native.seekData(this.#fd, at) ?? end;
      const data = Math.min(end, Math.max(at, Math.floor(found / block) * block));
      if (data > at) yield { offset: at, length: data - at, kind: "hole" };
      if (data >= end) return;
      const after = native.seekHole(this.#fd, Math.max(found, data)) ?? end;
      const hole = Math.min(end, Math.max(data + block, Math.ceil(after / block) * block));
      yield { offset: data, length: hole - data, kind: "data" };
      at = hole;
    }
  }

  protected override async doClose(): Promise<void> {
    if (this.#syncedFd !== undefined) closeSync(this.#syncedFd);
    closeSync(this.#fd);
  }

  #readFrom(offset: number, into: Buffer, from: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const step = (done: number): void => {
        read(this.#fd, into, done, into.length - done, offset + done, (error, count) => {
          if (error !== null) reject(error);
          else if (done + count === into.length) resolve();
          else if (count === 0) reject(this.#truncated(offset, into.length));
          else step(done + count);
        });
      };
      step(from);
    });
  }

  async #writeSynced(offset: number, from: Buffer): Promise<void> {
    // Linux has the same file under the descriptor; the lock stays with the first descriptor.
    this.#syncedFd ??= openSync(this.path, constants.O_RDWR | constants.O_DSYNC);
    try {
      await writeTo(this.#syncedFd, offset, from, 0);
    } catch (error) {
      throw this.#failed(error, "write");
    }
  }

  async #sync(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      fdatasync(this.#fd, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  /** Whether the range was zeroed by the file system; false: it cannot, and nothing was changed. */
  async #zero(offset: number, length: number, options: WriteZeroesOptions): Promise<boolean> {
    if (!this.limits.capabilities.fastZero || native === undefined) return false;
    if (options.mayUnmap) {
      await this.#punch(offset, length);
      return true;
    }
    if (!this.#zeroRange) return false;
    try {
      await native.fallocate(this.#fd, "zeroRange", offset, length);
      return true;
    } catch (error) {
      if (codeOf(error) !== "ENOTSUP") throw error;
      this.#zeroRange = false;
      return false;
    }
  }

  async #punch(offset: number, length: number): Promise<void> {
    await native?.fallocate(this.#fd, "punchHole", offset, length);
  }

  #failed(error: unknown, op: "write" | "writeZeroes"): BlockIoError {
    const failure = toBlockIoError(error, { device: this.name, op });
    // A write that was never begun (no space, say) leaves the file known; a failed sync does not.
    if (failure.code === "EIO") this.fail(failure);
    return failure;
  }

  #truncated(offset: number, length: number): BlockIoError {
    return new BlockIoError("the file is shorter than it was when it was opened", {
      code: "EIO",
      device: this.name,
      op: "read",
      offset,
      length,
      hint: "Another program cut the file. Close the device and check the file.",
    });
  }
}

function writeTo(fd: number, offset: number, from: Buffer, start: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void => {
      write(fd, from, done, from.length - done, offset + done, (error, count) => {
        if (error !== null) reject(error);
        else if (done + count === from.length) resolve();
        else step(done + count);
      });
    };
    step(start);
  });
}

function limitsOf({ readOnly, holes, sectorSize }: FileFacts): Limits {
  const punch = holes && !readOnly;
  return {
    ...plainLimits,
    logicalBlockSize: sectorSize,
    capabilities: {
      readOnly,
      fua: "native",
      discard: punch ? "native" : "none",
      discardZeroes: punch,
      writeZeroes: punch ? "native" : "emulated",
      fastZero: punch,
      extents: holes,
    },
  };
}

function openDescriptor(path: string, name: string, { readOnly, createSize }: FileDeviceOptions): number {
  try {
    return openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" && createSize !== undefined && !readOnly) return create(path, name, createSize);
    throw new BlockIoError(openReasons[code] ?? `cannot be opened: ${(error as Error).message}`, {
      code: (error as { code?: unknown }).code === "EISDIR" ? "EINVAL" : code,
      device: name,
      op: "open",
      cause: error,
      hint: openHints[code],
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
  EACCES: "Check the file's permissions, or open it read-only.",
  EROFS: "Open it read-only.",
};

function create(path: string, name: string, size: number): number {
  if (!Number.isSafeInteger(size) || size <= 0 || size % SECTOR !== 0) {
    throw new BlockIoError(`size ${size} is not a positive multiple of ${SECTOR} bytes`, {
      code: "EINVAL",
      device: name,
      op: "open",
    });
  }
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    ftruncateSync(fd, size);
    return fd;
  } catch (error) {
    throw toBlockIoError(error, { device: name, op: "open" });
  }
}

function lock(fd: number, name: string, readOnly: boolean): void {
  if (native === undefined) {
    // Reading beside a writer can show torn data but harms nobody's image.
    if (readOnly) return;
    throw new BlockIoError("cannot be locked: the optional package koffi is not installed", {
      code: "ENOTSUP",
      device: name,
      op: "open",
      hint: "Install koffi, or make sure nobody else uses the file and open it with locking off.",
    });
  }
  if (native.tryLock(fd, !readOnly)) return;
  throw new BlockIoError("is in use by another process", {
    code: "EBUSY",
    device: name,
    op: "open",
    hint: "Stop the server or tool that has it open; see who does with: fuser -v FILE",
  });
}

async function preallocate(fd: number, name: string, size: number): Promise<void> {
  if (native === undefined) {
    throw new BlockIoError("cannot preallocate: the optional package koffi is not installed", {
      code: "ENOTSUP",
      device: name,
      op: "open",
      hint: "Install koffi, or leave preallocation off.",
    });
  }
  await native.fallocate(fd, "allocate", 0, size);
}

/** Asks the file system by punching behind the end of the file, where nothing is. */
async function canPunch(fd: number, stat: Stats, size: number): Promise<boolean> {
  if (native === undefined) return false;
  if (stat.isBlockDevice()) return (blockDeviceQueue(stat, "write_zeroes_max_bytes") ?? 0) > 0;
  try {
    await native.fallocate(fd, "punchHole", size, 4096);
    return true;
  } catch {
    return false;
  }
}

function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return "a directory";
  if (stat.isCharacterDevice()) return "a character device";
  return "this kind of file";
}

function sysfs(stat: Stats): string {
  const device = stat.rdev;
  const major = (Math.floor(device / 256) & 0xfff) >>> 0;
  const minor = (device & 0xff) | (Math.floor(device / 2 ** 20) * 256);
  return `/sys/dev/block/${major}:${minor}`;
}

function sysfsNumber(path: string): number | undefined {
  try {
    const value = Number(readFileSync(path, "utf8").trim());
    return Number.isSafeInteger(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

// A partition has no queue of its own: it is the one of the disk above it.
function blockDeviceQueue(stat: Stats, attribute: string): number | undefined {
  const base = sysfs(stat);
  return sysfsNumber(`${base}/queue/${attribute}`) ?? sysfsNumber(`${base}/../queue/${attribute}`);
}

function blockDeviceSize(fd: number, stat: Stats, name: string): number {
  const sectors = sysfsNumber(`${sysfs(stat)}/size`);
  if (sectors !== undefined) return sectors * SECTOR;
  if (native !== undefined) return native.sizeOf(fd);
  throw new BlockIoError("the size of this block device cannot be told", {
    code: "ENOTSUP",
    device: name,
    op: "open",
  });
}

function blockDeviceSectorSize(stat: Stats): 512 | 4096 {
  return blockDeviceQueue(stat, "logical_block_size") === 4096 ? 4096 : 512;
}
