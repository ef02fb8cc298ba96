/**
 * Which sectors of a disk the log has anything of, over any number of segments. Their data lies at the same place of the
 * file that holds it (device/log-file.ts), so this is all there is to know.
 */
import { SECTOR } from "@dmkit/block-io";
import { BLOCK } from "../format/log-object.ts";

export class LogIndex {
  // As large as the log: a bitmap would be as large as the part of the disk in which anything was written.
  /** By block of 4096 bytes: bit j for sector j. */
  readonly #bits = new Map<number, number>();
  #sorted: readonly number[] | undefined;

  /** The log has sectors `bits` (1 … 255) of a block. */
  add(block: number, bits: number): void {
    this.#bits.set(block, bits | (this.#bits.get(block) ?? 0));
    this.#sorted = undefined;
  }

  /** Blocks that the log has anything of. */
  get size(): number {
    return this.#bits.size;
  }

  /** What the log has of the bytes from `from` to before `to`, both multiples of 512; in order, contiguous sectors together. */
  *ranges(from: number, to: number): Generator<{ readonly offset: number; readonly length: number }> {
    const blocks = (this.#sorted ??= [...this.#bits.keys()].sort((a, b) => a - b));
    let start = from;
    let end = from;
    for (let at = firstFrom(blocks, Math.floor(from / BLOCK)); at < blocks.length; at += 1) {
      const block = blocks[at] as number;
      if (block * BLOCK >= to) break;
      const bits = this.#bits.get(block) as number;
      for (let sector = 0; sector < 8; sector += 1) {
        const offset = block * BLOCK + sector * SECTOR;
        if ((bits & (1 << sector)) === 0 || offset < from || offset >= to) continue;
        if (offset > end) {
          if (end > start) yield { offset: start, length: end - start };
          start = offset;
        }
        end = offset + SECTOR;
      }
    }
    if (end > start) yield { offset: start, length: end - start };
  }
}

/** The place of the first that is not less than `least`, in numbers in order. */
function firstFrom(numbers: readonly number[], least: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((numbers[middle] as number) < least) low = middle + 1;
    else high = middle;
  }
  return low;
}
