/**
 * The 16 request counters of the status line, and the partial flushes. A counter's index has a bit for each
 * of: 8 write, 4 hit, 2 in the RAM buffer, 1 whole block.
 */

export const WRITE = 8;
export const HIT = 4;
export const ON_BUFFER = 2;
export const FULL_SIZE = 1;

export class Statistics {
  readonly counters: Float64Array = new Float64Array(16);
  /** Segments closed before they were full because of a barrier; not by sync or suspend. */
  partialFlushes = 0;
  /** Bytes of writes that went past the log. */
  bypassedBytes = 0;
  /** Bytes on the cache device that were given back. */
  discardedBytes = 0;

  count(kind: number, times = 1): void {
    this.counters[kind] = (this.counters[kind] as number) + times;
  }

  /** Requests of all kinds with these bits. */
  sum(bits: number): number {
    return this.counters.reduce((sum, count, kind) => ((kind & bits) === bits ? sum + count : sum), 0);
  }

  /** Zeroes the counters; `partialFlushes` and bytes stay. */
  clear(): void {
    this.counters.fill(0);
  }
}
