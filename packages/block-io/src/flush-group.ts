/**
 * Concurrent flushes share one barrier.
 *
 * Invariant: a caller's promise resolves only after a barrier that *started* after the call. A barrier that
 * is already running may have missed writes the caller wants covered, so the caller joins the next one.
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
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
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
