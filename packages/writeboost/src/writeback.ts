/**
 * The writeback daemon: copies the oldest segments to the backing device, in batches, sorted by address.
 *
 * Invariants:
 *
 * - only segments that are durable on the cache device are written back, in id order, without gaps;
 * - a block is left out only when a newer copy of it is durable on the cache device: until then the old copy
 *   is what a crash would leave, and its slot is about to be used again;
 * - segments count as clean only after a flush of the backing device that followed all their writes;
 * - after an error nothing counts: the whole batch is written again.
 */
import {
  type BlockDevice,
  BlockIoError,
  BufferPool,
  ByteAccess,
  type Environment,
  type Timer,
  toBlockIoError,
} from "@dmkit/block-io";
import { type Entry, LARGEST_WRITE, type PlannedWrite, writebackRules } from "./core/writeback-plan.ts";
import { BLOCK, slotOf, slotStart } from "./format/geometry.ts";
import { checksumHolds, dataStart, decodeSegmentHeader, segmentSize } from "./format/segment.ts";
import type { SegmentLog } from "./segment-log.ts";

// Bytes of segments in RAM at once, and writes in flight to the backing device.
const LARGEST_BATCH = 64 * 1024 * 1024;
const DEPTH = 32;
const READ_DEPTH = 8;
const RETRY_AFTER = 1000;
// How long segments wait in the background for others to be written back together with, milliseconds.
const LINGER = 500;
// Bytes of segments written, or barriers asked for, within that time from which on clients are busy: writing back
// can wait. Where the devices share a disk, a flush of the backing device delays many barriers by milliseconds.
const BUSY = 16 * 1024 * 1024;
const BUSY_BARRIERS = 50;

/** What decides whether and how much is written back. */
export interface WritebackPolicy {
  readonly allowed: () => boolean;
  /** Whether it should go on until nothing is left. */
  readonly hurry: () => boolean;
  /** Segments in a batch. */
  readonly batch: () => number;
  /** How many barriers clients have asked for, ever. */
  readonly barriers: () => number;
  /**
   * Why the device has failed, if it has. After a flush of the backing device that failed, one that succeeds says
   * nothing about what was written before: nothing may count as written back any more.
   */
  readonly failure: () => BlockIoError | undefined;
}

export class Writeback {
  readonly #log: SegmentLog;
  readonly #backing: BlockDevice;
  readonly #access: ByteAccess;
  readonly #policy: WritebackPolicy;
  readonly #environment: Environment;
  // Memory of the batch, used again for the next: garbage of this size would set off a collection every 100 ms.
  readonly #segments: BufferPool;
  readonly #joined: BufferPool = new BufferPool(LARGEST_WRITE, DEPTH);
  /** Called with the error when a flush of the backing device failed. */
  readonly #flushFailed: (error: BlockIoError) => void;
  /** Somebody waits until everything is written back up to here. */
  #wanted = 0;
  #running: Promise<void> | undefined;
  #retry: Timer | undefined;
  #linger: Timer | undefined;
  /** The segments there are have waited long enough. */
  #lingered = false;
  /** The newest segment and the barriers when the linger timer last fired, and whether clients were busy until then. */
  #openedBefore: number;
  #barriersBefore = 0;
  #wasBusy = false;
  #stopped = false;
  /** Attempts that failed, and why the last one did. */
  failures = 0;
  lastError: BlockIoError | undefined;

  constructor(
    log: SegmentLog,
    backing: BlockDevice,
    policy: WritebackPolicy,
    environment: Environment,
    flushFailed: (error: BlockIoError) => void,
  ) {
    this.#log = log;
    this.#openedBefore = log.opened;
    this.#backing = backing;
    this.#access = new ByteAccess(backing);
    this.#segments = new BufferPool(log.geometry.slotSize, largestBatch(log));
    this.#policy = policy;
    this.#environment = environment;
    this.#flushFailed = flushFailed;
  }

  /** Segments in a batch now, bounded by memory. */
  get batch(): number {
    return Math.min(this.#policy.batch(), largestBatch(this.#log));
  }

  /** Starts if there is something to do and it is allowed or wanted. */
  kick(): void {
    if (this.#running !== undefined) return;
    if (!this.#due()) return this.#wait();
    this.#cancelTimers();
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      // What became due while the last batch was finishing.
      if (this.#retry === undefined) this.kick();
    });
  }

  /** Waits until segment `id` is written back. Throws the error of an attempt that failed meanwhile. */
  async reach(id: number): Promise<void> {
    const log = this.#log;
    const { failures } = this;
    this.#wanted = Math.max(this.#wanted, id);
    while (log.lastWriteback < id) {
      log.check();
      this.#checkFailure();
      this.kick();
      await log.changed.wait();
      if (this.failures !== failures && log.lastWriteback < id) throw this.lastError;
    }
  }

  /** Lets the batch that is running come to its end and starts no other. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTimers();
    await this.#running;
    this.#trim();
  }

  start(): void {
    this.#stopped = false;
    this.kick();
  }

  #due(): boolean {
    const { lastFlushed, lastWriteback, dead, geometry, opened } = this.#log;
    if (this.#stopped || dead !== undefined || lastWriteback >= lastFlushed) return false;
    if (this.#policy.failure() !== undefined) return false;
    if (lastWriteback < this.#wanted || this.#policy.hurry()) return true;
    // Each batch costs a flush of both devices, whatever its size.
    const enough = this.#lingered || lastFlushed - lastWriteback >= this.batch;
    if (enough && this.#policy.allowed() && !this.#shouldYield()) return true;
    return lastWriteback + geometry.slots - opened < writebackRules.reserve(this.batch, geometry.slots);
  }

  /** While clients write or flush much, they have the devices to themselves, up to half of the ring. */
  #shouldYield(): boolean {
    const { opened, lastWriteback, geometry } = this.#log;
    return (this.#wasBusy || this.#isBusy()) && opened - lastWriteback < geometry.slots / 2;
  }

  #isBusy(): boolean {
    if (this.#policy.barriers() - this.#barriersBefore > BUSY_BARRIERS) return true;
    return (this.#log.opened - this.#openedBefore) * this.#log.geometry.slotSize > BUSY;
  }

  /** Too little to do yet, or too much else: looks again later. */
  #wait(): void {
    const { lastFlushed, lastWriteback, dead } = this.#log;
    if (this.#linger !== undefined || this.#stopped) return;
    if (dead !== undefined || lastWriteback >= lastFlushed || !this.#policy.allowed()) return this.#trim();
    this.#linger = this.#environment.clock.after(LINGER, () => {
      this.#linger = undefined;
      this.#trim();
      this.#lingered = true;
      this.#wasBusy = this.#isBusy();
      this.#openedBefore = this.#log.opened;
      this.#barriersBefore = this.#policy.barriers();
      this.kick();
      if (this.#running === undefined) this.#wait();
    });
  }

  /** There was nothing to do for a while, or there is nothing left: gives the memory of batches back. */
  #trim(): void {
    this.#segments.trim();
    this.#joined.trim();
  }

  #cancelTimers(): void {
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#linger?.cancel();
    this.#linger = undefined;
  }

  async #run(): Promise<void> {
    while (this.#due()) {
      try {
        await this.#writeBatch();
      } catch (error) {
        this.failures += 1;
        this.lastError = toBlockIoError(error, { device: this.#backing.name, op: "write" });
        this.#environment.logger.log("error", "writeback failed; the data stays in the cache", {
          error: this.lastError.message,
        });
        this.#wanted = 0;
        this.#log.changed.notify();
        if (this.#stopped || this.#log.dead !== undefined) return;
        this.#retry = this.#environment.clock.after(RETRY_AFTER, () => {
          this.#retry = undefined;
          this.kick();
        });
        return;
      }
    }
  }

  async #writeBatch(): Promise<void> {
    const log = this.#log;
    // Also makes newer copies durable, so that older ones of the batch can be left out.
    if (log.durable < log.lastFlushed) await log.flushCache();
    const { durable } = log;
    const first = log.lastWriteback + 1;
    const last = Math.min(durable, log.lastWriteback + this.batch);
    if (last < first) return;
    const ids = Array.from({ length: last - first + 1 }, (_, index) => first + index);
    // Even if nothing was written: what a former life wrote may not be durable.
    if (await this.#copy(ids, durable)) await this.flush();
    this.#checkFailure();
    for (const id of ids) log.map.clean(slotOf(log.geometry, id));
    log.lastWriteback = last;
    this.#lingered = false;
    if (this.#wanted <= last) this.#wanted = 0;
    log.changed.notify();
    log.onProgress();
  }

  #checkFailure(): void {
    const failure = this.#policy.failure();
    if (failure !== undefined) throw failure;
  }

  /** Writes what the backing device lacks of these segments; whether that was anything. */
  async #copy(ids: readonly number[], durable: number): Promise<boolean> {
    const entries: Entry[] = [];
    const buffers: Buffer[] = [];
    try {
      await inParallel(ids, READ_DEPTH, async (id) => {
        await this.#collect(id, durable, entries, buffers);
      });
      await inParallel(writebackRules.plan(entries), DEPTH, (write) => this.write(write));
      return entries.length > 0;
    } finally {
      for (const buffer of buffers) this.#segments.release(buffer);
    }
  }

  /** What has to be written of segment `id`. The segment is read, into one of `buffers`, only if there is anything. */
  async #collect(id: number, durable: number, entries: Entry[], buffers: Buffer[]): Promise<void> {
    const { map, geometry, cache, dialect } = this.#log;
    const slot = slotOf(geometry, id);
    const length = map.lengths[slot] as number;
    const bits = new Uint8Array(length);
    let some = false;
    for (let at = 0; at < length; at += 1) {
      bits[at] = this.unsafe(slot * map.blocks + at, durable);
      some ||= bits[at] !== 0;
    }
    if (!some) return;
    const whole = await this.#segments.acquire();
    buffers.push(whole);
    const buffer = whole.subarray(0, segmentSize(length));
    await cache.read(slotStart(geometry, slot), buffer);
    if (decodeSegmentHeader(buffer).id !== id || !checksumHolds(dialect, buffer)) {
      throw new BlockIoError(`segment ${id} is damaged on the cache device`, {
        code: "EIO",
        device: cache.name,
        op: "read",
        offset: slotStart(geometry, slot),
        length: buffer.length,
        hint: "Nothing of it is written back. Check the cache device offline.",
      });
    }
    for (let at = 0; at < length; at += 1) {
      if (bits[at] === 0) continue;
      const data = buffer.subarray(dataStart(at), dataStart(at) + BLOCK);
      entries.push({ block: map.keys[slot * map.blocks + at] as number, id, bits: bits[at] as number, data });
    }
  }

  /** The sectors of a cache block that neither the backing device nor a durable newer copy has. */
  private unsafe(index: number, durable: number): number {
    const { map } = this.#log;
    const dirty = map.dirty[index] as number;
    if (dirty === 0) return 0;
    const newest = map.find(map.keys[index] as number);
    if (newest === index || newest < 0 || this.#log.idOfBlock(newest) > durable) return dirty;
    return dirty & ~(map.valid[newest] as number);
  }

  private async write({ offset, length, pieces }: PlannedWrite): Promise<void> {
    const [only, second] = pieces;
    if (only !== undefined && second === undefined) return this.#access.write(offset, only);
    const joined = await this.#joined.acquire();
    try {
      let end = 0;
      for (const piece of pieces) end += piece.copy(joined, end);
      await this.#access.write(offset, joined.subarray(0, length));
    } finally {
      this.#joined.release(joined);
    }
  }

  private async flush(): Promise<void> {
    try {
      await this.#backing.flush();
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.#backing.name, op: "flush" });
      this.#flushFailed(failure);
      throw failure;
    }
  }
}

function largestBatch({ geometry }: SegmentLog): number {
  return Math.max(1, Math.floor(LARGEST_BATCH / geometry.slotSize));
}

/** Runs `work` on all items, at most `width` at a time; waits for all that were begun before it throws. */
export async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next] as T;
      next += 1;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = Array.from({ length: Math.min(width, items.length) }, lane);
  for (const result of await Promise.allSettled(lanes)) if (result.status === "rejected") throw result.reason;
}
