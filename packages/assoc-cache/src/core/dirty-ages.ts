/**
 * For how long the oldest of what is dirty has been so: two bytes a frame, and a count for each span of ten seconds in
 * which frames came to be dirty. Everything is O(1).
 *
 * Spans lie in a ring. One that would come to lie on frames that are dirty since the ring's beginning, 45 hours before,
 * is not begun: what becomes dirty then counts as older than it is, and the oldest is at least so old anyway.
 */

// Milliseconds.
const SPAN = 10_000;
const SPANS = 16_384;

export class DirtyAges {
  /** Of each dirty frame, in which span it came to be so. */
  readonly #spans: Uint16Array;
  readonly #counts: Uint32Array = new Uint32Array(SPANS);
  readonly #now: () => number;
  readonly #start: number;
  /** Counted from {@link #start}; all dirty frames are from these spans and those between them. */
  #newest = 0;
  #oldest = 0;

  /** @param now milliseconds of a clock that never goes back. */
  constructor(frames: number, now: () => number) {
    this.#spans = new Uint16Array(frames);
    this.#now = now;
    this.#start = now();
  }

  /** A frame came to be dirty, or is so no more. */
  changed(frame: number, isDirty: boolean): void {
    if (isDirty) {
      const span = this.#span(this.#now()) % SPANS;
      this.#spans[frame] = span;
      this.#counts[span] = (this.#counts[span] as number) + 1;
    } else {
      const span = this.#spans[frame] as number;
      this.#counts[span] = (this.#counts[span] as number) - 1;
    }
  }

  /** Seconds, to ten of them; 0 if nothing is dirty. */
  oldest(now: number): number {
    this.#span(now);
    if (this.#counts[this.#oldest % SPANS] === 0) return 0;
    return Math.max(0, now - this.#start - this.#oldest * SPAN) / 1000;
  }

  /** The span of a moment, as far as there is room for it. Afterwards the oldest has dirty frames, or is the newest. */
  #span(now: number): number {
    const wanted = Math.floor((now - this.#start) / SPAN);
    while (this.#oldest < this.#newest && this.#counts[this.#oldest % SPANS] === 0) this.#oldest += 1;
    // Nothing is dirty: the spans in between are of nobody.
    if (this.#counts[this.#oldest % SPANS] === 0 && wanted > this.#newest) this.#oldest = wanted;
    this.#newest = Math.max(this.#newest, Math.min(wanted, this.#oldest + SPANS - 1));
    return this.#newest;
  }
}
