/**
 * Concurrent flushes share one barrier.
 *
 * Invariants:
 *
 * - a caller's promise resolves only after a barrier that *started* after the call. A barrier that is already
 *   running may have missed writes the caller wants covered, so the caller joins the next one;
 * - one barrier at a time: also in the moment between the end of one and the start of the next that somebody
 *   waits for. A barrier that takes up what has gathered would otherwise leave nothing to the one that waits.
 */
export class FlushGroup {
  readonly #barrier: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  /** @param barrier makes everything stable that was done before it was called. */
  constructor(barrier: () => Promise<void>) {
    this.#barrier = barrier;
  }

  /** Resolves when a barrier begun after this call succeeded; rejects with that barrier's error. */
  flush(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    if (this.#running === undefined) return this.#start();
    this.#next = this.#running
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  #start(): Promise<void> {
    const running = this.#barrier().finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    this.#running = running;
    return running;
  }
}
