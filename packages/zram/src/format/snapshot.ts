/**
 * Snapshots of the disk on a device; little-endian. FORMAT.md has the whole of it. A device holds two, written in
 * turn: the first copy begins at block 0, the second where the first would end if nothing could be compressed. Each is
 *
 * ```
 * block 0         header
 * block 1 …       table: 16 bytes for each page that is stored, in ascending order of pages
 * next block …    the bytes of the stored pages, one after the other, in the order of the table
 * ```
 *
 *      header   0   8    magic           "dmkitZR2"; "dmkitZR1": as version 2, without the fields from byte 80 on
 *               8   u32  state           1 complete, 2 being written
 *              12   u32  CRC-32C of bytes 0 … 511, this field taken as zero
 *              16   u64  bytes of the disk
 *              24   u64  pages in the table
 *              32   u64  bytes of the stored pages
 *              40   u32  CRC-32C of the table
 *              44   u32  zero
 *              48   32   algorithm, ASCII, filled up with zeroes
 *              80   32   second algorithm, if pages are compressed with it
 *             112   u64  generation: one more than that of the copy before
 *             120        zero
 *
 *      entry    0   u32  page
 *               4   u16  bytes stored: 0 for a same-filled page, 4096 for one as it is, else it is compressed; 65535: none,
 *                        the page could not be read when this was written
 *               6   u16  0; 1: compressed with the second algorithm; 2: was on the backing device
 *               8   u32  same-filled: first half of the pattern; otherwise CRC-32C of the bytes
 *              12   u32  same-filled: second half of the pattern; otherwise zero
 */
import { SECTOR, crc32c, getU16, getU32, setU16, setU32, setU64, tryU64 } from "@dmkit/block-io";

const MAGIC = Buffer.from("dmkitZR2");
const FIRST_MAGIC = Buffer.from("dmkitZR1");
export const ENTRY = 16;
/** Length of a page that is lost: whoever does not know of such pages takes the table for damaged. */
export const LOST = 0xffff;
export const states = { complete: 1, unfinished: 2 } as const;
/** Where a page was, as an entry tells. */
export const places = { memory: 0, recompressed: 1, backing: 2 } as const;

export interface SnapshotHeader {
  readonly state: number;
  readonly diskSize: number;
  readonly pages: number;
  /** Bytes of all stored pages. */
  readonly bytes: number;
  readonly tableSum: number;
  readonly algorithm: string;
  /** Empty: no page is compressed with a second one. */
  readonly secondAlgorithm: string;
  /** Of two copies that are complete the one with the higher number counts. 0: of version 1. */
  readonly generation: number;
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
  block.write(header.secondAlgorithm, 80, 32, "latin1");
  setU64(block, 112, header.generation);
  setU32(block, 12, crc32c(block.subarray(0, SECTOR)));
  return block;
}

/** Whether a block is, or was, a header: its checksum may be wrong. */
export function looksLikeHeader(block: Buffer): boolean {
  const magic = block.subarray(0, 8);
  return magic.equals(MAGIC) || magic.equals(FIRST_MAGIC);
}

/** Undefined if it is not a header. */
export function decodeHeader(block: Buffer): SnapshotHeader | undefined {
  const sector = Buffer.from(block.subarray(0, SECTOR));
  const sum = getU32(sector, 12);
  setU32(sector, 12, 0);
  if (!looksLikeHeader(sector) || sum !== crc32c(sector)) return undefined;
  const isFirst = sector.subarray(0, 8).equals(FIRST_MAGIC);
  return {
    state: getU32(sector, 8),
    diskSize: tryU64(sector, 16),
    pages: tryU64(sector, 24),
    bytes: tryU64(sector, 32),
    tableSum: getU32(sector, 40),
    algorithm: textAt(sector, 48),
    secondAlgorithm: isFirst ? "" : textAt(sector, 80),
    generation: isFirst ? 0 : tryU64(sector, 112),
  };
}

function textAt(sector: Buffer, at: number): string {
  const text = sector.toString("latin1", at, at + 32);
  return text.slice(0, `${text}\0`.indexOf("\0"));
}

export interface SnapshotEntry {
  readonly page: number;
  /** Bytes stored; 0: same-filled; {@link LOST}. */
  readonly length: number;
  /** One of {@link places}. */
  readonly place: number;
  readonly low: number;
  readonly high: number;
}

export function encodeEntry(
  into: Buffer,
  at: number,
  { page, length, place, low, high }: SnapshotEntry,
): void {
  setU32(into, at, page);
  setU16(into, at + 4, length);
  setU16(into, at + 6, place);
  setU32(into, at + 8, low);
  setU32(into, at + 12, high);
}

export function decodeEntry(from: Buffer, at: number): SnapshotEntry {
  return {
    page: getU32(from, at),
    length: getU16(from, at + 4),
    place: getU16(from, at + 6),
    low: getU32(from, at + 8),
    high: getU32(from, at + 12),
  };
}
