/** A set of byte ranges. Invariant: sorted, apart from each other (neighbours are merged). */

/** Bytes. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

export class RangeSet {
  #ranges: { start: number; end: number }[] = [];

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Adds `start` … `end` - 1. */
  add(start: number, end: number): void {
    const from = this.#firstEndingAt(start);
    let to = from;
    let merged = { start, end };
    for (; to < this.#ranges.length; to += 1) {
      const range = this.#ranges[to] as { start: number; end: number };
      if (range.start > end) break;
      merged = { start: Math.min(merged.start, range.start), end: Math.max(merged.end, range.end) };
    }
    this.#ranges.splice(from, to - from, merged);
  }

  /** The parts of `start` … `end` - 1 that are in the set. */
  *within(start: number, end: number): Iterable<Range> {
    for (let index = this.#firstEndingAt(start); index < this.#ranges.length; index += 1) {
      const range = this.#ranges[index] as { start: number; end: number };
      if (range.start >= end) return;
      const from = Math.max(start, range.start);
      const to = Math.min(end, range.end);
      if (to > from) yield { offset: from, length: to - from };
    }
  }

  #firstEndingAt(start: number): number {
    let [low, high] = [0, this.#ranges.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ranges[middle] as { end: number }).end < start) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
