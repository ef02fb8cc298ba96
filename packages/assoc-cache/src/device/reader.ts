/**
 * Reads: from the cache what is in it, from the source the rest, which is then put into the cache in the
 * background.
 *
 *      hit           under a shared lock, straight into the caller's buffer
 *      miss          under an exclusive lock: whole blocks into a buffer of ours; the caller is answered; the
 *                    lock is kept until the blocks are in their frames, so others wait for them there. Where the
 *                    source does not give all of them, just what was asked for, and nothing is cached
 *      not cached    (bypassed, or the policy says so) under a shared lock, straight from the source
 */
import { Popular, type RangeGrant, Streams, done, isOfPlace, join } from "@dmkit/block-io";
import { NONE, states } from "../core/frame-table.ts";
import { type Run, runsOf } from "../core/runs.ts";
import type { CacheState } from "./state.ts";

/** What a request wants, in bytes. */
interface Wanted {
  readonly offset: number;
  readonly into: Buffer;
  /** First block. */
  readonly first: number;
  /** Blocks. */
  readonly count: number;
  /** It belongs to a stream that goes past the cache. */
  readonly isStream: boolean;
  /** What is missing may be put into the cache. */
  readonly promotes: boolean;
}

/** Blocks fetched from the source that are to be put into the cache. */
interface Fetched {
  readonly block: number;
  count: number;
  /** Of the pool; only its first bytes are in use. */
  readonly buffer: Buffer;
}

export class Reader {
  readonly #state: CacheState;
  readonly #streams: Streams = new Streams(0);
  readonly #popular: Popular;
  readonly #setFull: (block: number) => void;

  /** @param setFull told of a block that found no frame. */
  constructor(state: CacheState, setFull: (block: number) => void) {
    this.#state = state;
    this.#popular = new Popular(state.frames.geometry.frames);
    this.#setFull = setFull;
  }

  /** @param cutoff bytes. @param after misses of a block. */
  tune(cutoff: number, after: number): void {
    this.#streams.cutoff = cutoff;
    this.#popular.after = after;
  }

  read(offset: number, into: Buffer): Promise<void> {
    const { blockBytes, statistics, frames, lock, cache } = this.#state;
    const first = Math.floor(offset / blockBytes);
    const count = Math.floor((offset + into.length - 1) / blockBytes) - first + 1;
    const isStream = this.#streams.bypasses(offset, into.length);
    statistics.reads += count;
    if (count === 1) {
      const frame = this.#state.usableFrame(first);
      if (frame !== NONE) {
        const grant = lock.tryAcquire(first, 1, false);
        if (grant !== undefined) {
          frames.use(frame);
          statistics.readHits += 1;
          const result = cache.read(this.#state.frameOffset(frame) + offset - first * blockBytes, into);
          if (result === done) {
            lock.release(grant);
            return done;
          }
          return this.#finishHit(result, grant, { offset, into, first }, frame);
        }
      }
    }
    const promotes = !isStream && this.#promotes(first, count);
    return this.#readSlowly({ offset, into, first, count, isStream, promotes });
  }

  /** Counts the blocks that are missing; true if one of them has been missed often enough. */
  #promotes(first: number, count: number): boolean {
    if (this.#popular.after <= 1 || !this.#state.insertsReads) return this.#popular.after === 1;
    let some = false;
    for (let block = first; block < first + count; block += 1) {
      if (this.#state.usableFrame(block) === NONE && this.#popular.missed(block)) some = true;
    }
    return some;
  }

  async #finishHit(
    result: Promise<void>,
    grant: RangeGrant,
    wanted: Pick<Wanted, "offset" | "into" | "first">,
    frame: number,
  ): Promise<void> {
    try {
      await result;
    } catch (error) {
      await this.#insteadOfCache(error, wanted.offset, wanted.into, wanted.first, [frame]);
    } finally {
      this.#state.lock.release(grant);
    }
  }

  async #readSlowly(wanted: Wanted): Promise<void> {
    const { lock } = this.#state;
    const { first, count } = wanted;
    for (;;) {
      const inserts = this.#fills(wanted);
      const exclusive = inserts && this.#state.rules.fillsAlone;
      const grant = lock.tryAcquire(first, count, exclusive) ?? (await lock.acquire(first, count, exclusive));
      // What was missing may have come while we waited, and the other way round.
      if (!inserts && this.#fills(wanted)) {
        lock.release(grant);
        continue;
      }
      if (inserts) return this.#fetch(wanted, grant);
      try {
        this.#countHits(wanted);
        await this.#transfer(wanted);
      } finally {
        lock.release(grant);
      }
      return;
    }
  }

  /** Whether a read is to put blocks into the cache. */
  #fills({ first, count, promotes }: Wanted): boolean {
    if (!promotes || !this.#state.insertsReads) return false;
    for (let block = first; block < first + count; block += 1) {
      if (this.#state.usableFrame(block) === NONE) return true;
    }
    return false;
  }

  #countHits({ first, count, isStream }: Wanted): void {
    const { statistics, frames } = this.#state;
    for (let block = first; block < first + count; block += 1) {
      const frame = this.#state.usableFrame(block);
      if (frame !== NONE) {
        frames.use(frame);
        statistics.readHits += 1;
      } else if (isStream) statistics.bypassed += 1;
    }
  }

  /** Without putting anything into the cache. */
  #transfer(wanted: Wanted): Promise<void> {
    const frames = this.#state.usableFrames(wanted.first, wanted.count);
    return join(runsOf(wanted.first, frames).map((run) => this.#transferRun(wanted, run)));
  }

  #transferRun(wanted: Wanted, run: Run): Promise<void> {
    const { source } = this.#state;
    const { offset, into } = this.#part(wanted, run);
    if (run.frame === NONE) return source.read(offset, into);
    return this.#readCached(offset, into, run);
  }

  async #readCached(offset: number, into: Buffer, run: Run): Promise<void> {
    const { blockBytes, cache } = this.#state;
    try {
      await cache.read(this.#state.frameOffset(run.frame) + offset - run.block * blockBytes, into);
    } catch (error) {
      const frames = Array.from({ length: run.count }, (_, index) => run.frame + index);
      await this.#insteadOfCache(error, offset, into, run.block, frames);
    }
  }

  /** The bytes of the request that lie in a run of blocks. */
  #part({ offset, into }: Wanted, run: { block: number; count: number }): { offset: number; into: Buffer } {
    const { blockBytes } = this.#state;
    const start = Math.max(offset, run.block * blockBytes);
    const end = Math.min(offset + into.length, (run.block + run.count) * blockBytes);
    return { offset: start, into: into.subarray(start - offset, end - offset) };
  }

  /** The cache device failed to read: the source will do, unless a block is dirty. */
  async #insteadOfCache(
    error: unknown,
    offset: number,
    into: Buffer,
    block: number,
    inFrames: readonly number[],
  ): Promise<void> {
    const { frames, statistics, source } = this.#state;
    statistics.cacheErrors += 1;
    // Clean now means clean all along: getting clean takes the block's exclusive lock, and we hold it.
    if (inFrames.some((frame) => frames.stateOf(frame) !== states.clean)) throw error;
    await source.read(offset, into);
    void this.#distrust(block, inFrames.length);
  }

  /** Forgets clean blocks that could not be read. Never rejects. */
  async #distrust(first: number, count: number): Promise<void> {
    const { lock, frames } = this.#state;
    const grant = await lock.acquire(first, count, true);
    for (const frame of this.#state.boundFrames(first, count)) {
      if (frames.stateOf(frame) === states.clean && !frames.isBinding(frame)) frames.release(frame);
    }
    lock.release(grant);
  }

  /** Under an exclusive lock, which the insertion that goes on in the background gives back. */
  async #fetch(wanted: Wanted, grant: RangeGrant): Promise<void> {
    const { lock, pool } = this.#state;
    const fetched: Fetched[] = [];
    this.#countHits(wanted);
    try {
      await join(this.#fetchAll(wanted, fetched));
    } catch (error) {
      for (const { buffer } of fetched) pool.release(buffer);
      lock.release(grant);
      throw error;
    }
    void this.#insert(fetched, grant);
  }

  #fetchAll(wanted: Wanted, fetched: Fetched[]): Promise<void>[] {
    const { pool, blockBytes } = this.#state;
    const frames = this.#state.usableFrames(wanted.first, wanted.count);
    const running: Promise<void>[] = [];
    for (const run of runsOf(wanted.first, frames, pool.size / blockBytes)) {
      // With all buffers in use the run is read, but not cached.
      const buffer = run.frame === NONE ? pool.tryAcquire() : undefined;
      if (buffer === undefined) {
        running.push(this.#transferRun(wanted, run));
      } else {
        const one = { block: run.block, count: run.count, buffer };
        fetched.push(one);
        running.push(this.#fetchRun(wanted, run, one));
      }
    }
    return running;
  }

  async #fetchRun(wanted: Wanted, run: Run, fetched: Fetched): Promise<void> {
    const { source, blockBytes } = this.#state;
    const start = run.block * blockBytes;
    const { offset, into } = this.#part(wanted, run);
    const { buffer } = fetched;
    try {
      await source.read(start, buffer.subarray(0, this.#state.bytesOf(run.block, run.count)));
    } catch (error) {
      if (!isOfPlace(error)) throw error;
      fetched.count = 0;
      return source.read(offset, into);
    }
    buffer.copy(into, 0, offset - start, offset - start + into.length);
  }

  /** Puts blocks into the cache and gives the lock and the buffers back. Never rejects. */
  async #insert(fetched: readonly Fetched[], grant: RangeGrant): Promise<void> {
    for (const one of fetched) {
      await this.#insertRuns(one);
      this.#state.pool.release(one.buffer);
    }
    this.#state.lock.release(grant);
  }

  async #insertRuns({ block, count, buffer }: Fetched): Promise<void> {
    const chosen: number[] = [];
    for (let at = block; at < block + count; at += 1) {
      const frame = this.#state.allocate(at);
      if (frame === NONE) this.#setFull(at);
      chosen.push(frame);
    }
    await Promise.all(runsOf(block, chosen).map((run) => this.#insertRun(run, buffer, block)));
  }

  async #insertRun({ block, frame, count }: Run, buffer: Buffer, first: number): Promise<void> {
    if (frame === NONE) return;
    const { cache, frames, blockBytes } = this.#state;
    const start = (block - first) * blockBytes;
    const data = buffer.subarray(start, start + this.#state.bytesOf(block, count));
    try {
      await cache.write(this.#state.frameOffset(frame), data);
      for (let at = frame; at < frame + count; at += 1) frames.setState(at, states.clean);
      this.#state.cacheFull = undefined;
    } catch (error) {
      this.#state.cacheRefused(error);
      for (let at = frame; at < frame + count; at += 1) frames.release(at);
    }
  }
}
