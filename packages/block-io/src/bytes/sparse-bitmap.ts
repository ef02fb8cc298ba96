/** A bitmap without an end that has memory only for the parts in which something was set. */
import { Bitmap } from "./bitmap.ts";

const PART = 32 * 1024;
const BITS = PART * 8;
const EMPTY = new Bitmap(BITS);

/** Equal bits in a row. */
export interface BitRun {
  readonly first: number;
  readonly count: number;
}

/** Bits 0 … 2^53 - 1, clear at first. */
export class SparseBitmap {
  /** Bytes of a part. */
  static readonly PART: number = PART;
  readonly #parts = new Map<number, Bitmap>();

  /** Bits that are set. */
  get count(): number {
    let count = 0;
    for (const bits of this.#parts.values()) count += bits.count();
    return count;
  }

  /** Sets `count` bits from `first`. */
  set(first: number, count: number): void {
    for (let at = first; at < first + count; ) {
      const part = Math.floor(at / BITS);
      const end = Math.min(first + count, (part + 1) * BITS);
      let bits = this.#parts.get(part);
      if (bits === undefined) this.#parts.set(part, (bits = new Bitmap(BITS)));
      bits.set(at % BITS, end - at);
      at = end;
    }
  }

  /** Takes {@link SparseBitmap.PART} bytes as those of a part, counted from 0, in the place of what it was; not copied. */
  put(part: number, bytes: Uint8Array): void {
    const bits = new Bitmap(BITS, bytes);
    if (bits.find(true, 0) < BITS) this.#parts.set(part, bits);
    else this.#parts.delete(part);
  }

  /** The runs of one value in `first` … `end` - 1, in order, as long as they can be. */
  *runs(value: boolean, first: number, end: number): Iterable<BitRun> {
    let from = first;
    let to = first;
    for (let at = first; at < end; ) {
      const start = at - (at % BITS);
      const bits = this.#parts.get(start / BITS) ?? EMPTY;
      const stop = Math.min(BITS, end - start);
      const begin = bits.find(value, at - start, stop);
      if (start + begin !== to) {
        if (to > from) yield { first: from, count: to - from };
        from = start + begin;
      }
      at = start + bits.find(!value, begin, stop);
      to = at;
    }
    if (to > from) yield { first: from, count: to - from };
  }
}
