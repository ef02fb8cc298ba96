/**
 * What a server has acknowledged but may still lose: the account of durability. Pure.
 *
 * Every acknowledged mutation gets the next number. A flush covers the numbers given out before it was
 * issued ({@link Unflushed.mark}); when it succeeds, they are stable.
 *
 *     number   1 ............ stable ............ acknowledged
 *              on stable storage  | may be lost with the server
 *
 * For each granule of the device the number of the last mutation in it is kept (a table of fixed size,
 * whatever the size of the device), so that after a loss it is known where the server may be out of date.
 *
 * Invariant: a byte is not `doubtful` only if everything acknowledged in it is stable.
 */

const GRANULES = 16_384;
const LEAST_GRANULE = 64 * 1024;

export class Unflushed {
  readonly #granule: number;
  readonly #last: Float64Array;
  #acknowledged = 0;
  #stable = 0;

  /** @param size of the device in bytes. */
  constructor(size: number) {
    let granule = LEAST_GRANULE;
    while (size / granule > GRANULES) granule *= 2;
    this.#granule = granule;
    this.#last = new Float64Array(Math.ceil(size / granule));
  }

  /** Whether the server may still lose something it acknowledged. */
  get any(): boolean {
    return this.#acknowledged > this.#stable;
  }

  /** A mutation was acknowledged; returns its number. `length` in bytes, at least 1. */
  acknowledge(offset: number, length: number): number {
    this.#acknowledged += 1;
    const last = Math.floor((offset + length - 1) / this.#granule);
    for (let index = Math.floor(offset / this.#granule); index <= last; index += 1) {
      this.#last[index] = this.#acknowledged;
    }
    return this.#acknowledged;
  }

  /** What a flush issued now will make stable. */
  mark(): number {
    return this.#acknowledged;
  }

  /** A flush issued at `mark` succeeded. */
  settle(mark: number): void {
    this.#stable = Math.max(this.#stable, mark);
  }

  /** Whether something in the range was acknowledged and is not known to be stable. */
  doubtful(offset: number, length: number): boolean {
    if (!this.any) return false;
    const last = Math.floor((offset + length - 1) / this.#granule);
    for (let index = Math.floor(offset / this.#granule); index <= last; index += 1) {
      if ((this.#last[index] as number) > this.#stable) return true;
    }
    return false;
  }
}
