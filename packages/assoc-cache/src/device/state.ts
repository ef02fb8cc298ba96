/**
 * What all parts of a running cache share: the two devices, the frames, the locks, and how the devices are doing.
 *
 * Locking. `lock` covers block numbers. Whoever reads a block, or overwrites a valid frame in place, holds it
 * shared; whoever changes where a block lives, or its contents on the source, holds it exclusively. Nobody waits
 * for a lock while holding one (eviction and the cleaner only *try* to get more), so there is no deadlock.
 *
 * Unstable: `cacheUnstable` and `sourceUnstable` say whether anything that was acknowledged, or that a failed write
 * may have left there, may not have been covered by a flush of that device yet.
 */
import type { CacheRules } from "../core/rules.ts";
import {
  BlockIoError,
  type BlockDevice,
  BufferPool,
  type Environment,
  FlushGroup,
  RangeLock,
  SpaceWatch,
  isOutOfSpace,
  toBlockIoError,
  FUA,
} from "@dmkit/block-io";
import { FrameTable, NONE } from "../core/frame-table.ts";
import { History } from "../core/history.ts";
import { Statistics } from "../core/statistics.ts";
import { UnknownSets } from "../core/unknown-sets.ts";
import type { Geometry } from "../format/geometry.ts";
import type { Policy } from "../format/superblock.ts";

export interface StateSetup {
  readonly name: string;
  readonly source: BlockDevice;
  readonly cache: BlockDevice;
  /** Bytes that are cached. */
  readonly size: number;
  readonly geometry: Geometry;
  /** Byte on the cache device where frame 0 starts. */
  readonly dataOffset: number;
  readonly policy: Policy;
  readonly environment: Environment;
  /** Bytes of buffers at most. */
  readonly poolBytes: number;
  /** Block 0 cannot be remembered (historical metadata). */
  readonly skipsBlockZero: boolean;
  readonly rules: CacheRules;
}

// The longest piece that is moved between the devices at once, where blocks are smaller.
const CHUNK = 64 * 1024;

export class CacheState {
  readonly name: string;
  readonly source: BlockDevice;
  readonly cache: BlockDevice;
  readonly size: number;
  readonly blockBytes: number;
  /** Blocks of the source; the last one may be short. */
  readonly blocks: number;
  readonly frames: FrameTable;
  readonly lock: RangeLock = new RangeLock();
  readonly pool: BufferPool;
  readonly statistics: Statistics = new Statistics();
  readonly history: History;
  readonly unknown: UnknownSets;
  readonly environment: Environment;
  readonly rules: CacheRules;
  policy: Policy;
  /** Nothing is put into the cache, written back or accepted. Set before the device is made. */
  readOnly = false;
  cacheUnstable = false;
  sourceUnstable = false;
  /** Why the cache device is not used for new data any more, if it is not. */
  cacheError: BlockIoError | undefined;
  /** Why the last write to the cache device was refused, if there was no space for it. */
  cacheFull: BlockIoError | undefined;
  /** Why the source cannot be trusted to keep anything any more: a flush of it failed, and not without loss. */
  sourceError: BlockIoError | undefined;
  /** Called once, when {@link sourceError} is set. */
  onSourceFailed: (error: BlockIoError) => void = () => {};
  /** Whether the cache device could be filled to its end. */
  readonly space: SpaceWatch;
  readonly #dataOffset: number;
  readonly #skipsBlockZero: boolean;
  readonly #sourceFlushes: FlushGroup;

  constructor(setup: StateSetup) {
    this.name = setup.name;
    this.source = setup.source;
    this.cache = setup.cache;
    this.size = setup.size;
    this.space = new SpaceWatch(setup.name, [setup.cache], setup.environment);
    this.blockBytes = setup.geometry.blockSectors * 512;
    this.blocks = Math.ceil(setup.size / this.blockBytes);
    this.frames = new FrameTable(setup.geometry, () => setup.environment.clock.now());
    this.unknown = new UnknownSets(this.frames);
    const chunk = Math.max(this.blockBytes, CHUNK);
    this.pool = new BufferPool(chunk, Math.max(2, Math.floor(setup.poolBytes / chunk)));
    this.environment = setup.environment;
    this.history = new History(this.statistics, setup.environment.clock.now());
    this.rules = setup.rules;
    this.policy = setup.policy;
    this.#dataOffset = setup.dataOffset;
    this.#skipsBlockZero = setup.skipsBlockZero;
    this.#sourceFlushes = new FlushGroup(() => this.#flushSourceNow());
  }

  /** What was asked for so far does not count any more. */
  clearStatistics(): void {
    this.statistics.clear();
    this.history.clear();
  }

  /** Whether blocks may be put into the cache by reads. */
  get insertsReads(): boolean {
    if (this.readOnly) return false;
    return this.cacheError === undefined && this.policy !== "pass-through" && this.policy !== "cleaner";
  }

  /** Whether writes go to the cache first. */
  get writesBack(): boolean {
    return this.policy === "write-back" && this.cacheError === undefined;
  }

  /** Byte on the cache device. */
  frameOffset(frame: number): number {
    return this.#dataOffset + frame * this.blockBytes;
  }

  /** Bytes of `count` blocks from `block` on, at the end of the source fewer than whole blocks. */
  bytesOf(block: number, count = 1): number {
    return Math.min(count * this.blockBytes, this.size - block * this.blockBytes);
  }

  /** The frame to serve `block` from, or NONE. Of a broken cache only what nobody else has: dirty blocks. */
  usableFrame(block: number): number {
    const frame = this.frames.find(block);
    if (frame === NONE) return NONE;
    const usable = this.cacheError === undefined ? this.frames.isValid(frame) : this.frames.isDirty(frame);
    return usable ? frame : NONE;
  }

  /** {@link usableFrame} for `count` blocks. */
  usableFrames(first: number, count: number): number[] {
    return Array.from({ length: count }, (_, index) => this.usableFrame(first + index));
  }

  /** All frames bound to blocks of the range; looks at the fewer of blocks and frames. */
  boundFrames(first: number, count: number): number[] {
    const { frames } = this;
    const found: number[] = [];
    if (frames.bound === 0) return found;
    if (count <= frames.geometry.frames) {
      for (let block = first; block < first + count; block += 1) {
        const frame = frames.find(block);
        if (frame !== NONE) found.push(frame);
      }
      return found;
    }
    for (let frame = 0; frame < frames.geometry.frames; frame += 1) {
      if (frames.stateOf(frame) === 0) continue;
      const block = frames.blockOf(frame);
      if (block >= first && block - first < count) found.push(frame);
    }
    return found;
  }

  /**
   * A frame for a block that has none, evicting the least recently used clean one if need be; NONE if all are
   * dirty, or busy. The caller holds the block exclusively.
   */
  allocate(block: number): number {
    if (this.cacheError !== undefined || (block === 0 && this.#skipsBlockZero)) return NONE;
    const { frames } = this;
    const free = frames.freeFrame(block);
    if (free !== NONE) {
      frames.bind(free, block);
      return free;
    }
    let victim = frames.oldestEvictable(block);
    for (let tries = 0; victim !== NONE && tries < 8; tries += 1) {
      // Somebody may be reading the victim, or be about to: those have locked its block.
      if (this.rules.mayEvict(this.#isUsed(frames.blockOf(victim)))) {
        frames.release(victim);
        frames.bind(victim, block);
        this.statistics.replacements += 1;
        return victim;
      }
      victim = frames.nextEvictable(victim);
    }
    return NONE;
  }

  /** Whether somebody has locked the block, or waits for it. */
  #isUsed(block: number): boolean {
    const grant = this.lock.tryAcquire(block, 1, true);
    if (grant === undefined) return true;
    this.lock.release(grant);
    return false;
  }

  /** The cache device failed a write or a flush: it gets nothing new from now on. */
  cacheFailed(error: unknown): BlockIoError {
    const failure = toBlockIoError(error, { device: this.cache.name });
    this.statistics.cacheErrors += 1;
    if (this.cacheError === undefined) {
      this.cacheError = failure;
      this.environment.logger.log("error", `${this.name}: the cache device failed, going on without it`, {
        cause: failure.message,
        dirty: this.frames.dirty,
      });
    }
    return failure;
  }

  /**
   * The cache device did not take a write. For want of space that is no end: what was to be written is not in the
   * cache, and the next write may fit. Anything else is {@link cacheFailed}.
   */
  cacheRefused(error: unknown): BlockIoError {
    if (!isOutOfSpace(error)) return this.cacheFailed(error);
    // Any part of it may be there, and vanish in a crash.
    this.cacheUnstable = true;
    this.statistics.cacheErrors += 1;
    if (this.cacheFull === undefined) {
      this.environment.logger.log(
        "warn",
        `${this.name}: no space is left below the cache device, going past it`,
        {
          cause: error.message,
        },
      );
    }
    this.cacheFull = error;
    return error;
  }

  /** The error of a request for which only the broken cache device would do. */
  unavailable(op: "read" | "write" | "flush" | "discard", offset = 0, length = 0): BlockIoError {
    if (this.cacheError === undefined && this.cacheFull !== undefined) {
      return new BlockIoError(`no space is left below the cache device: ${this.cacheFull.message}`, {
        code: "ENOSPC",
        device: this.name,
        op,
        offset,
        length,
        cause: this.cacheFull,
        lossless: true,
        hint: "Make room in the file system below it. Nothing that was written before is lost.",
      });
    }
    const why = this.cacheError === undefined ? "" : `: ${this.cacheError.message}`;
    return new BlockIoError(`the cache device failed and holds the only copy of this data${why}`, {
      code: "EIO",
      device: this.name,
      op,
      offset,
      length,
      cause: this.cacheError,
      hint: "Repair or reconnect the cache device and open the cache again.",
    });
  }

  /** The error of a request that must not go on while the cache device lists older data as dirty. */
  outdated(op: "read" | "write" | "flush" | "discard"): BlockIoError {
    return new BlockIoError("the cache device failed while it listed older data as dirty", {
      code: "EIO",
      device: this.name,
      op,
      cause: this.cacheError,
      hint: "Repair or reconnect the cache device and open the cache again; without it the source has everything, so never use that device as this cache again.",
    });
  }

  /** Writes to the source. */
  async writeSource(offset: number, from: Buffer, fua: boolean): Promise<void> {
    try {
      await this.source.write(offset, from, fua ? FUA : undefined);
      if (!fua) this.sourceUnstable = true;
    } catch (error) {
      // Of a write that failed any part may be there, and vanish in a crash: the witness must not be taken of that.
      this.sourceUnstable = true;
      throw error;
    }
  }

  /** Discards or zeroes a range of the source. */
  async changeSource(change: (source: BlockDevice) => Promise<void>): Promise<void> {
    try {
      await change(this.source);
    } finally {
      this.sourceUnstable = true;
    }
  }

  /** Makes stable what the source has acknowledged, and what is left of writes that failed; nothing if there is nothing. */
  flushSource(): Promise<void> {
    return this.#sourceFlushes.flush();
  }

  async #flushSourceNow(): Promise<void> {
    if (this.sourceError !== undefined) throw this.sourceError;
    if (!this.sourceUnstable) return;
    this.sourceUnstable = false;
    try {
      await this.source.flush();
    } catch (error) {
      this.sourceUnstable = true;
      const failure = toBlockIoError(error, { device: this.source.name, op: "flush" });
      if (failure.lossless) throw failure;
      this.sourceError = failure;
      this.onSourceFailed(failure);
      throw failure;
    }
  }
}
