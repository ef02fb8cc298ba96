/**
 * Tells a peer that is slow from one that is dead or pretends to be.
 *
 * Looked at once in a while, so that the hot path sets no timers: it names what the peer has to take or to
 * complete next (a token, 0 for nothing), and how many bytes of that it has moved by now. A peer has stalled that has
 * moved none for the time allowed, or that takes longer in all than the slowest tolerated link would: one byte now and
 * then is no progress.
 */
import { SLOWEST_RATE } from "./limits.ts";

export class StallMeter {
  #token = 0;
  #since = 0;
  #moved = 0;
  #movedAt = 0;

  /**
   * @param bytes what the token stands for. @param moved a number that changes whenever bytes of it move.
   * @param now, @param allowed milliseconds.
   */
  stalled(token: number, bytes: number, moved: number, now: number, allowed: number): boolean {
    if (token === 0 || token !== this.#token) {
      this.#token = token;
      this.#since = now;
      this.#moved = moved;
      this.#movedAt = now;
      return false;
    }
    if (moved !== this.#moved) {
      this.#moved = moved;
      this.#movedAt = now;
    }
    return now - this.#movedAt > allowed || now - this.#since > allowed + (bytes / SLOWEST_RATE) * 1000;
  }
}
