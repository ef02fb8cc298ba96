/**
 * The writeback daemon: decides when the oldest segments are copied to the backing device, and how many.
 *
 * Invariants:
 *
 * - only segments that are durable on the cache device are written back, in id order, without gaps;
 * - segments count as clean only after a flush of the backing device that followed all their writes, and when what
 *   the backing device does not take of them is durable in a newer segment (bad-blocks.ts);
 * - a segment that is damaged or cannot be read stays, and with it all later ones in the log. Where that is asked for,
 *   what later ones hold is written all the same, and their blocks are clean; the error follows when there is no more;
 * - after any other error nothing counts: the whole batch is written again.
 */
import {
  type BlockDevice,
  type BlockIoError,
  type Environment,
  type Pace,
  type Timer,
  toBlockIoError,
} from "@dmkit/block-io";
import { BadBlocks, type Relog } from "./bad-blocks.ts";
import { BusyClients } from "./busy-clients.ts";
import { slotOf } from "../../format/geometry.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import { BatchCopier, brokenError, largestBatch } from "./writeback-batch.ts";

const RETRY_AFTER = 1000;
// How long segments wait in the background for others to be written back together with, milliseconds.
const LINGER = 500;
// Batches that make room in a full ring of blocks which the backing device does not take, without any room coming of it.
const MOST_FRUITLESS = 4;

/** What decides whether and how much is written back. */
export interface WritebackPolicy {
  readonly allowed: () => boolean;
  /** Whether it should go on until nothing is left. */
  readonly hurry: () => boolean;
  /** Whether later segments are written back although one before them cannot be read: views of the past lose by it. */
  readonly past: () => boolean;
  /** Segments in a batch. */
  readonly batch: () => number;
  /** How many barriers clients have asked for, ever. */
  readonly barriers: () => number;
  /**
   * Why the device has failed, if it has. After a flush of the backing device that failed, one that succeeds says
   * nothing about what was written before: nothing may count as written back any more.
   */
  readonly failure: () => BlockIoError | undefined;
  readonly relog: Relog;
  /** Of what nobody waits for. */
  readonly pace: Pace;
}

export class Writeback {
  readonly #log: SegmentLog;
  readonly #backing: BlockDevice;
  readonly batches: BatchCopier;
  /** Blocks that the backing device does not take: only the log has them. */
  readonly bad: BadBlocks;
  readonly #clients: BusyClients;
  readonly #policy: WritebackPolicy;
  readonly #environment: Environment;
  /** Called with the error when a flush of the backing device failed, and may have lost what it was to cover. */
  readonly #flushFailed: (error: BlockIoError) => void;
  /** Somebody waits until everything is written back up to here. */
  #wanted = 0;
  #running: Promise<void> | undefined;
  #retry: Timer | undefined;
  #linger: Timer | undefined;
  /** When the pace lets it go on. */
  #later: Timer | undefined;
  /** The segments there are have waited long enough. */
  #lingered = false;
  /** Batches one after the other that made no room, see {@link MOST_FRUITLESS}. */
  #fruitless = 0;
  /** How often the batch has been doubled, to find something that can be written. */
  #doubled = 0;
  #stopped = false;
  /** Segments that cannot be read, and how far others have been written past them. */
  readonly #broken: Map<number, BlockIoError> = new Map();
  #past = 0;
  /** The error of these, as it was thrown last. */
  #unread: BlockIoError | undefined;
  /** Attempts that failed, and why the last one did. */
  failures = 0;
  /** Those of them after which what the backing device shows need not be what it keeps. */
  doubts = 0;
  #lastError: BlockIoError | undefined;
  /** What was logged last, so that trying again every second does not fill the log. */
  #told: string | undefined;

  constructor(
    log: SegmentLog,
    backing: BlockDevice,
    policy: WritebackPolicy,
    environment: Environment,
    flushFailed: (error: BlockIoError) => void,
  ) {
    this.#log = log;
    this.#clients = new BusyClients(log, policy.barriers);
    this.#backing = backing;
    this.batches = new BatchCopier(log, backing);
    this.bad = new BadBlocks(log, policy.relog, environment);
    this.#policy = policy;
    this.#environment = environment;
    this.#flushFailed = flushFailed;
  }

  /** Segments in a batch now, bounded by memory. */
  get batch(): number {
    return Math.min(this.#policy.batch(), largestBatch(this.#log));
  }

  /** Why the last attempt failed, or the last block was refused. */
  get lastError(): BlockIoError | undefined {
    return this.#lastError ?? this.bad.lastError;
  }

  /** Why the last attempt failed, while it is tried again. */
  get trouble(): BlockIoError | undefined {
    return this.#retry === undefined && this.#running === undefined ? undefined : this.#lastError;
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

  /** Waits until segment `id`, which is closed, is written back. Throws the error of an attempt that failed meanwhile. */
  async reach(id: number): Promise<void> {
    const log = this.#log;
    const { failures } = this;
    this.#wanted = Math.max(this.#wanted, id);
    // There may be no space for it on the cache device: then nothing would ever come.
    await log.flushed(id);
    while (log.lastWriteback < id) {
      log.check();
      this.#checkFailure();
      this.kick();
      await log.changed.wait();
      if (this.failures !== failures && log.lastWriteback < id) throw this.lastError;
    }
  }

  /** Does something while no batch is running. */
  async between<T>(work: () => Promise<T>): Promise<T> {
    while (this.#running !== undefined) await this.#running;
    this.#cancelTimers();
    const working = work();
    this.#running = Promise.allSettled([working]).then(() => {
      this.#running = undefined;
      this.kick();
    });
    return working;
  }

  /** Lets the batch that is running come to its end and starts no other. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTimers();
    await this.#running;
    this.batches.trim();
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
    if (this.bad.size > 0 && this.bad.rests(this.batch)) return false;
    if (enough && this.#policy.allowed() && !this.#clients.comeFirst && !this.#rests()) return true;
    return lastWriteback + geometry.slots - opened < this.#log.rules.reserve(this.batch, geometry.slots);
  }

  /** The pace does not let it go on yet; then it looks again by itself. */
  #rests(): boolean {
    if (this.#later !== undefined) return true;
    const { wait } = this.#policy.pace;
    if (wait === 0) return false;
    this.#later = this.#environment.clock.after(wait, () => {
      this.#later = undefined;
      this.kick();
    });
    return true;
  }

  /** The pace may be another. */
  repace(): void {
    this.#later?.cancel();
    this.#later = undefined;
    this.kick();
  }

  /** Too little to do yet, or too much else: looks again later. */
  #wait(): void {
    const { lastFlushed, lastWriteback, dead } = this.#log;
    if (this.#linger !== undefined || this.#stopped) return;
    if (dead !== undefined || lastWriteback >= lastFlushed || !this.#policy.allowed())
      return this.batches.trim();
    this.#linger = this.#environment.clock.after(LINGER, () => {
      this.#linger = undefined;
      this.batches.trim();
      this.#lingered = true;
      this.#clients.look();
      this.kick();
      if (this.#running === undefined) this.#wait();
    });
  }

  #cancelTimers(): void {
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#linger?.cancel();
    this.#linger = undefined;
    this.#later?.cancel();
    this.#later = undefined;
  }

  async #run(): Promise<void> {
    while (this.#due()) {
      try {
        await this.#writeBatch();
      } catch (error) {
        this.#failed(toBlockIoError(error, { device: this.#backing.name, op: "write" }));
        if (this.#stopped || this.#log.dead !== undefined) return;
        this.#retry = this.#environment.clock.after(RETRY_AFTER, () => {
          this.#retry = undefined;
          this.kick();
        });
        return;
      }
    }
  }

  #failed(error: BlockIoError): void {
    this.failures += 1;
    if (error !== this.#unread) this.doubts += 1;
    this.#broken.clear();
    this.#past = 0;
    this.#fruitless = 0;
    this.#doubled = Math.min(10, this.#doubled + 1);
    this.#lastError = error;
    if (this.#told !== error.message) {
      this.#environment.logger.log("error", "writeback failed; the data stays in the cache", {
        error: error.message,
      });
    }
    this.#told = error.message;
    this.#wanted = 0;
    this.#log.changed.notify();
  }

  async #writeBatch(): Promise<void> {
    const log = this.#log;
    // Also makes newer copies durable, so that older ones of the batch can be left out.
    if (log.durable < log.lastFlushed) await log.flushCache();
    const { durable } = log;
    const first = Math.max(log.lastWriteback, this.#past) + 1;
    const last = Math.min(durable, first - 1 + this.#batchNow());
    const past = this.#policy.past();
    if (this.#broken.size > 0 && (last < first || !past)) throw (this.#unread = brokenError(this.#broken));
    if (last < first) return;
    const ids = Array.from({ length: last - first + 1 }, (_, index) => first + index);
    const before = this.batches.written;
    const result = await this.batches.copy(ids, durable, past);
    this.#policy.pace.did(this.batches.written - before);
    for (const [id, error] of result.broken) this.#broken.set(id, error);
    try {
      // Even if nothing was written: what a former life wrote may not be durable.
      if (log.rules.flushesBatch(result.wrote)) await this.#flush();
      this.#checkFailure();
      this.bad.wrote(result.blocks);
      if (result.refused.length > 0) await this.bad.keep(result, (id) => this.#release(id, past));
    } finally {
      result.release();
    }
    this.#release(last, past);
    if (this.#broken.size > 0) {
      if (!past) throw (this.#unread = brokenError(this.#broken));
      this.#past = last;
    }
    this.#lingered = false;
    this.#clients.waited();
    this.#told = undefined;
    if (result.refused.length === 0) this.#lastError = undefined;
    if (result.refused.length > 0 && log.lastWriteback < log.neededWriteback) {
      this.#fruitless += 1;
      this.#doubled += 1;
    } else {
      this.#fruitless = 0;
      this.#doubled = 0;
    }
    if (this.#wanted <= log.lastWriteback) this.#wanted = 0;
    if (this.#fruitless >= MOST_FRUITLESS) throw result.error;
    log.onProgress();
  }

  /** Bad blocks of several segments go into one: with more at once, room comes of it. */
  #batchNow(): number {
    if (this.bad.size === 0 && this.#doubled === 0) return this.#paced(this.batch);
    return Math.min(largestBatch(this.#log), Math.max(2, this.batch) * 2 ** this.#doubled);
  }

  /** Under a rate, what it allows in a second. */
  #paced(segments: number): number {
    const { rate } = this.#policy.pace;
    if (rate === 0 || this.#policy.hurry() || this.#log.lastWriteback < this.#wanted) return segments;
    return Math.min(segments, Math.max(1, Math.floor(rate / this.#log.geometry.slotSize)));
  }

  /** Segments up to `id` are safe without the log, but for those that cannot be read. */
  #release(id: number, past: boolean): void {
    const { map, geometry, lastWriteback } = this.#log;
    const safe = Math.min(id, ...[...this.#broken.keys()].map((broken) => broken - 1));
    const end = past ? id : safe;
    for (let one = Math.max(lastWriteback, this.#past) + 1; one <= end; one += 1)
      if (!this.#broken.has(one)) map.clean(slotOf(geometry, one));
    if (safe > lastWriteback) this.#log.writtenBack(safe);
  }

  #checkFailure(): void {
    const failure = this.#policy.failure();
    if (failure !== undefined) throw failure;
  }

  async #flush(): Promise<void> {
    try {
      await this.#backing.flush();
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.#backing.name, op: "flush" });
      if (!failure.lossless) this.#flushFailed(failure);
      throw failure;
    }
  }
}
