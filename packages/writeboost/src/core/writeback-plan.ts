/**
 * Which bytes of a batch of segments go where on the backing device.
 *
 * Entries are sorted by (block, segment id): a strict order, as a segment holds a block once. Of the copies of
 * one block in the batch every sector is taken from the newest that has it dirty; neighbouring pieces become
 * one write of at most {@link LARGEST_WRITE} bytes. Blocks of zeroes become requests of their own: what clients
 * have trimmed or zeroed lies in the log as data, and must not take space below.
 */
import { isZero } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry.ts";
import { runEnd, runStart } from "./sectors.ts";

/** A dirty block of the batch. */
export interface Entry {
  /** Backing block. */
  readonly block: number;
  readonly id: number;
  /** Cache block. */
  readonly index: number;
  /** Sectors to write. */
  readonly bits: number;
  /** Where the block's data is. */
  readonly data: Buffer;
}

/** One write to the backing device: `pieces` one after the other; without any, zeroes. */
export interface PlannedWrite {
  readonly offset: number;
  length: number;
  readonly pieces: Buffer[];
}

/** Bytes that one request may zero. */
const LARGEST_ZERO = 64 * 1024 * 1024;

/** Bytes. */
export const LARGEST_WRITE: number = 1024 * 1024;

/** What has to be written for these entries, in the order of addresses. */
export function planWriteback(entries: readonly Entry[]): PlannedWrite[] {
  const sorted = [...entries].sort((a, b) => a.block - b.block || a.id - b.id);
  const writes: PlannedWrite[] = [];
  for (let from = 0; from < sorted.length; ) {
    let to = from + 1;
    while (to < sorted.length && sorted[to]?.block === sorted[from]?.block) to += 1;
    planBlock(sorted, from, to, writes);
    from = to;
  }
  return writes;
}

/** Copies `from` … `to - 1` are of one block, oldest first. */
function planBlock(sorted: readonly Entry[], from: number, to: number, writes: PlannedWrite[]): void {
  const newest = sorted[to - 1] as Entry;
  if (newest.bits === 0xff && isZero(newest.data)) return appendZeroes(writes, newest.block * BLOCK);
  if (to === from + 1) {
    for (let at = runStart(newest.bits, 0); at < 8; ) {
      const end = runEnd(newest.bits, at);
      append(writes, newest, at, end);
      at = runStart(newest.bits, end);
    }
    return;
  }
  for (let sector = 0; sector < 8; sector += 1) {
    for (let copy = to - 1; copy >= from; copy -= 1) {
      const entry = sorted[copy] as Entry;
      if (((entry.bits >> sector) & 1) === 0) continue;
      append(writes, entry, sector, sector + 1);
      break;
    }
  }
}

function appendZeroes(writes: PlannedWrite[], offset: number): void {
  const last = writes.at(-1);
  if (
    last !== undefined &&
    last.pieces.length === 0 &&
    last.offset + last.length === offset &&
    last.length < LARGEST_ZERO
  ) {
    last.length += BLOCK;
    return;
  }
  writes.push({ offset, length: BLOCK, pieces: [] });
}

function append(writes: PlannedWrite[], { block, data }: Entry, from: number, to: number): void {
  const offset = block * BLOCK + from * 512;
  const piece = data.subarray(from * 512, to * 512);
  const last = writes.at(-1);
  if (
    last !== undefined &&
    last.pieces.length > 0 &&
    last.offset + last.length === offset &&
    last.length + piece.length <= LARGEST_WRITE
  ) {
    last.length += piece.length;
    const tail = last.pieces.at(-1) as Buffer;
    // Blocks that lie one after the other in the segment too, as sequential writes do, need no copy.
    if (tail.buffer === piece.buffer && tail.byteOffset + tail.length === piece.byteOffset) {
      last.pieces[last.pieces.length - 1] = Buffer.from(
        tail.buffer,
        tail.byteOffset,
        tail.length + piece.length,
      );
    } else {
      last.pieces.push(piece);
    }
    return;
  }
  writes.push({ offset, length: piece.length, pieces: [piece] });
}
