/**
 * Which set a block belongs to: the 64-bit multiplicative hash of the original, of the block's number divided
 * by min(ways, 512), so that runs of that many consecutive blocks share a set.
 *
 *      v   = sector >> (log2 block size + log2 min(ways, 512))
 *      set = (top log2(frames) bits of v · 0x9e37fffffffc0001 mod 2^64) / ways
 */
import type { Geometry } from "../format/geometry.ts";

const PRIME_LOW = 0xfffc_0001;
const PRIME_HIGH = 0x9e37_ffff;
const LOW_HALF = 0x1_0000;
const HIGH = 0x1_0000_0000;

export class Sets {
  /** Sets of the cache; at least 1. */
  readonly count: number;
  readonly #run: number;
  readonly #shift: number;
  readonly #wayShift: number;

  constructor({ frames, ways }: Geometry) {
    this.count = frames / ways;
    this.#run = Math.min(ways, 512);
    this.#shift = 32 - Math.log2(frames);
    this.#wayShift = Math.log2(ways);
  }

  /** @param block a block's number: source sector / block size; below 2^44. */
  of(block: number): number {
    // One frame has no bits to take, and a shift by 32 would be none.
    if (this.#shift === 32) return 0;
    return (highHalf(Math.floor(block / this.#run)) >>> this.#shift) >>> this.#wayShift;
  }
}

/** Bits 32 … 63 of v · 0x9e37fffffffc0001, exactly; v below 2^53. */
function highHalf(v: number): number {
  const low = v % HIGH;
  const high = (v - low) / HIGH;
  const lowest = low % LOW_HALF;
  const upper = (low - lowest) / LOW_HALF;
  // Both products are below 2^48, so nothing is rounded.
  const carried = Math.floor((upper * PRIME_LOW + Math.floor((lowest * PRIME_LOW) / LOW_HALF)) / LOW_HALF);
  return (carried + Math.imul(low, PRIME_HIGH) + Math.imul(high, PRIME_LOW)) >>> 0;
}
