/**
 * A dense bitmap: bit n is bit n % 8 (least significant first) of byte n / 8. Runs are found by whole bytes
 * and words, never bit by bit.
 */

/** A fixed number of bits, with a fast search. */
export class Bitmap {
  /** Bits. */
  readonly length: number;
  /** Bit n lives in byte n >> 3. Shared, not copied: formats read and write it directly. */
  readonly bytes: Uint8Array;

  /** @param length bits, below 2^35; @param bytes existing storage of at least ceil(length / 8) bytes. */
  constructor(length: number, bytes: Uint8Array = new Uint8Array(Math.ceil(length / 8))) {
    if (bytes.length < Math.ceil(length / 8))
      throw new RangeError(`${bytes.length} bytes cannot hold ${length} bits`);
    this.length = length;
    this.bytes = bytes;
  }

  /** Whether bit `at` is set. */
  get(at: number): boolean {
    this.#check(at, 1);
    return (((this.bytes[Math.floor(at / 8)] as number) >> (at % 8)) & 1) === 1;
  }

  /** Sets or clears `count` bits from `at`. */
  fill(at: number, count: number, value: boolean): void {
    this.#check(at, count);
    const end = at + count;
    const firstWhole = Math.ceil(at / 8);
    const lastWhole = Math.floor(end / 8);
    if (firstWhole > lastWhole) return this.#mask(lastWhole, at % 8, end % 8, value);
    if (at % 8 !== 0) this.#mask(firstWhole - 1, at % 8, 8, value);
    this.bytes.fill(value ? 0xff : 0, firstWhole, lastWhole);
    if (end % 8 !== 0) this.#mask(lastWhole, 0, end % 8, value);
  }

  /** Sets `count` bits from `at`. */
  set(at: number, count = 1): void {
    this.fill(at, count, true);
  }

  /** Clears `count` bits from `at`. */
  clear(at: number, count = 1): void {
    this.fill(at, count, false);
  }

  /** The end of the run of equal bits that starts at `at`, at most `end` (default: the length). */
  runEnd(at: number, end: number = this.length): number {
    const value = this.get(at);
    return this.find(!value, at, end);
  }

  /** The first bit with the given value in `from` … `end` - 1, or `end`. */
  find(value: boolean, from: number, end: number = this.length): number {
    if (from >= end) return end;
    this.#check(from, end - from);
    const skip = value ? 0 : 0xff;
    let index = Math.floor(from / 8);
    // The bits before `from` in the first byte do not count.
    let byte = ((this.bytes[index] as number) ^ skip) & (0xff << (from % 8));
    const last = Math.floor((end - 1) / 8);
    while (byte === 0 && index < last) {
      index += 1;
      byte = (this.bytes[index] as number) ^ skip;
    }
    if (byte === 0) return end;
    return Math.min(end, index * 8 + 31 - Math.clz32(byte & -byte));
  }

  /** Set bits in `from` … `end` - 1. */
  count(from = 0, end: number = this.length): number {
    let total = 0;
    for (let at = from; at < end; ) {
      if (at % 8 === 0 && end - at >= 8) {
        total += ONES[this.bytes[at / 8] as number] as number;
        at += 8;
      } else {
        total += this.get(at) ? 1 : 0;
        at += 1;
      }
    }
    return total;
  }

  #mask(index: number, from: number, to: number, value: boolean): void {
    const mask = (0xff << from) & (0xff >> (8 - to));
    const byte = this.bytes[index] as number;
    this.bytes[index] = value ? byte | mask : byte & ~mask;
  }

  #check(at: number, count: number): void {
    if (Number.isSafeInteger(at) && at >= 0 && count >= 0 && at <= this.length && count <= this.length - at)
      return;
    throw new RangeError(`bits ${at} … ${at + count - 1} lie outside a bitmap of ${this.length}`);
  }
}

const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);
