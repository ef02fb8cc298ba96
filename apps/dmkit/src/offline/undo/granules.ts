/** Which granules of a device are saved: a bitmap that has memory only for the parts that are used. */
import { Bitmap } from "@dmkit/block-io";

// Granules in one part: 4 KiB of memory for 128 MiB of a device.
const PART = 32 * 1024;

export class GranuleSet {
  readonly #parts = new Map<number, Bitmap>();

  has(granule: number): boolean {
    return this.#parts.get(Math.floor(granule / PART))?.get(granule % PART) === true;
  }

  add(first: number, count: number): void {
    for (let at = first; at < first + count; ) {
      const part = Math.floor(at / PART);
      const end = Math.min(first + count, (part + 1) * PART);
      let bits = this.#parts.get(part);
      if (bits === undefined) this.#parts.set(part, (bits = new Bitmap(PART)));
      bits.set(at % PART, end - at);
      at = end;
    }
  }

  /** Runs of granules in `first` … `end` - 1 that are not in the set. */
  *missing(first: number, end: number): Iterable<{ first: number; count: number }> {
    for (let at = first; at < end; ) {
      const bits = this.#parts.get(Math.floor(at / PART));
      const partEnd = Math.min(end, (Math.floor(at / PART) + 1) * PART);
      if (bits === undefined) {
        yield { first: at, count: partEnd - at };
        at = partEnd;
        continue;
      }
      while (at < partEnd && bits.get(at % PART)) at += 1;
      const start = at;
      while (at < partEnd && !bits.get(at % PART)) at += 1;
      if (at > start) yield { first: start, count: at - start };
    }
  }
}
