/**
 * A regular file or a block device of the operating system, once it is open; see file-open.ts for how.
 *
 * Invariants:
 *
 * - a failed fsync, or a write with FUA that fails with EIO, puts the device into the failed state: the
 *   kernel marks pages it could not write as clean, so a retry would succeed without the data;
 * - a read that overlaps a write sees each sector before or after it: the page cache promises no such thing, so
 *   neither begins while the pool is busy with the other;
 * - the size is fixed at open; a file cut shorter behind our back gives EIO, never short data.
 */
import { closeSync, fdatasync, fstat, fstatSync, read, readSync, writeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { promisify } from "node:util";
import {
  type Extent,
  type Place,
  type StorageFacts,
  type WriteZeroesOptions,
  done,
} from "../contract/device.ts";
import { type Clock, type Logger, type Scheduler, nextTurn } from "../contract/environment.ts";
import { BlockIoError, codeOf, toBlockIoError } from "../contract/errors.ts";
import { FlushGroup } from "../sync/flush-group.ts";
import { GuardedDevice } from "../contract/guard.ts";
import { type Health, healthy, worstHealth } from "../contract/health.ts";
import { native } from "./native.ts";
import { diskOf } from "./block-device-facts.ts";
import { type FileFacts, limitsOf, openSynced, writeTo } from "./file-io.ts";
import { InFlight } from "./in-flight.ts";
import type { Origin } from "./origin.ts";
import { SyncGate } from "./sync-gate.ts";

// Bytes; the largest request that may be carried out in this thread. While the page cache answers, a hand-over to the
// pool costs more than it saves up to here: at 128 KiB and depth 16 reads gain 28 % and writes 55 %, at 1 MiB and depth 4
// 30 % and 11 % (`dmkit bench peers -d file`). What is larger would hold up the other clients for too long.
const SYNC_LIMIT = 1024 * 1024;
// Some 2 µs each.
const EXTENTS_A_TURN = 256;
// Bytes left in a file system below which files with holes are warned about, and how often to look, milliseconds.
const LOW_SPACE = 256 * 1024 * 1024;
const LOOK_EVERY = 10_000;

// Asked for while nobody may wait for it: a file system that does not answer must not stop this thread.
const fstatLater = promisify(fstat);

/** Made by {@link openFile}. */
export class FileDevice extends GuardedDevice {
  readonly path: string;
  readonly origin: Origin;
  readonly #fd: number;
  readonly #flushes: FlushGroup;
  /** Requests that changed the file and are over; those that failed may have changed part of it. */
  #changes = 0;
  /** What the pool is reading and writing. */
  readonly #read: InFlight = new InFlight();
  readonly #written: InFlight = new InFlight();
  readonly #reads: SyncGate;
  readonly #writes: SyncGate;
  // Opened with O_DSYNC by the first FUA write: it makes one range stable without flushing the whole file.
  // Negative where that is not possible.
  #syncedFd: number | undefined;
  readonly #isRegular: boolean;
  /** Whether it has a lock. */
  readonly locks: boolean;
  /** The lock is that of readers, although it is open for writing. */
  #isRelaxed = false;
  readonly #scheduler: Scheduler;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #nextLook = Number.NEGATIVE_INFINITY;
  #isLow = false;
  #zeroRange = true;

  constructor(path: string, fd: number, size: number, facts: FileFacts) {
    super(facts.name, size, limitsOf(facts));
    this.path = path;
    this.origin = facts.origin;
    this.#fd = fd;
    this.#flushes = new FlushGroup(
      () => this.#sync(),
      () => this.#changes,
    );
    this.#isRegular = facts.isRegular;
    this.locks = facts.locks;
    this.#clock = facts.environment.clock;
    this.#logger = facts.environment.logger;
    this.#scheduler = facts.environment.scheduler;
    this.#reads = new SyncGate(facts.environment.clock);
    this.#writes = new SyncGate(facts.environment.clock);
  }

  places(offset: number, length: number): readonly Place[] {
    return [{ on: this.origin.name, offset: this.origin.offset + offset, length }];
  }

  /** Takes the shared lock of readers; false: somebody holds the one for writing. */
  lockShared(): boolean {
    return native()?.tryLock(this.#fd, false) ?? true;
  }

  /** Others may read it from now on, since nobody writes through this device, until {@link tightenLock}; false: the lock is lost. */
  relaxLock(): boolean {
    if (!this.locks) return true;
    this.#isRelaxed = true;
    return this.lockShared();
  }

  /** Takes the lock for writing again where it was relaxed; false: somebody reads. */
  tightenLock(): boolean {
    if (!this.#isRelaxed) return true;
    this.#isRelaxed = native()?.tryLock(this.#fd, true) === false;
    // One that could not become another is gone.
    if (this.#isRelaxed) this.lockShared();
    return !this.#isRelaxed;
  }

  /** Lets go of the lock, for another device of the same file whose lock guards both. */
  unlock(): void {
    native()?.unlock(this.#fd);
  }

  /** Set when the file was found to be shorter than the device. */
  #short: Health = healthy;

  override health(): Health {
    return worstHealth([super.health(), this.#short, this.spaceHealth()]);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const writing = this.#written.overlapping(offset, into.length);
    if (writing !== undefined) return writing.then(() => this.doRead(offset, into));
    let count = 0;
    if (into.length <= SYNC_LIMIT && this.#reads.enter()) {
      count = readSync(this.#fd, into, 0, into.length, offset);
      this.#reads.leave(into.length);
      if (count === into.length) return done;
    }
    return this.#read.track(offset, into.length, this.#readFrom(offset, into, count));
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const reading = this.#read.overlapping(offset, from.length);
    if (reading !== undefined) return reading.then(() => this.doWrite(offset, from, fua));
    if (fua) return this.#written.track(offset, from.length, this.#writeSynced(offset, from));
    let count = 0;
    if (from.length <= SYNC_LIMIT && this.#writes.enter()) {
      try {
        count = writeSync(this.#fd, from, 0, from.length, offset);
      } catch (error) {
        this.#changed();
        throw error;
      }
      this.#writes.leave(from.length);
      if (count === from.length) {
        this.#changed();
        return done;
      }
    }
    const writing = writeTo(this.#fd, offset, from, count).finally(this.#changed);
    return this.#written.track(offset, from.length, writing);
  }

  protected override doFlush(): Promise<void> {
    if (this.#isRegular && this.#clock.now() >= this.#nextLook) void this.#lookForSpace();
    return this.#flushes.flush();
  }

  /** Warns before writes begin to fail. */
  async #lookForSpace(): Promise<void> {
    this.#nextLook = this.#clock.now() + LOOK_EVERY;
    const { free = Infinity, unallocated = 0 } = (await this.storage())[0] ?? {};
    const isLow = free < Math.min(LOW_SPACE, unallocated);
    if (isLow && !this.#isLow) {
      this.#logger.log("warn", "the file has holes, and its file system has little space left", {
        device: this.name,
        free,
        unallocated,
      });
    }
    this.#isLow = isLow;
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    if (this.limits.capabilities.discard !== "native") return;
    await this.#punch(offset, length);
    this.#changed();
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    const zeroed = await this.#zero(offset, length, options);
    this.#changed();
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
    if (options.fua) await this.#syncOrFail("writeZeroes");
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const calls = native();
    if (calls === undefined || !this.limits.capabilities.extents) {
      yield { offset, length, kind: "data" };
      return;
    }
    if (this.#isRegular && fstatSync(this.#fd).size < this.size) throw this.#truncated(offset, length);
    const block = this.limits.logicalBlockSize;
    const end = offset + length;
    let found = 0;
    for (let at = offset; at < end; ) {
      // Everything here is synchronous: a file of many small holes must not hold up everybody else.
      found += 1;
      if (found % EXTENTS_A_TURN === 0) await nextTurn(this.#scheduler);
      // Rounded so that a block that holds any data counts as data.
      const start = calls.seekData(this.#fd, at) ?? end;
      const data = Math.min(end, Math.max(at, Math.floor(start / block) * block));
      if (data > at) yield { offset: at, length: data - at, kind: "hole" };
      if (data >= end) return;
      const after = calls.seekHole(this.#fd, Math.max(start, data)) ?? end;
      const hole = Math.min(end, Math.max(data + block, Math.ceil(after / block) * block));
      yield { offset: data, length: hole - data, kind: "data" };
      at = hole;
    }
  }

  async storage(): Promise<readonly StorageFacts[]> {
    try {
      const stat = await fstatLater(this.#fd);
      const disk = await diskOf(stat);
      const unallocated = this.#isRegular ? Math.max(0, this.size - stat.blocks * 512) : 0;
      if (unallocated === 0) return [disk];
      const { bavail, bsize } = await statfs(this.path);
      return [{ ...disk, unallocated, free: bavail * bsize }];
    } catch {
      // Closed, or the file system does not answer: nothing is known.
      return [];
    }
  }

  protected override async doClose(): Promise<void> {
    if (this.#syncedFd !== undefined && this.#syncedFd >= 0) closeSync(this.#syncedFd);
    closeSync(this.#fd);
  }

  // Bound once: the hot path hands it to `then` without making a closure.
  readonly #changed = (): void => {
    this.#changes += 1;
  };

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
    this.#syncedFd ??= openSynced(this.#fd);
    if (this.#syncedFd < 0) {
      await writeTo(this.#fd, offset, from, 0);
      this.#changed();
      await this.#syncOrFail("write");
      return;
    }
    try {
      await writeTo(this.#syncedFd, offset, from, 0);
      this.#changed();
    } catch (error) {
      // Only this write is in doubt, and it was not acknowledged: what failed before is still reported to the
      // other descriptor by its next fsync. So running out of space is not the end; a failing disk is.
      const failure = toBlockIoError(error, { device: this.name, op: "write" });
      if (failure.code === "EIO") this.fail(failure);
      throw failure;
    }
  }

  async #syncOrFail(op: "write" | "writeZeroes"): Promise<void> {
    try {
      await this.#flushes.flush();
      // A flush that failed meanwhile has used up the error that this one should have met.
      if (this.failure !== undefined) throw this.failure;
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.name, op });
      this.fail(failure);
      throw failure;
    }
  }

  async #sync(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      fdatasync(this.#fd, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  /** Whether the range was zeroed by the file system; false: it cannot, and nothing was changed. */
  async #zero(offset: number, length: number, options: WriteZeroesOptions): Promise<boolean> {
    const calls = native();
    if (!this.limits.capabilities.fastZero || calls === undefined) return false;
    if (options.mayUnmap) {
      await this.#punch(offset, length);
      return true;
    }
    if (!this.#zeroRange) return false;
    try {
      await calls.fallocate(this.#fd, "zeroRange", offset, length);
      return true;
    } catch (error) {
      if (codeOf(error) !== "ENOTSUP") throw error;
      this.#zeroRange = false;
      return false;
    }
  }

  async #punch(offset: number, length: number): Promise<void> {
    await native()?.fallocate(this.#fd, "punchHole", offset, length);
  }

  #truncated(offset: number, length: number): BlockIoError {
    const error = new BlockIoError("the file is shorter than it was when it was opened", {
      code: "EIO",
      device: this.name,
      op: "read",
      offset,
      length,
      hint: "Another program cut the file. Close the device and check the file.",
    });
    // For good: should the file grow again, what was in it does not come back.
    this.#short = { state: "needs check", why: `${this.name}: ${error.message}`, help: error.hint };
    return error;
  }
}
