/**
 * Requests that change the source: write-through and its relatives, discards, zeroes, and everything the cache
 * cannot take. All under an exclusive lock on the blocks:
 *
 *      1. settle     what is dirty goes to the source, and the loss of its entry is made durable: otherwise a
 *                    replay would one day put the older data over the newer
 *      2. invalidate the cached copies (or, on request, update them)
 *      3. change the source
 */
import { type BlockDevice, type RangeGrant, giveBack, whyNotGivenBack } from "@dmkit/block-io";
import type { CacheState } from "./state.ts";
import type { Writeback } from "./writeback/writeback.ts";
import type { Given } from "./request.ts";

export class SourcePath {
  /** Update cached blocks instead of invalidating them. */
  updates = false;
  #discards = false;
  readonly #state: CacheState;
  readonly #writeback: Writeback;

  constructor(state: CacheState, writeback: Writeback) {
    this.#state = state;
    this.#writeback = writeback;
  }

  /** Tell the cache device of frames that are empty because their blocks are gone. */
  set discards(wanted: boolean) {
    if (wanted === this.#discards) return;
    this.#discards = wanted;
    const deaf = this.#whyDeaf(wanted);
    if (deaf === undefined) return;
    const details = { device: this.#state.cache.name, error: deaf.message };
    this.#state.environment.logger.log("warn", "frames that become free are not discarded", details);
  }

  /** Throws `ENOTSUP` for a cache device that takes no notice of discards. */
  requireDiscards(wanted: boolean): void {
    const deaf = this.#whyDeaf(wanted);
    if (deaf !== undefined) throw deaf;
  }

  #whyDeaf(wanted: boolean): ReturnType<typeof whyNotGivenBack> {
    const { cache, blockBytes } = this.#state;
    return wanted ? whyNotGivenBack(cache, blockBytes, "discard_cache") : undefined;
  }

  write(given: Given): Promise<void> {
    const grant = this.#state.lock.tryAcquire(given.first, given.count, true);
    // Without anything in the cache there is nothing to decide.
    if (grant !== undefined && this.#state.boundFrames(given.first, given.count).length === 0) {
      return this.#releasing(grant, this.#state.writeSource(given.offset, given.from, given.fua));
    }
    return this.#writeSlowly(given, grant);
  }

  /** Carries out `change` of bytes on the source while nothing of them is cached. */
  async change(
    offset: number,
    length: number,
    change: (source: BlockDevice) => Promise<void>,
  ): Promise<void> {
    const { blockBytes, lock } = this.#state;
    const first = Math.floor(offset / blockBytes);
    const count = Math.floor((offset + length - 1) / blockBytes) - first + 1;
    const grant = await lock.acquire(first, count, true);
    try {
      await this.#clear(first, count, this.#discards);
      await this.#state.changeSource(change);
    } finally {
      lock.release(grant);
    }
  }

  async #writeSlowly(given: Given, granted: RangeGrant | undefined): Promise<void> {
    const { lock, statistics } = this.#state;
    const grant = granted ?? (await lock.acquire(given.first, given.count, true));
    try {
      const bound = this.#state.boundFrames(given.first, given.count);
      statistics.writeHits += bound.length;
      if (this.updates && this.#state.policy === "write-through" && this.#state.cacheError === undefined) {
        await this.#settle(bound);
        await this.#update(given, bound);
      } else {
        await this.#clear(given.first, given.count);
        await this.#state.writeSource(given.offset, given.from, given.fua);
      }
    } finally {
      lock.release(grant);
    }
  }

  /** Afterwards no block of the range is in the cache. @param gone they do not come back soon: their frames are given back. */
  async #clear(first: number, count: number, gone = false): Promise<void> {
    if (!this.#state.rules.dropsCopies) return;
    const bound = this.#state.boundFrames(first, count);
    await this.#settle(bound);
    if (gone) await this.#giveBack(bound);
    for (const frame of bound) this.#state.frames.release(frame);
  }

  /**
   * Discards frames to which no entry on the cache device refers any more, and which nobody else can get yet: they are
   * still bound to blocks that are locked.
   */
  async #giveBack(bound: readonly number[]): Promise<void> {
    const { cache, cacheError, blockBytes } = this.#state;
    if (cacheError !== undefined) return;
    const order = bound.toSorted((one, other) => one - other);
    for (let at = 0, count = 1; at < order.length; at += count) {
      const first = order[at] as number;
      for (count = 1; order[at + count] === first + count; ) count += 1;
      await giveBack(cache, this.#state.frameOffset(first), count * blockBytes);
    }
  }

  async #settle(bound: readonly number[]): Promise<void> {
    const { frames, rules } = this.#state;
    if (bound.some((frame) => rules.mustSettle(frames, frame))) await this.#writeback.settle(bound);
  }

  /** Changes source and frames alike. Whatever goes wrong, no frame is left that might differ. */
  async #update(given: Given, bound: readonly number[]): Promise<void> {
    const results = await Promise.allSettled([
      this.#state.writeSource(given.offset, given.from, given.fua),
      ...bound.map((frame) => this.#updateFrame(given, frame)),
    ]);
    const [toSource, ...toFrames] = results;
    for (const [index, frame] of bound.entries()) {
      const result = toFrames[index];
      if (result?.status === "rejected") this.#state.cacheRefused(result.reason);
      if (toSource?.status === "rejected" || result?.status === "rejected") this.#state.frames.release(frame);
    }
    if (toSource?.status === "rejected") throw toSource.reason;
  }

  async #updateFrame({ offset, from }: Given, frame: number): Promise<void> {
    const { frames, cache, blockBytes } = this.#state;
    const start = frames.blockOf(frame) * blockBytes;
    const begin = Math.max(offset, start);
    const end = Math.min(offset + from.length, start + blockBytes);
    frames.use(frame);
    await cache.write(
      this.#state.frameOffset(frame) + begin - start,
      from.subarray(begin - offset, end - offset),
    );
  }

  async #releasing(grant: RangeGrant, result: Promise<void>): Promise<void> {
    try {
      await result;
    } finally {
      this.#state.lock.release(grant);
    }
  }
}
