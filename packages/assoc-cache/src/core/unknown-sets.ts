/**
 * Sets with frames whose entries could not be read, or were damaged, of a cache that was not closed: each of these frames
 * may hold the only copy of any block of its set. So of the blocks of such a set only those are served whose own entries
 * were read; the others are neither read nor changed, and the frames are not used. When the entries can be read again, all
 * is as it was.
 */
import { type FrameTable, facts, states } from "./frame-table.ts";

export class UnknownSets {
  readonly #frames: FrameTable;
  readonly #sets: Set<number> = new Set();
  /** Blocks of these sets that are in no frame but their own. */
  readonly #known: Set<number> = new Set();

  constructor(frames: FrameTable) {
    this.#frames = frames;
  }

  /** How many sets there are. */
  get size(): number {
    return this.#sets.size;
  }

  /** The entries of these frames could not be read; those of all others are in the table. */
  add(first: number, count: number): void {
    const { frames, ways } = this.#frames.geometry;
    for (let frame = first; frame < Math.min(first + count, frames); frame += 1) {
      this.#frames.addFacts(frame, facts.unknown);
      this.#sets.add(Math.floor(frame / ways));
    }
    for (const set of this.#sets) {
      for (let frame = set * ways; frame < (set + 1) * ways; frame += 1)
        if (this.#frames.stateOf(frame) !== states.free) this.#known.add(this.#frames.blockOf(frame));
    }
  }

  /** The first block of the range that may be in such a frame, or undefined. */
  firstIn(first: number, count: number): number | undefined {
    if (this.#sets.size === 0) return undefined;
    for (let block = first; block < first + count; block += 1)
      if (this.#sets.has(this.#frames.sets.of(block)) && !this.#known.has(block)) return block;
    return undefined;
  }
}
