/**
 * How long requests may wait for a lost server.
 *
 * A request's time counts from the first loss it has lived through, across sessions that die young: or a
 * request that kills servers would be tried for ever.
 */
import type { Clock, Timer } from "@dmkit/block-io";
import type { Request } from "./request.ts";

export class Deadline {
  readonly #clock: Clock;
  readonly #patience: number;
  readonly #expired: () => void;
  #timer: Timer | undefined;
  #at = Number.POSITIVE_INFINITY;

  /** @param patience milliseconds. */
  constructor(clock: Clock, patience: number, expired: () => void) {
    this.#clock = clock;
    this.#patience = patience;
    this.#expired = expired;
  }

  /** A session that began at `since` is lost. @param waiting all requests that have to wait. */
  lost(since: number, waiting: Iterable<Request>): void {
    const stable = this.#clock.now() - since > this.#patience;
    for (const request of waiting) {
      if (stable) request.waitingSince = Number.NaN;
      this.watch(request);
    }
  }

  /** The request begins, or goes on, to wait. */
  watch(request: Request): void {
    const now = this.#clock.now();
    if (Number.isNaN(request.waitingSince)) request.waitingSince = now;
    const until = request.waitingSince + this.#patience;
    if (until >= this.#at) return;
    this.cancel();
    this.#at = until;
    this.#timer = this.#clock.after(Math.max(0, until - now), this.#expired);
  }

  /** The server is back, or nobody waits any more. */
  cancel(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#at = Number.POSITIVE_INFINITY;
  }
}
