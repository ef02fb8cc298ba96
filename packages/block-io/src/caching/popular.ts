/**
 * Which blocks are asked for again and again, so that a cache takes in those only. A block is taken in when it has been
 * missed so many times, counted over the last of all misses: the counts of two generations are kept, and when the younger
 * one is full the older one is forgotten, whatever was in it.
 */

// Blocks that are counted at most.
const MOST_COUNTED = 65_536;

/** Decides what a cache takes in. */
export class Popular {
  /** A block is taken in when it is missed for this time; 1: at once; 0: never. */
  after = 1;
  /** Blocks of a generation. */
  readonly #most: number;
  #young: Map<number, number> = new Map();
  #old: Map<number, number> = new Map();

  /** @param blocks of the cache: more need not be counted. */
  constructor(blocks: number) {
    this.#most = Math.max(1, Math.floor(Math.min(blocks, MOST_COUNTED) / 2));
  }

  /** Counts that a block was asked for, and is not there: true if it is to be taken in. */
  missed(block: number): boolean {
    if (this.after <= 1) return this.after === 1;
    const times = (this.#young.get(block) ?? this.#old.get(block) ?? 0) + 1;
    if (times >= this.after) {
      this.#young.delete(block);
      this.#old.delete(block);
      return true;
    }
    if (this.#young.size >= this.#most && !this.#young.has(block)) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(block, times);
    return false;
  }
}
