/**
 * A snapshot of the disk on a device; little-endian. FORMAT.md has the whole of it.
 *
 * ```
 * block 0         header
 * block 1 …       table: 16 bytes for each page that is stored, in ascending order of pages
 * next block …    the bytes of the stored pages, one after the other, in the order of the table
 * ```
 *
 *      header   0   8    magic           "dmkitZR1"
 *               8   u32  state           1 complete, 2 being written
 *              12   u32  CRC-32C of bytes 0 … 511, this field taken as zero
 *              16   u64  bytes of the disk
 *              24   u64  pages in the table
 *              32   u64  bytes of the stored pages
 *              40   u32  CRC-32C of the table
 *              44   u32  zero
 *              48   32   algorithm, ASCII, filled up with zeroes
 *              80        zero
 *
 *      entry    0   u32  page
 *               4   u16  bytes stored: 0 for a same-filled page, 4096 for one as it is, else it is compressed
 *               6   u16  zero
 *               8   u32  same-filled: first half of the pattern; otherwise CRC-32C of the bytes
 *              12   u32  same-filled: second half of the pattern; otherwise zero
 */
import { SECTOR, crc32c, getU16, getU32, setU16, setU32, setU64, tryU64 } from "@dmkit/block-io";

const MAGIC = Buffer.from("dmkitZR1");
export const ENTRY = 16;
export const states = { complete: 1, unfinished: 2 } as const;

export interface SnapshotHeader {
  readonly state: number;
  readonly diskSize: number;
  readonly pages: number;
  /** Bytes of all stored pages. */
  readonly bytes: number;
  readonly tableSum: number;
  readonly algorithm: string;
}

/** @returns 4096 bytes. */
export function encodeHeader(header: SnapshotHeader): Buffer {
  const block = Buffer.alloc(4096);
  MAGIC.copy(block);
  setU32(block, 8, header.state);
  setU64(block, 16, header.diskSize);
  setU64(block, 24, header.pages);
  setU64(block, 32, header.bytes);
  setU32(block, 40, header.tableSum);
  block.write(header.algorithm, 48, 32, "latin1");
  setU32(block, 12, crc32c(block.subarray(0, SECTOR)));
  return block;
}

/** Undefined if it is not a header. */
export function decodeHeader(block: Buffer): SnapshotHeader | undefined {
  const sector = Buffer.from(block.subarray(0, SECTOR));
  const sum = getU32(sector, 12);
  setU32(sector, 12, 0);
  if (!sector.subarray(0, 8).equals(MAGIC) || sum !== crc32c(sector)) return undefined;
  const name = sector.toString("latin1", 48, 80);
  return {
    state: getU32(sector, 8),
    diskSize: tryU64(sector, 16),
    pages: tryU64(sector, 24),
    bytes: tryU64(sector, 32),
    tableSum: getU32(sector, 40),
    algorithm: name.slice(0, `${name}\0`.indexOf("\0")),
  };
}

export interface SnapshotEntry {
  readonly page: number;
  /** Bytes stored; 0: same-filled. */
  readonly length: number;
  readonly low: number;
  readonly high: number;
}

export function encodeEntry(into: Buffer, at: number, { page, length, low, high }: SnapshotEntry): void {
  setU32(into, at, page);
  setU16(into, at + 4, length);
  setU16(into, at + 6, 0);
  setU32(into, at + 8, low);
  setU32(into, at + 12, high);
}

export function decodeEntry(from: Buffer, at: number): SnapshotEntry {
  return {
    page: getU32(from, at),
    length: getU16(from, at + 4),
    low: getU32(from, at + 8),
    high: getU32(from, at + 12),
  };
}
