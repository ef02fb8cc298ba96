/** What the cache device has refused without a loss: it is in RAM here, or in memory below, and is tried again. */
import type { BlockIoError } from "@dmkit/block-io";

export class Refusals {
  /** Closed segments whose last write found no space. */
  readonly #segments: Set<number> = new Set();
  /** The last flush failed. */
  #flush = false;
  /** How often anything has been refused. */
  count = 0;
  /** Why, until all of it has been taken. */
  error: BlockIoError | undefined;

  /** @param what a segment, or the flush. Returns whether nothing else was refused before. */
  add(what: number | "flush", error: BlockIoError): boolean {
    if (what === "flush") this.#flush = true;
    else this.#segments.add(what);
    this.count += 1;
    const isNews = this.error === undefined;
    this.error = error;
    return isNews;
  }

  /** What is to be tried again, each once: segments, and whether a flush. */
  take(): readonly [segments: readonly number[], flush: boolean] {
    const segments = [...this.#segments];
    this.#segments.clear();
    return [segments, this.#flush];
  }

  flushed(): void {
    this.#flush = false;
    this.taken();
  }

  /** Something was written, or flushed. */
  taken(): void {
    if (this.#segments.size === 0 && !this.#flush) this.error = undefined;
  }
}
