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
 * Version 2 can say less than version 3, and is written wherever it can say enough.
 *
 *      header   0   8    magic           "dmkitZR2"; "dmkitZR1": as version 2, without the fields from byte 80 on
 *               8   u32  state           1 complete, 2 being written
 *              12   u32  CRC-32C of bytes 0 … 511, this field taken as zero
 *              16   u64  bytes of the disk
 *              24   u64  pages in the table
 *              32   u64  bytes of the stored pages
 *              40   u32  CRC-32C of the table
 *              44   u32  zero
 *              48   32   version 2: algorithm, ASCII, filled up with zeroes; version 3: what programs that know only
 *                        version 2 say is missing when they refuse the snapshot
 *              80   32   version 2: second algorithm, if pages are compressed with it
 *             112   u64  generation: one more than that of the copy before
 *             120   u32  version: 3, or 0 for version 2
 *             124   u32  zero
 *             128   256  version 3: for the algorithms of priority 0 … 3, 64 bytes each:
 *                           0  32  name, ASCII, filled up with zeroes; empty: no page is compressed with it
 *                          32  32  SHA-256 of its dictionary; zeroes: it has none
 *             384        zero
 *
 *      entry    0   u32  page
 *               4   u16  bytes stored: 0 for a same-filled page, 4096 for one as it is, else it is compressed; 65535: none,
 *                        the page could not be read when this was written
 *               6   u8   0; 1: compressed with the second algorithm; 2: was on the backing device
 *               7   u8   priority of the algorithm it is compressed with, if that is not what byte 6 says; version 3 only
 *               8   u32  same-filled: first half of the pattern; otherwise CRC-32C of the bytes
 *              12   u32  same-filled: second half of the pattern; otherwise zero
 */
import { SECTOR, crc32c, getU16, getU32, isZero, setU16, setU32, setU64, tryU64 } from "@dmkit/block-io";

const MAGIC = Buffer.from("dmkitZR2");
const FIRST_MAGIC = Buffer.from("dmkitZR1");
export const ENTRY = 16;
/** Length of a page that is lost: whoever does not know of such pages takes the table for damaged. */
export const LOST = 0xffff;
export const states = { complete: 1, unfinished: 2 } as const;
/** The highest version there is. */
const VERSION = 3;
/** In place of an algorithm: older programs say that the snapshot is compressed with this, and leave it alone. */
const FOR_OLDER_PROGRAMS = "a newer dmkit (version 3)";
const ALGORITHMS = 4;
const RECOMPRESSED = 1;
const BACKED = 2;

/** How pages are compressed: what it takes to read them. */
export interface SnapshotAlgorithm {
  /** Empty: no page is. */
  readonly name: string;
  /** SHA-256 of the dictionary, if there is one. */
  readonly dictionary: Buffer | undefined;
}

export interface SnapshotHeader {
  readonly state: number;
  readonly diskSize: number;
  readonly pages: number;
  /** Bytes of all stored pages. */
  readonly bytes: number;
  readonly tableSum: number;
  /** By priority, 0 … 3. */
  readonly algorithms: readonly SnapshotAlgorithm[];
  /** Version 3 is written: some entry has a priority of its own, or some page a dictionary. */
  readonly isExtended: boolean;
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
  setU64(block, 112, header.generation);
  const [first, second] = header.algorithms;
  block.write(header.isExtended ? FOR_OLDER_PROGRAMS : (first?.name ?? ""), 48, 32, "latin1");
  if (header.isExtended) {
    setU32(block, 120, VERSION);
    for (const [priority, { name, dictionary }] of header.algorithms.entries()) {
      block.write(name, 128 + 64 * priority, 32, "latin1");
      dictionary?.copy(block, 160 + 64 * priority);
    }
  } else block.write(second?.name ?? "", 80, 32, "latin1");
  setU32(block, 12, crc32c(block.subarray(0, SECTOR)));
  return block;
}

/** Whether a block is, or was, a header: its checksum may be wrong. */
export function looksLikeHeader(block: Buffer): boolean {
  const magic = block.subarray(0, 8);
  return magic.equals(MAGIC) || magic.equals(FIRST_MAGIC);
}

/** The version that a header is of; only 1, 2 and 3 can be decoded. Undefined if it is not a header. */
export function versionOf(block: Buffer): number | undefined {
  if (!isHeader(block)) return undefined;
  if (block.subarray(0, 8).equals(FIRST_MAGIC)) return 1;
  const version = getU32(block, 120);
  if (version === 0) return 2;
  return version >= VERSION ? version : undefined;
}

function isHeader(block: Buffer): boolean {
  const sector = Buffer.from(block.subarray(0, SECTOR));
  const sum = getU32(sector, 12);
  setU32(sector, 12, 0);
  return looksLikeHeader(sector) && sum === crc32c(sector);
}

/** Undefined if it is not a header of a version that is known. */
export function decodeHeader(block: Buffer): SnapshotHeader | undefined {
  const version = versionOf(block);
  if (version === undefined || version > VERSION) return undefined;
  return {
    state: getU32(block, 8),
    diskSize: tryU64(block, 16),
    pages: tryU64(block, 24),
    bytes: tryU64(block, 32),
    tableSum: getU32(block, 40),
    algorithms: Array.from({ length: ALGORITHMS }, (_, priority) => algorithmIn(block, version, priority)),
    isExtended: version === VERSION,
    generation: version === 1 ? 0 : tryU64(block, 112),
  };
}

function algorithmIn(block: Buffer, version: number, priority: number): SnapshotAlgorithm {
  if (version === VERSION) {
    const at = 128 + 64 * priority;
    const dictionary = Buffer.from(block.subarray(at + 32, at + 64));
    return { name: textAt(block, at), dictionary: isZero(dictionary) ? undefined : dictionary };
  }
  const isThere = priority === 0 || (priority === 1 && version === 2);
  return { name: isThere ? textAt(block, 48 + 32 * priority) : "", dictionary: undefined };
}

function textAt(sector: Buffer, at: number): string {
  const text = sector.toString("latin1", at, at + 32);
  return text.slice(0, `${text}\0`.indexOf("\0"));
}

export interface SnapshotEntry {
  readonly page: number;
  /** Bytes stored; 0: same-filled; {@link LOST}. */
  readonly length: number;
  /** It was on the backing device. */
  readonly isBacked: boolean;
  /** Of the algorithm it is compressed with; 0 if it is not. Above 1, or above 0 on the backing device: version 3. */
  readonly priority: number;
  readonly low: number;
  readonly high: number;
}

export function encodeEntry(
  into: Buffer,
  at: number,
  { page, length, isBacked, priority, low, high }: SnapshotEntry,
): void {
  setU32(into, at, page);
  setU16(into, at + 4, length);
  const place = isBacked ? BACKED : priority === 1 ? RECOMPRESSED : 0;
  into[at + 6] = place;
  into[at + 7] = place === RECOMPRESSED ? 0 : priority;
  setU32(into, at + 8, low);
  setU32(into, at + 12, high);
}

/** Whether an entry can be written into a snapshot of version 3 only. */
export function needsVersion3({ isBacked, priority }: Pick<SnapshotEntry, "isBacked" | "priority">): boolean {
  return priority > (isBacked ? 0 : 1);
}

/** Undefined if its place or its priority is none there is. */
export function decodeEntry(from: Buffer, at: number): SnapshotEntry | undefined {
  const [place = 0, own = 0] = from.subarray(at + 6, at + 8);
  if (place > BACKED || own >= ALGORITHMS || (place === RECOMPRESSED && own > 0)) return undefined;
  return {
    page: getU32(from, at),
    length: getU16(from, at + 4),
    isBacked: place === BACKED,
    priority: place === RECOMPRESSED ? 1 : own,
    low: getU32(from, at + 8),
    high: getU32(from, at + 12),
  };
}
