/**
 * Seeded random numbers (sfc32): the only source of chance in a simulation. Integer arithmetic throughout, so
 * that every machine draws the same.
 *
 * One seed feeds many independent streams. A decision belongs to the stream of its purpose: leaving out one
 * operation while shrinking then changes nothing about what the other operations do.
 */
import type { Random } from "../../contract/environment.ts";

const TWO_32 = 0x1_0000_0000;

export class Prng implements Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param seed an integer, 0 … 2^53 - 1. @param stream tells apart the purposes one seed serves. */
  constructor(seed: number, stream = 0) {
    this.#a = seed | 0;
    this.#b = Math.floor(seed / TWO_32) ^ 0x9e37_79b9;
    this.#c = Math.imul(stream + 1, 0x85eb_ca6b);
    for (let round = 0; round < 12; round += 1) this.u32();
  }

  /** An integer, 0 … 2^32 - 1. */
  u32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    return sum >>> 0;
  }

  /** A float in [0, 1). */
  next(): number {
    return this.u32() / TWO_32;
  }

  /** An integer, 0 … n - 1; 0 where n is 0. */
  below(n: number): number {
    return Math.floor((this.u32() * n) / TWO_32);
  }

  /** An integer, `low` … `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(probability: number): boolean {
    return this.u32() < probability * TWO_32;
  }

  pick<T>(choices: readonly [T, ...T[]]): T;
  pick<T>(choices: readonly T[]): T | undefined;
  pick<T>(choices: readonly T[]): T | undefined {
    return choices[this.below(choices.length)];
  }

  /** An index into `weights`, in proportion to them. */
  weighted(weights: readonly number[]): number {
    let rest = this.next() * weights.reduce((sum, weight) => sum + weight, 0);
    for (let index = 0; index < weights.length; index += 1) {
      rest -= weights[index] as number;
      if (rest < 0) return index;
    }
    return Math.max(0, weights.length - 1);
  }
}
