/**
 * Writes in write-back mode: into the cache.
 *
 *      hit       in place, under a shared lock; the frame is valid as a whole, so every mixture of old and new
 *                sectors of it is legal
 *      miss      under an exclusive lock: into a new frame; what the request does not cover of a block is fetched
 *                from the source first, so that no frame is valid in part only
 *      no frame  under an exclusive lock: to the source; so does what would complete a block that the source does not give
 *
 * What the cache device does not take goes to the source instead, unless it was dirty before. A write that fails ends
 * the use of the cache device, one that finds no space does not.
 */
import { type RangeGrant, done, isOfPlace, join, FUA } from "@dmkit/block-io";
import { NONE, facts, states } from "../core/frame-table.ts";
import { type Run, runsOf } from "../core/runs.ts";
import type { Cleaner } from "./writeback/cleaner.ts";
import type { Metadata } from "./metadata/metadata.ts";
import type { Given } from "./request.ts";
import type { SourcePath } from "./source-path.ts";
import type { CacheState } from "./state.ts";

/** A range of blocks. */
interface Blocks {
  readonly first: number;
  readonly count: number;
}

/** Stands for a frame whose block is stored by other means. */
const ELSEWHERE = -2;

export class Writer {
  readonly #state: CacheState;
  readonly #metadata: Metadata;
  readonly #cleaner: Cleaner;
  readonly #sourcePath: SourcePath;
  readonly #setFull: (block: number) => void;

  constructor(
    state: CacheState,
    metadata: Metadata,
    cleaner: Cleaner,
    sourcePath: SourcePath,
    setFull: (block: number) => void,
  ) {
    this.#state = state;
    this.#metadata = metadata;
    this.#cleaner = cleaner;
    this.#sourcePath = sourcePath;
    this.#setFull = setFull;
  }

  /** @param bypass blocks that are not in the cache go to the source. */
  write(given: Given, bypass: boolean): Promise<void> {
    return this.#writeOne(given, bypass) ?? this.#writeSlowly(given, bypass);
  }

  /** The usual case without detours: one block, and nobody else has to do with it; undefined if it is not that. */
  #writeOne(given: Given, bypass: boolean): Promise<void> | undefined {
    const { first, count } = given;
    if (count !== 1) return undefined;
    const { lock } = this.#state;
    const frame = this.#state.usableFrame(first);
    if (frame !== NONE) {
      const grant = lock.tryAcquire(first, 1, false);
      return grant === undefined ? undefined : this.#overwriteOne(given, frame, grant);
    }
    if (bypass || !this.#covers(given, first)) return undefined;
    const grant = lock.tryAcquire(first, 1, true);
    return grant === undefined ? undefined : this.#placeOne(given, grant);
  }

  #overwriteOne(given: Given, frame: number, grant: RangeGrant): Promise<void> {
    const { offset, from, fua, first } = given;
    const { cache, statistics, blockBytes } = this.#state;
    statistics.writeHits += 1;
    this.#markDirty(frame);
    const durable = fua && this.#state.frames.has(frame, facts.sure);
    const place = this.#state.frameOffset(frame) + offset - first * blockBytes;
    const result = cache.write(place, from, durable ? FUA : undefined);
    return this.#afterOne(result, given, frame, grant, fua && !durable);
  }

  /** A whole block that is not in the cache. */
  #placeOne(given: Given, grant: RangeGrant): Promise<void> {
    const frame = this.#newFrame(given.first, false);
    if (frame === NONE) return this.#passOne(given, grant);
    const result = this.#state.cache.write(this.#state.frameOffset(frame), given.from);
    return this.#afterOne(result, given, frame, grant, given.fua);
  }

  async #passOne({ offset, from, fua }: Given, grant: RangeGrant): Promise<void> {
    try {
      await this.#state.writeSource(offset, from, fua);
    } finally {
      this.#state.lock.release(grant);
    }
  }

  #afterOne(
    result: Promise<void>,
    given: Given,
    frame: number,
    grant: RangeGrant,
    commits: boolean,
  ): Promise<void> {
    if (result !== done || commits) return this.#finishOne(result, given, frame, grant, commits);
    this.#written(frame, 1);
    this.#state.lock.release(grant);
    return done;
  }

  async #finishOne(
    result: Promise<void>,
    given: Given,
    frame: number,
    grant: RangeGrant,
    commits: boolean,
  ): Promise<void> {
    let failed = false;
    try {
      await result;
      this.#written(frame, 1);
    } catch (error) {
      this.#cacheFailed(error, frame, 1);
      failed = true;
    } finally {
      this.#state.lock.release(grant);
    }
    if (failed) await this.#rescue(given, given.first, 1);
    else if (commits) await this.#metadata.commit();
  }

  async #writeSlowly(given: Given, bypass: boolean): Promise<void> {
    const { lock } = this.#state;
    const { first, count } = given;
    for (;;) {
      const exclusive = this.#misses(first, count);
      const grant = lock.tryAcquire(first, count, exclusive) ?? (await lock.acquire(first, count, exclusive));
      if (!this.#state.writesBack) {
        // While we waited the cache device failed, or the policy changed: entries may stand against this write.
        lock.release(grant);
        return this.#sourcePath.write(given);
      }
      if (!exclusive && this.#misses(first, count)) {
        lock.release(grant);
        continue;
      }
      const failed: Blocks[] = [];
      let toCache: boolean;
      try {
        toCache = await this.#store(given, bypass, failed);
      } finally {
        lock.release(grant);
      }
      for (const blocks of failed) await this.#rescue(given, blocks.first, blocks.count);
      // Also when the cache device failed: what is in it already can then not be made durable.
      if (given.fua && toCache) await this.#metadata.commit();
      return;
    }
  }

  #misses(first: number, count: number): boolean {
    for (let block = first; block < first + count; block += 1) {
      if (this.#state.usableFrame(block) === NONE) return true;
    }
    return false;
  }

  /**
   * Under a lock that fits. True if anything went into the cache.
   * @param failed gets the blocks that did not, because the cache device failed.
   */
  async #store(given: Given, bypass: boolean, failed: Blocks[]): Promise<boolean> {
    const { frames } = this.#state;
    const chosen: number[] = [];
    const running: Promise<void>[] = [];
    let toCache = false;
    for (let block = given.first; block < given.first + given.count; block += 1) {
      let frame = this.#state.usableFrame(block);
      if (frame !== NONE) {
        this.#state.statistics.writeHits += 1;
        this.#markDirty(frame);
      } else {
        frame = this.#newFrame(block, bypass);
        if (frame !== NONE && !this.#covers(given, block)) {
          const buffer = this.#state.pool.tryAcquire();
          if (buffer === undefined) {
            // Without a buffer to complete the block in it goes to the source.
            frames.release(frame);
            frame = NONE;
          } else {
            running.push(this.#completeBlock(given, block, frame, buffer, failed));
            toCache = true;
            chosen.push(ELSEWHERE);
            continue;
          }
        }
      }
      toCache ||= frame !== NONE;
      chosen.push(frame);
    }
    for (const run of runsOf(given.first, chosen)) {
      if (run.frame !== ELSEWHERE) running.push(this.#storeRun(given, run, failed));
    }
    await join(running);
    return toCache;
  }

  #newFrame(block: number, bypass: boolean): number {
    if (bypass) {
      this.#state.statistics.bypassed += 1;
      return NONE;
    }
    const frame = this.#state.allocate(block);
    if (frame === NONE) this.#setFull(block);
    return frame;
  }

  /** Whether the request covers all of a block. */
  #covers({ offset, from }: Given, block: number): boolean {
    const { rules, blockBytes } = this.#state;
    return rules.covers(offset, from.length, block * blockBytes, this.#state.bytesOf(block));
  }

  /** The bytes of the request that lie in a run of blocks. */
  #part({ offset, from }: Given, block: number, count: number): { at: number; data: Buffer } {
    const { blockBytes } = this.#state;
    const start = Math.max(offset, block * blockBytes);
    const end = Math.min(offset + from.length, (block + count) * blockBytes);
    return { at: start, data: from.subarray(start - offset, end - offset) };
  }

  async #storeRun(given: Given, { block, frame, count }: Run, failed: Blocks[]): Promise<void> {
    const { at, data } = this.#part(given, block, count);
    if (frame === NONE) return this.#state.writeSource(at, data, given.fua);
    const { cache, blockBytes } = this.#state;
    try {
      await cache.write(this.#state.frameOffset(frame) + at - block * blockBytes, data);
      this.#written(frame, count);
    } catch (error) {
      this.#cacheFailed(error, frame, count);
      failed.push({ first: block, count });
    }
  }

  /** Fetches what the request does not cover of a block, and stores the block as a whole. */
  async #completeBlock(
    given: Given,
    block: number,
    frame: number,
    buffer: Buffer,
    failed: Blocks[],
  ): Promise<void> {
    const { source, cache, pool, blockBytes, frames } = this.#state;
    const start = block * blockBytes;
    const whole = buffer.subarray(0, this.#state.bytesOf(block));
    const { at, data } = this.#part(given, block, 1);
    const head = at - start;
    const tail = head + data.length;
    try {
      const fetches: Promise<void>[] = [];
      if (head > 0) fetches.push(source.read(start, whole.subarray(0, head)));
      if (tail < whole.length) fetches.push(source.read(start + tail, whole.subarray(tail)));
      try {
        await join(fetches);
      } catch (error) {
        frames.release(frame);
        if (!isOfPlace(error)) throw error;
        // A bad place beside it is none of this request's.
        return await this.#state.writeSource(at, data, given.fua);
      }
      data.copy(whole, head);
      try {
        await cache.write(this.#state.frameOffset(frame), whole);
        this.#written(frame, 1);
      } catch (error) {
        this.#cacheFailed(error, frame, 1);
        failed.push({ first: block, count: 1 });
      }
    } finally {
      pool.release(buffer);
    }
  }

  #markDirty(frame: number): void {
    const { frames } = this.#state;
    frames.use(frame);
    if (frames.stateOf(frame) !== states.dirty) frames.setState(frame, states.dirty);
    if (!frames.has(frame, facts.claim)) this.#metadata.claim(frame);
    this.#cleaner.noticeDirty();
  }

  /** A write to the frames has succeeded. */
  #written(frame: number, count: number): void {
    const { frames } = this.#state;
    this.#state.cacheUnstable = true;
    this.#state.cacheFull = undefined;
    for (let at = frame; at < frame + count; at += 1) {
      if (!frames.isDirty(at)) this.#markDirty(at);
      frames.addFacts(at, facts.acknowledged);
    }
  }

  #cacheFailed(error: unknown, frame: number, count: number): void {
    const { frames } = this.#state;
    this.#state.cacheRefused(error);
    for (let at = frame; at < frame + count; at += 1) {
      if (frames.stateOf(at) === states.filling) frames.release(at);
    }
  }

  /** The cache device did not take it: to the source instead, unless a block has dirty data that was acknowledged. */
  async #rescue(given: Given, first: number, count: number): Promise<void> {
    const { frames, lock, rules } = this.#state;
    const grant = await lock.acquire(first, count, true);
    try {
      for (let block = first; block < first + count; block += 1) {
        const frame = frames.find(block);
        if (frame !== NONE) {
          if (rules.isOnlyCopy(frames, frame)) {
            throw this.#state.unavailable("write", given.offset, given.from.length);
          }
          frames.abandon(frame);
        }
        const { at, data } = this.#part(given, block, 1);
        await this.#state.writeSource(at, data, given.fua);
      }
    } finally {
      lock.release(grant);
    }
  }
}
