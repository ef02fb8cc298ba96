/**
 * What every cache block holds, and where the newest copy of a backing block is: typed arrays, no object per
 * block. With a backing device of up to 16 TiB a cache block costs 4 + 1 + 1 bytes here and 4 × 4/3 in the
 * lookup table: 11.4 in all, with the byte of each slot up to 12.4; 4 more beyond that.
 *
 * A cache block is numbered slot × B + index in the segment. Of each, the map keeps
 *
 *      key      backing block (4 KiB) it is a copy of
 *      valid    sectors whose contents are in the log
 *      dirty    those of them that are not known to be durable on the backing device
 *
 * Invariants:
 *
 * - the lookup table names exactly one copy of each cached backing block: the newest;
 * - older copies keep their dirty bits until they are written back or a newer copy is durable, since until
 *   then the older one is what a crash would leave; `dirtyBlocks` does not count them;
 * - dirty ⊆ valid; being written back clears dirty only, so the block still hits.
 */

import { clearMetadata, setMetablock, spreadMetablocks } from "../format/segment.ts";
import { sectorsOfBlock } from "./sectors.ts";

type Keys = Uint32Array | Float64Array;

const GOLDEN = 0x9e37_79b1;
const TWO_32 = 0x1_0000_0000;
// Entries of the table that are filled together: 256 KiB.
const PART = 65_536;

export class BlockMap {
  /** B: cache blocks in a segment. */
  readonly blocks: number;
  readonly keys: Keys;
  readonly valid: Uint8Array;
  readonly dirty: Uint8Array;
  /** Cache blocks in use, by slot. */
  readonly lengths: Uint8Array;
  /** Newest copies that are dirty. */
  dirtyBlocks = 0;
  // Open addressing, linear probing: cache block + 1, or 0.
  readonly #table: Uint32Array;

  /** @param backingBlocks backing blocks there are; decides how wide keys are. */
  constructor(slots: number, blocks: number, backingBlocks: number) {
    const count = slots * blocks;
    this.blocks = blocks;
    this.keys = backingBlocks <= TWO_32 ? new Uint32Array(count) : new Float64Array(count);
    this.valid = new Uint8Array(count);
    this.dirty = new Uint8Array(count);
    this.lengths = new Uint8Array(slots);
    this.#table = new Uint32Array(Math.ceil((count * 4) / 3) + 1);
  }

  /** Bytes of RAM all arrays take. */
  get bytes(): number {
    return (
      this.keys.byteLength +
      this.valid.byteLength +
      this.dirty.byteLength +
      this.lengths.byteLength +
      this.#table.byteLength
    );
  }

  /** The newest copy of a backing block, or -1. */
  find(block: number): number {
    const table = this.#table;
    for (let at = this.#home(block); ; ) {
      const entry = table[at] as number;
      if (entry === 0) return -1;
      if (this.keys[entry - 1] === block) return entry - 1;
      at += 1;
      if (at === table.length) at = 0;
    }
  }

  /** The first block from `block` on that has a copy; `end` if none before it has. */
  firstFrom(block: number, end: number): number {
    let at = block;
    while (at < end && this.find(at) < 0) at += 1;
    return at;
  }

  /** Cache block `index` becomes the newest copy of its key, in place of `previous` (-1: there was none). */
  adopt(index: number, previous: number): void {
    const block = this.keys[index] as number;
    const table = this.#table;
    for (let at = this.#home(block); ; ) {
      const entry = table[at] as number;
      if (entry === 0 || this.keys[entry - 1] === block) {
        table[at] = index + 1;
        break;
      }
      at += 1;
      if (at === table.length) at = 0;
    }
    if (previous >= 0 && this.dirty[previous] !== 0) this.dirtyBlocks -= 1;
    if (this.dirty[index] !== 0) this.dirtyBlocks += 1;
  }

  /**
   * Makes each cache block of `slots`, in that order, the newest copy of its key. `superseded` is called for those
   * that had one, which then counts as dirty no more. The map must be empty. The result is the same as with
   * {@link adopt} one by one.
   *
   * Blocks are taken by the part of the table they go to, their keys beside them, so that all of it stays in the
   * processor's cache: millions of accesses all over some hundred megabytes would each wait for memory. Until this
   * returns it takes 8 bytes a block more, 4 where keys are wide.
   */
  adoptAll(slots: Float64Array, superseded: (index: number, previous: number) => void): void {
    const { indexes, keys, ends } = this.#byPart(slots);
    const near = this.keys instanceof Uint32Array ? new Uint32Array(PART) : new Float64Array(PART);
    let from = 0;
    for (const [part, end] of ends.entries()) {
      this.#fillPart(part * PART, near, indexes.subarray(from, end), keys?.subarray(from, end), superseded);
      from = end;
    }
  }

  /** The blocks of `slots`, sorted by part of the table; in each part they stay in order. */
  #byPart(slots: Float64Array): { indexes: Uint32Array; keys: Uint32Array | undefined; ends: Uint32Array } {
    const { keys, dirty } = this;
    const starts = new Uint32Array(Math.ceil(this.#table.length / PART) + 1);
    let count = 0;
    for (const slot of slots) {
      const first = slot * this.blocks;
      const end = first + (this.lengths[slot] as number);
      for (let index = first; index < end; index += 1) {
        const part = Math.floor(this.#home(keys[index] as number) / PART);
        starts[part + 1] = (starts[part + 1] as number) + 1;
        if (dirty[index] !== 0) this.dirtyBlocks += 1;
        count += 1;
      }
    }
    for (let part = 1; part < starts.length; part += 1)
      starts[part] = (starts[part] as number) + (starts[part - 1] as number);
    const indexes = new Uint32Array(count);
    const sorted = keys instanceof Uint32Array ? new Uint32Array(count) : undefined;
    for (const slot of slots) {
      const first = slot * this.blocks;
      const end = first + (this.lengths[slot] as number);
      for (let index = first; index < end; index += 1) {
        const block = keys[index] as number;
        const part = Math.floor(this.#home(block) / PART);
        const at = starts[part] as number;
        indexes[at] = index;
        if (sorted !== undefined) sorted[at] = block;
        starts[part] = at + 1;
      }
    }
    // Every start has moved to the end of its part.
    return { indexes, keys: sorted, ends: starts.subarray(0, -1) };
  }

  /** @param near the keys of this part's entries, by place in the part. */
  #fillPart(
    start: number,
    near: Uint32Array | Float64Array,
    indexes: Uint32Array,
    sorted: Uint32Array | undefined,
    superseded: (index: number, previous: number) => void,
  ): void {
    const { keys, dirty } = this;
    const table = this.#table;
    const size = table.length;
    const end = Math.min(size, start + PART);
    // What did not fit into the part before this one.
    for (let at = start; at < end && table[at] !== 0; at += 1)
      near[at - start] = keys[(table[at] as number) - 1] as number;
    for (let next = 0; next < indexes.length; next += 1) {
      const index = indexes[next] as number;
      const block = (sorted === undefined ? keys[index] : sorted[next]) as number;
      let at = this.#home(block);
      let entry = table[at] as number;
      while (entry !== 0) {
        const there = at >= start && at < end ? near[at - start] : keys[entry - 1];
        if (there === block) break;
        at = at + 1 === size ? 0 : at + 1;
        entry = table[at] as number;
      }
      table[at] = index + 1;
      if (at >= start && at < end) near[at - start] = block;
      if (entry === 0) continue;
      if (dirty[entry - 1] !== 0) this.dirtyBlocks -= 1;
      superseded(index, entry - 1);
    }
  }

  /**
   * What a slot holds, all of it dirty; nothing is adopted. False, and the slot stays empty, if one of its blocks lies
   * outside of the backing device.
   * @param head the first 4096 bytes of the slot, of which `length` metablocks count. @param backing bytes.
   */
  load(slot: number, head: Buffer, length: number, backing: number): boolean {
    const { keys, valid, dirty } = this;
    const at = slot * this.blocks;
    if (!spreadMetablocks(head, length, backing / 512, { keys, bits: dirty }, at)) {
      dirty.fill(0, at, at + length);
      return false;
    }
    this.lengths[slot] = length;
    for (let index = at; index < at + length; index += 1) {
      const bits = dirty[index] as number;
      valid[index] = bits === 0 ? sectorsOfBlock(backing, keys[index] as number) : bits;
    }
    return true;
  }

  /** Writes what a slot holds into its head, with the one or the other as its bits, and zeroes elsewhere: see read-slot.ts. */
  store(slot: number, head: Buffer, bits: "valid" | "dirty"): void {
    clearMetadata(head);
    const first = slot * this.blocks;
    const column = this[bits];
    for (let at = 0; at < (this.lengths[slot] as number); at += 1)
      setMetablock(head, at, (this.keys[first + at] as number) * 8, column[first + at] as number);
  }

  /** The next cache block of a slot becomes the newest copy of `block`, in place of `previous` (-1: there was none). */
  append(slot: number, block: number, valid: number, dirty: number, previous: number): number {
    const at = this.lengths[slot] as number;
    const index = slot * this.blocks + at;
    this.lengths[slot] = at + 1;
    this.put(index, block, valid, dirty);
    this.adopt(index, previous);
    return index;
  }

  /** What cache block `index` holds; it is not adopted by that. */
  put(index: number, block: number, valid: number, dirty: number): void {
    this.keys[index] = block;
    this.valid[index] = valid;
    this.dirty[index] = dirty;
  }

  /** Marks more sectors of a newest copy dirty. */
  markDirty(index: number, bits: number): void {
    const before = this.dirty[index] as number;
    if (before === 0 && bits !== 0) this.dirtyBlocks += 1;
    this.dirty[index] = before | bits;
    this.valid[index] = (this.valid[index] as number) | bits;
  }

  /** Of a slot before anything is adopted: it counts for nothing. */
  leaveOut(slot: number): void {
    this.lengths[slot] = 0;
  }

  /** Of a slot before anything is adopted: all of its blocks are durable on the backing device. */
  startClean(slot: number): void {
    const first = slot * this.blocks;
    this.dirty.fill(0, first, first + (this.lengths[slot] as number));
  }

  /** A cache block that a newer one has superseded is not dirty. */
  settle(index: number): void {
    this.dirty[index] = 0;
  }

  /** All of a slot's blocks are durable on the backing device. */
  clean(slot: number): void {
    const first = slot * this.blocks;
    const end = first + (this.lengths[slot] as number);
    for (let index = first; index < end; index += 1) {
      if (this.dirty[index] === 0) continue;
      if (this.find(this.keys[index] as number) === index) this.dirtyBlocks -= 1;
      this.dirty[index] = 0;
    }
  }

  /** Forgets a slot whose blocks are all clean. Returns the keys it held. */
  evict(slot: number): Float64Array {
    const first = slot * this.blocks;
    const count = this.lengths[slot] as number;
    const keys = new Float64Array(count);
    for (let offset = 0; offset < count; offset += 1) {
      const index = first + offset;
      const block = this.keys[index] as number;
      keys[offset] = block;
      if (this.find(block) === index) this.#remove(block);
      this.valid[index] = 0;
      this.dirty[index] = 0;
    }
    this.lengths[slot] = 0;
    return keys;
  }

  #remove(block: number): void {
    const table = this.#table;
    const size = table.length;
    let hole = this.#home(block);
    while (this.keys[(table[hole] as number) - 1] !== block) hole = (hole + 1) % size;
    // Close the hole, so that probing never has to skip tombstones.
    for (let at = hole; ; ) {
      at += 1;
      if (at === size) at = 0;
      const entry = table[at] as number;
      if (entry === 0) break;
      const home = this.#home(this.keys[entry - 1] as number);
      const stays = hole <= at ? hole < home && home <= at : hole < home || home <= at;
      if (stays) continue;
      table[hole] = entry;
      hole = at;
    }
    table[hole] = 0;
  }

  // The block number is the key, not a sector number, whose low three bits would leave 7/8 of the table empty.
  #home(block: number): number {
    return homeOf(block, this.#table.length);
  }
}

/** Where in a table of `size` entries the search for a block begins. */
export function homeOf(block: number, size: number): number {
  const high = block < TWO_32 ? 0 : Math.floor(block / TWO_32);
  const hash = Math.imul((block ^ Math.imul(high, 0x85eb_ca6b)) | 0, GOLDEN) >>> 0;
  return Math.floor((hash / TWO_32) * size);
}
