/** Some of many numbers, evenly spread over all of them, though nobody knows beforehand how many come. */
export class EvenSample {
  readonly #most: number;
  #chosen: number[] = [];
  #every = 1;
  #offered = 0;

  /** @param most 1 or more; at least half as many are chosen in the end, if there are as many. */
  constructor(most: number) {
    this.#most = most;
  }

  offer(value: number): void {
    if (this.#offered % this.#every === 0) this.#chosen.push(value);
    this.#offered += 1;
    if (this.#chosen.length <= this.#most) return;
    this.#chosen = this.#chosen.filter((_, index) => index % 2 === 0);
    this.#every *= 2;
  }

  get chosen(): readonly number[] {
    return this.#chosen;
  }
}
