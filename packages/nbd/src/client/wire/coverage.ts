/**
 * Which bytes of a READ have been answered. Chunks of a structured reply may come in any order, but must not
 * overlap and must not leave gaps. Pure.
 *
 *     0        prefix          islands
 *     +==========+-----+====+-----+==+------+
 *
 * Invariant: the islands are sorted, disjoint, and do not touch each other or the prefix.
 */

// Chunks ahead of a gap. No sane server comes near it; it bounds what a hostile one makes us keep.
const MAX_ISLANDS = 4096;

export class Coverage {
  #prefix = 0;
  // Pairs of start and end.
  #islands: number[] = [];

  /** Whether exactly the first `length` bytes are covered. */
  isComplete(length: number): boolean {
    return this.#prefix === length && this.#islands.length === 0;
  }

  /** Adds start … end; false if a part of it was there before, or if there are too many separate pieces. */
  add(start: number, end: number): boolean {
    if (start < this.#prefix) return false;
    const islands = this.#islands;
    // In order of arrival chunks nearly always go to the end, so the place is looked for from there.
    let index = islands.length;
    while (index > 0 && (islands[index - 2] as number) > start) index -= 2;
    if (index > 0 && (islands[index - 1] as number) > start) return false;
    if (index < islands.length && (islands[index] as number) < end) return false;
    islands.splice(index, 0, start, end);
    this.#merge(index);
    return islands.length <= 2 * MAX_ISLANDS;
  }

  #merge(index: number): void {
    const islands = this.#islands;
    if (islands[index + 2] === islands[index + 1]) islands.splice(index + 1, 2);
    if (index > 0 && islands[index - 1] === islands[index]) islands.splice(index - 1, 2);
    if (islands[0] === this.#prefix) {
      this.#prefix = islands[1] as number;
      islands.splice(0, 2);
    }
  }
}
