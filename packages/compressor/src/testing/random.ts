/** Random numbers that can be repeated: a 32-bit xorshift generator with a mixed seed. */
export class SeededRandom {
  #state: number;

  /** @param seed any integer; equal seeds give equal sequences. */
  constructor(seed: number) {
    let mixed = Math.imul(seed ^ 0x5bd1e995, 0x9e3779b1);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
    this.#state = (mixed ^ (mixed >>> 13)) >>> 0 || 1;
  }

  /** An integer in 0 … 2^32 - 1. */
  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state >>> 0;
    return this.#state;
  }

  /** An integer in 0 … `bound` - 1. */
  below(bound: number): number {
    return this.next() % bound;
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item;
  }

  fill(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = this.next() >>> 11;
  }
}
