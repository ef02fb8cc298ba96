/**
 * Concurrent flushes share one barrier.
 *
 * Invariants:
 *
 * - a caller's promise resolves only after a barrier that *started* after every change that was over before the
 *   call. A barrier that is already running may have missed some, so the caller joins the next one; only where the
 *   count of changes has not moved since the barrier started does the caller join that;
 * - one barrier at a time: also in the moment between the end of one and the start of the next that somebody
 *   waits for. A barrier that takes up what has gathered would otherwise leave nothing to the one that waits.
 */

/** Lets concurrent flushes share one barrier. */
export class FlushGroup {
  readonly #barrier: () => Promise<void>;
  readonly #changes: () => number;
  #running: Promise<void> | undefined;
  /** The changes that the barrier which is running covers. */
  #covered = 0;
  #next: Promise<void> | undefined;

  /**
   * @param barrier makes everything stable that was done before it was called.
   * @param changes counts what there is to make stable: it has grown, at the latest, when a change is over and
   *   before anybody is told. Without it every change counts as unknown.
   */
  constructor(barrier: () => Promise<void>, changes: () => number = unknown) {
    this.#barrier = barrier;
    this.#changes = changes;
  }

  /** Resolves when everything that was done before this call is stable; rejects with the barrier's error. */
  flush(): Promise<void> {
    if (this.#running === undefined) return this.#next ?? this.#start();
    if (this.#covered === this.#changes()) return this.#running;
    if (this.#next !== undefined) return this.#next;
    this.#next = this.#running
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  #start(): Promise<void> {
    this.#covered = this.#changes();
    const running = this.#barrier().finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    this.#running = running;
    return running;
  }
}

/** Equals nothing, not even itself. */
function unknown(): number {
  return Number.NaN;
}
