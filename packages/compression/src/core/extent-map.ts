/**
 * What is stored where, in both formats: one byte a block.
 *
 *      bits 0–3   payload sectors attributed to the block, 0 … 8; 15: contents are lost
 *      bit  4     tail: the block continues the extent of the block before it
 *
 * An extent is a head and the tails behind it, at most 32 blocks. States come from a disk that may be damaged, so
 * an extent can turn out to be malformed: `bad`.
 */
import { BLOCK_SECTORS, MAX_EXTENT } from "../format/geometry-v1.ts";

export const TAIL = 16;
export const LOST = 15;
const SECTORS = 15;

export interface StoredExtent {
  readonly head: number;
  readonly blocks: number;
  /** Of payload; 0: never written, reads as zeroes. */
  readonly sectors: number;
  /** The states make no sense: nothing can be said about the contents of these blocks. */
  readonly bad: boolean;
}

export class ExtentMap {
  readonly states: Uint8Array;

  constructor(blocks: number) {
    this.states = new Uint8Array(blocks);
  }

  get blocks(): number {
    return this.states.length;
  }

  /** Whether a block is a hole: an extent of its own, without payload. */
  isHole(block: number): boolean {
    if (this.states[block] !== 0) return false;
    return block + 1 >= this.blocks || ((this.states[block + 1] as number) & TAIL) === 0;
  }

  /** The extent a block belongs to. */
  find(block: number): StoredExtent {
    const { states } = this;
    let head = block;
    while (((states[head] as number) & TAIL) !== 0) {
      if (head === 0 || block - head >= MAX_EXTENT - 1) return alone(block);
      head -= 1;
    }
    const atHead = (states[head] as number) & SECTORS;
    let sectors = atHead;
    let bad = sectors > BLOCK_SECTORS;
    let end = head + 1;
    for (; end < states.length && ((states[end] as number) & TAIL) !== 0; end += 1) {
      if (end - head >= MAX_EXTENT) return alone(block);
      const own = (states[end] as number) & SECTORS;
      if (own > BLOCK_SECTORS) bad = true;
      sectors += own;
    }
    // A payload that does not begin at the head is no payload: these are tails without a head.
    if (atHead === 0 && sectors > 0) bad = true;
    return { head, blocks: end - head, sectors, bad };
  }

  /** Makes `blocks` from `head` one extent: 8 sectors for each block until the payload is used up. */
  setExtent(head: number, blocks: number, sectors: number): void {
    for (let index = 0; index < blocks; index += 1) {
      const own = Math.min(BLOCK_SECTORS, Math.max(0, sectors - index * BLOCK_SECTORS));
      this.states[head + index] = own | (index === 0 ? 0 : TAIL);
    }
  }

  /** Never written. */
  drop(first: number, blocks: number): void {
    this.states.fill(0, first, first + blocks);
  }

  lose(first: number, blocks: number): void {
    this.states.fill(LOST, first, first + blocks);
  }
}

function alone(block: number): StoredExtent {
  return { head: block, blocks: 1, sectors: 0, bad: true };
}
