/**
 * Copies dirty blocks to the source: runs that are consecutive in both cache and source in one piece.
 *
 * Invariant: a block is clean only after a flush of the source that began after its copy was written. A failed
 * copy or flush leaves it dirty.
 */
import { isOfPlace } from "@dmkit/block-io";
import { NONE, facts, states } from "../../core/frame-table.ts";
import { runsOf } from "../../core/runs.ts";
import type { Metadata } from "../metadata/metadata.ts";
import type { CacheState } from "../state.ts";

export class Writeback {
  readonly #state: CacheState;
  readonly #metadata: Metadata;

  constructor(state: CacheState, metadata: Metadata) {
    this.#state = state;
    this.#metadata = metadata;
  }

  /**
   * Copies dirty frames, whose blocks the caller has locked exclusively. Resolves with those that were;
   * `failure` is the first error of the others.
   */
  async copy(frames: readonly number[]): Promise<{ copied: number[]; failure: unknown }> {
    const table = this.#state.frames;
    const sorted = [...frames].sort((a, b) => table.blockOf(a) - table.blockOf(b));
    const copied: number[] = [];
    let failure: unknown;
    const attempt = async (block: number, given: readonly number[]): Promise<void> => {
      try {
        await this.#copyRun(block, given[0] as number, given.length);
      } catch (error) {
        if (given.length > 1 && isOfPlace(error)) {
          // One bad place is no reason to leave what is beside it.
          for (const [at, frame] of given.entries()) await attempt(block + at, [frame]);
          return;
        }
        this.#state.statistics.writebackErrors += 1;
        if (this.#state.rules.staysDirty) {
          failure ??= error;
          return;
        }
      }
      copied.push(...given);
    };
    for (let start = 0; start < sorted.length; ) {
      const first = table.blockOf(sorted[start] as number);
      let count = 1;
      while (
        start + count < sorted.length &&
        table.blockOf(sorted[start + count] as number) === first + count
      ) {
        count += 1;
      }
      const neighbours = sorted.slice(start, start + count);
      for (const run of runsOf(first, neighbours, this.#state.pool.size / this.#state.blockBytes)) {
        const place = run.block - first;
        await attempt(run.block, neighbours.slice(place, place + run.count));
      }
      start += count;
    }
    return { copied, failure };
  }

  /**
   * These frames were copied, and are about to be unlocked: whoever writes to one makes it `dirty` again. Only one
   * caller may use this and {@link cleaned}, for one round after the other: with two, a flush that began before a
   * later copy would be taken for one that covers it.
   */
  copiedForNow(frames: readonly number[]): void {
    for (const frame of frames) this.#state.frames.setState(frame, states.written);
  }

  /** The source was flushed after these frames were copied: those still `written` are clean now. */
  cleaned(frames: readonly number[], cold: boolean): void {
    const { rules, frames: table } = this.#state;
    for (const frame of frames) if (rules.isUnchanged(table, frame)) this.#makeClean(frame, cold);
  }

  /** The flush of the source failed: the frames have to be copied once more. */
  uncovered(frames: readonly number[]): void {
    const table = this.#state.frames;
    for (const frame of frames)
      if (table.stateOf(frame) === states.written) table.setState(frame, states.dirty);
  }

  /**
   * Makes the source the newest, durably, and the cache device forget: afterwards none of these frames is
   * dirty or held. Their blocks are locked exclusively. Throws what failed; then nothing was given up.
   */
  async settle(frames: readonly number[]): Promise<void> {
    const table = this.#state.frames;
    const binding = frames.filter((frame) => table.isBinding(frame));
    if (binding.length === 0) return;
    const dirty = binding.filter((frame) => table.isDirty(frame));
    if (dirty.length > 0) {
      const { copied, failure } = await this.copy(dirty);
      await this.#state.flushSource();
      // Locked all the time, so they are what was copied; and never `written`, which is the cleaner's.
      for (const frame of copied) if (table.isDirty(frame)) this.#makeClean(frame, false);
      if (failure !== undefined) throw failure;
    }
    // Drops that were asked for before may have been taken up by a commit that failed.
    for (const frame of binding) if (table.has(frame, facts.held)) this.#metadata.drop(frame);
    await this.#metadata.commitDrops();
    if (binding.some((frame) => table.isBinding(frame))) throw this.#state.unavailable("write");
  }

  #makeClean(frame: number, cold: boolean): void {
    this.#state.frames.setState(frame, states.clean, cold);
    this.#state.statistics.writtenBack += 1;
    this.#metadata.drop(frame);
  }

  async #copyRun(block: number, frame: number, count: number): Promise<void> {
    const state = this.#state;
    if (frame === NONE) return;
    const buffer = await state.pool.acquire();
    try {
      const data = buffer.subarray(0, state.bytesOf(block, count));
      await state.cache.read(state.frameOffset(frame), data);
      await state.writeSource(block * state.blockBytes, data, false);
    } finally {
      state.pool.release(buffer);
    }
  }
}
