/**
 * One at a time, in order of arrival. Whoever finds it free goes through at once, in the same turn: a close that
 * nobody holds up takes effect before its call returns.
 */

/** Lets work through one at a time, in order of arrival. */
export class Turnstile {
  #last: Promise<unknown> | undefined;

  /** Runs `work` when everything that came before has settled. */
  pass<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last;
    const mine = before === undefined ? work() : before.then(work, work);
    const settled = mine.then(
      () => {},
      () => {},
    );
    this.#last = settled;
    void settled.then(() => {
      if (this.#last === settled) this.#last = undefined;
    });
    return mine;
  }
}
