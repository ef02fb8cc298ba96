/**
 * Tells a peer that is slow from one that is dead or pretends to be.
 *
 * Looked at once in a while, so that the hot path sets no timers: it names what the peer has to take or to
 * complete next (a token, 0 for nothing), and if the same token is still there after the time allowed, the
 * peer has stalled. A token that stands for many bytes is allowed the time the slowest tolerated link needs.
 */
import { SLOWEST_RATE } from "./limits.ts";

export class StallMeter {
  #token = 0;
  #since = 0;

  /** @param now, @param allowed milliseconds. @param bytes what the token stands for. */
  stalled(token: number, bytes: number, now: number, allowed: number): boolean {
    if (token === 0 || token !== this.#token) {
      this.#token = token;
      this.#since = now;
      return false;
    }
    return now - this.#since > allowed + (bytes / SLOWEST_RATE) * 1000;
  }
}
