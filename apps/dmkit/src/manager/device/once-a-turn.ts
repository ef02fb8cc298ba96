/**
 * One answer for all who ask in one turn. A device below several others is asked by each of them, and they by each of
 * those above them: every way from the top down would ask it again, twice as often with every level of a stack.
 */

export class OnceATurn<T> {
  #asked: Promise<T> | undefined;

  /** What `work` gives, which is done once until the turn is over, or what was asked about has changed. */
  ask(work: () => Promise<T>): Promise<T> {
    if (this.#asked === undefined) {
      // Before the work: whoever hears of anything that ends meanwhile comes after this, and asks again.
      queueMicrotask(() => this.changed());
      this.#asked = work();
    }
    return this.#asked;
  }

  changed(): void {
    this.#asked = undefined;
  }
}
