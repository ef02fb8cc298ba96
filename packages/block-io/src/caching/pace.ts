/**
 * When work in the background may go on that nobody waits for: not faster than so many bytes a second, and only once
 * clients have paused.
 *
 * The rate holds for any time in which there are several pieces of work: each is paid for, however large it was, before
 * the next begins. Clients are counted, not timed: what a request costs is the same with and without. A look finds a
 * pause if nothing has come since the look before, so a pause is noticed when it has lasted for as long as is asked for,
 * and for less than twice that.
 */
import type { Clock } from "../contract/environment.ts";
import type { RequestCounts } from "../contract/lifecycle.ts";

/** Decides when background work goes on. */
export class Pace {
  readonly #clock: Clock;
  readonly #clients: () => RequestCounts;
  #rate = 0;
  #pause = 0;
  /** When what was done is paid for. */
  #paid = 0;
  #settled = Number.NaN;
  #quietSince = 0;

  constructor(clock: Clock, clients: () => RequestCounts) {
    this.#clock = clock;
    this.#clients = clients;
  }

  /** Bytes a second; 0: no limit. */
  get rate(): number {
    return this.#rate;
  }

  /** From now on; what was done under another rate is forgiven. @param rate bytes a second. @param pause milliseconds. */
  tune(rate: number, pause: number): void {
    if (rate !== this.#rate) this.#paid = 0;
    this.#rate = rate;
    this.#pause = pause;
  }

  /** So many bytes have been worked on. */
  did(bytes: number): void {
    if (this.#rate > 0) this.#paid = Math.max(this.#paid, this.#clock.now()) + (bytes * 1000) / this.#rate;
  }

  /** Milliseconds after which to look again; 0: go on now. */
  get wait(): number {
    if (this.#rate === 0 && this.#pause === 0) return 0;
    const now = this.#clock.now();
    return Math.max(0, Math.ceil(this.#paid - now), this.#pause === 0 ? 0 : Math.ceil(this.#noisy(now)));
  }

  /** Milliseconds until clients may have been quiet for long enough. */
  #noisy(now: number): number {
    const { inFlight, settledCount } = this.#clients();
    if (inFlight > 0 || settledCount !== this.#settled) this.#quietSince = now;
    this.#settled = settledCount;
    return this.#quietSince + this.#pause - now;
  }
}
