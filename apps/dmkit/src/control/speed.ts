/** How fast long work is, and how long it will take: from how far it was when it was first heard of. */
import type { Clock } from "@dmkit/block-io";

// Milliseconds before which a figure would say little.
const SOON = 1000;

export interface SpeedFigures {
  /** Units a second. */
  readonly rate?: number;
  /** Seconds until all is done, should it go on like this. */
  readonly left?: number;
}

export class Speed {
  readonly #clock: Clock;
  #first: { readonly done: number; readonly at: number } | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Nothing for the first second, and while nothing is done. */
  at(done: number, total: number): SpeedFigures {
    const at = this.#clock.now();
    this.#first ??= { done, at };
    const { done: before, at: begun } = this.#first;
    if (at - begun < SOON || done <= before) return {};
    const rate = ((done - before) * 1000) / (at - begun);
    return { rate: Number(rate.toPrecision(3)), left: Math.ceil((total - done) / rate) };
  }
}
