/**
 * Finds sequential streams, to keep them out of caches: the last 128 streams are known by the place where
 * each would go on. A stream that has grown to the cutoff is bypassed from then on, until it breaks off.
 */

/** Streams that are remembered. */
export const STREAMS = 128;

/** Recognises sequential streams among requests. */
export class Streams {
  /** Bytes; 0: nothing is ever bypassed. */
  cutoff: number;
  // Where a stream would go on → its length so far. A Map keeps the order of insertion: the oldest goes first.
  readonly #lengths = new Map<number, number>();

  constructor(cutoff: number) {
    this.cutoff = cutoff;
  }

  /** Notes a request (bytes); true if it belongs to a stream that has reached the cutoff. */
  bypasses(offset: number, length: number): boolean {
    if (this.cutoff === 0) return false;
    const before = this.#lengths.get(offset) ?? 0;
    if (before > 0) this.#lengths.delete(offset);
    else if (this.#lengths.size >= STREAMS) this.#forgetOldest();
    const total = before + length;
    this.#lengths.set(offset + length, total);
    return total >= this.cutoff;
  }

  #forgetOldest(): void {
    for (const oldest of this.#lengths.keys()) {
      this.#lengths.delete(oldest);
      return;
    }
  }
}
