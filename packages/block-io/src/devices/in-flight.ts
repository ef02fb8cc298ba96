/** Ranges that the thread pool is reading or writing, so that what overlaps them can wait. Usually empty. */

interface Range {
  readonly start: number;
  readonly end: number;
  /** Never rejects. */
  readonly over: Promise<unknown>;
}

export class InFlight {
  readonly #ranges = new Set<Range>();

  /** Remembers the range until the request has settled. Returns the request. */
  track(start: number, length: number, request: Promise<void>): Promise<void> {
    const range: Range = {
      start,
      end: start + length,
      over: request.then(
        () => this.#ranges.delete(range),
        () => this.#ranges.delete(range),
      ),
    };
    this.#ranges.add(range);
    return request;
  }

  /** Settles when a request that overlaps the range is over; undefined if there is none. */
  overlapping(start: number, length: number): Promise<unknown> | undefined {
    if (this.#ranges.size === 0) return undefined;
    for (const range of this.#ranges)
      if (start < range.end && range.start < start + length) return range.over;
    return undefined;
  }
}
