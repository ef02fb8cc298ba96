/**
 * Read caching: blocks that were read from the backing device enter the log as clean blocks.
 *
 * Invariant: what is staged is what a read of the block would return now. A block that is written, discarded
 * or zeroed after it was asked for is forgotten here and not staged.
 *
 * A scan must not flood the cache: once as many consecutive blocks as the threshold have been read, the rest
 * of the run is not staged.
 */
import { Popular } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import type { ReadPath } from "./read-path.ts";
import type { WritePath } from "./write-path.ts";

export class Staging {
  /** Fewer consecutive blocks than this may be staged; 0: off. */
  threshold = 0;
  readonly popular: Popular;
  /** Blocks that are being read, and the number of the read that may stage them. */
  readonly #reading: Map<number, number> = new Map();
  #reads = 0;
  #scanEnd = 0;
  #scanned = 0;

  /** @param blocks of the cache. */
  constructor(blocks: number) {
    this.popular = new Popular(blocks);
  }

  /** A read of `length` bytes at `offset` is about to begin. The ticket is for {@link staged}; 0: not to be staged. */
  begin(offset: number, length: number): number {
    const blocks = Math.ceil(length / BLOCK);
    this.#scanned = offset === this.#scanEnd ? this.#scanned + blocks : blocks;
    this.#scanEnd = offset + length;
    if (this.#scanned >= this.threshold) return 0;
    this.#reads += 1;
    const first = Math.ceil(offset / BLOCK);
    const end = Math.floor((offset + length) / BLOCK);
    for (let block = first; block < end; block += 1) this.#reading.set(block, this.#reads);
    return this.#reads;
  }

  /** Whether the block, read under this ticket, may still be staged; asked once. */
  take(block: number, ticket: number): boolean {
    if (this.#reading.get(block) !== ticket) return false;
    this.#reading.delete(block);
    return true;
  }

  /** Reads, and stages what comes from the backing device. @param ticket of {@link begin}. */
  async read(
    reads: ReadPath,
    writes: WritePath,
    offset: number,
    into: Buffer,
    ticket: number,
  ): Promise<void> {
    try {
      await reads.read(offset, into, (from, data) => {
        for (let at = (BLOCK - (from % BLOCK)) % BLOCK; at + BLOCK <= data.length; at += BLOCK) {
          const block = (from + at) / BLOCK;
          if (this.take(block, ticket) && this.popular.missed(block))
            writes.stage(block, data.subarray(at, at + BLOCK));
        }
      });
    } finally {
      this.#end(offset, into.length, ticket);
    }
  }

  /** The read is over; what of it was not taken was found elsewhere. */
  #end(offset: number, length: number, ticket: number): void {
    const end = Math.floor((offset + length) / BLOCK);
    for (let block = Math.ceil(offset / BLOCK); block < end; block += 1) this.take(block, ticket);
  }

  forget(block: number): void {
    if (this.#reading.size > 0) this.#reading.delete(block);
  }

  /** The blocks from `first` up to `end`. */
  forgetRange(first: number, end: number): void {
    if (end - first <= this.#reading.size)
      for (let block = first; block < end; block += 1) this.forget(block);
    else for (const block of this.#reading.keys()) if (block >= first && block < end) this.forget(block);
  }
}
