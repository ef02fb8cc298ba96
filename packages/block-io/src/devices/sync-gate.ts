/**
 * Decides whether the next file operation runs in this thread or on the thread pool.
 *
 * While the page cache answers, a synchronous call of some 2 µs beats the hand-over to the pool (6 to 9 µs of
 * CPU at depth 32, 27 µs of latency at depth 1; see `dmkit bench`). When the disk has to be waited for, it
 * would hold up everybody else. So each synchronous call is timed, and a slow one that follows a slow one sends
 * the following operations to the pool (a single one may just mean that this process had to wait for a
 * processor); after a while one is tried again, and the while doubles as long as it is slow.
 */
import type { Clock } from "../contract/environment.ts";

// Milliseconds: far above a copy of a few blocks from the page cache, far below a seek.
const SLOW = 0.5;
// Bytes that add a millisecond: a quarter of what a slow machine copies from the page cache.
const BYTES_A_MILLISECOND = 1024 * 1024;
const FIRST_PAUSE = 64;
const LONGEST_PAUSE = 8192;

/** One for each kind of operation: reads do not tell how long writes take. */
export class SyncGate {
  readonly #clock: Clock;
  #started = 0;
  #suspicious = false;
  #pause = FIRST_PAUSE;
  /** Operations that still go to the pool. */
  #asynchronous = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether to go ahead synchronously; then {@link leave} must follow at once. */
  enter(): boolean {
    if (this.#asynchronous > 0) {
      this.#asynchronous -= 1;
      return false;
    }
    this.#started = this.#clock.now();
    return true;
  }

  /** @param bytes of the operation, which takes longer the more it copies. */
  leave(bytes: number): void {
    if (this.#clock.now() - this.#started < SLOW + bytes / BYTES_A_MILLISECOND) {
      this.#pause = FIRST_PAUSE;
      this.#suspicious = false;
      return;
    }
    if (!this.#suspicious) {
      this.#suspicious = true;
      return;
    }
    this.#asynchronous = this.#pause;
    this.#pause = Math.min(LONGEST_PAUSE, this.#pause * 2);
  }
}
