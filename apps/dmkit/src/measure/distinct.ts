/**
 * How many different hashes there are among many, in bounded memory.
 *
 * Those that are kept are all that are multiples of a power of two: of 1 at first, and of twice as much whenever the table
 * is half full. What is kept times that power is the estimate, which is exact as long as it is 1, and afterwards within a
 * few thousandths.
 */

/** Hashes in the table, at the most, before it is thinned out: 16 MiB of memory, exact up to 4 GiB of blocks of 4 KiB. */
const MOST = 2 ** 20;

export class Distinct {
  readonly #most: number;
  /** Open addressing; 0 is free. */
  #table: Float64Array;
  #count = 0;
  #every = 1;

  /** @param most hashes that are kept, a power of two. */
  constructor(most: number = MOST) {
    this.#most = most;
    this.#table = new Float64Array(2 * most);
  }

  /** @param hash evenly spread, 0 … 2^52 − 1. */
  add(hash: number): void {
    if (hash % this.#every !== 0) return;
    this.#insert(hash + 1);
    while (this.#count > this.#most) this.#thin();
  }

  /** Different hashes so far. */
  get estimate(): number {
    return this.#count * this.#every;
  }

  get exact(): boolean {
    return this.#every === 1;
  }

  #insert(entry: number): void {
    const slots = this.#table.length;
    // The low bits are all zero once it has been thinned out.
    let slot = Math.floor(entry / this.#every / 16) % slots;
    for (; this.#table[slot] !== 0; slot = (slot + 1) % slots) if (this.#table[slot] === entry) return;
    this.#table[slot] = entry;
    this.#count += 1;
  }

  #thin(): void {
    const before = this.#table;
    this.#table = new Float64Array(before.length);
    this.#count = 0;
    this.#every *= 2;
    for (const entry of before) if (entry !== 0 && (entry - 1) % this.#every === 0) this.#insert(entry);
  }
}
