/**
 * Partition tables, as somebody else has written them: nothing in them is believed before it was checked. Little-endian.
 *
 *      MBR      446 + 16·i: active (0 or 0x80), …; 4 type; 8 first sector; 12 sectors       four of them
 *               510: 55 AA. A logical partition has a table of its own: entry 0 is the partition, counted from that
 *               table; entry 1 leads to the next one, counted from the first sector of the extended partition
 *
 *      GPT      block 1, and the last one: 0 "EFI PART"; 12 bytes of the header; 16 CRC-32 of it, with this field zero;
 *               24 its own block; 72 first block of the entries; 80 their number; 84 bytes of each; 88 CRC-32 of all
 *      entry    0 type, 16 bytes, all zero for none; 32 first block; 40 last block
 *
 * Places and lengths are compared by what is left behind them: nothing is added that could be anything.
 */
import { crc32 } from "node:zlib";
import { getU16, getU32, getU8, tryU64 } from "../bytes/bytes.ts";

/** A partition, in blocks of the table: bytes over the block's size. */
export interface PartitionEntry {
  readonly first: number;
  readonly count: number;
}

/** An entry of an MBR, or of the table of a logical partition. */
export interface MbrEntry extends PartitionEntry {
  readonly type: number;
}

const GPT_PROTECTION = 0xee;
const EXTENDED = [0x05, 0x0f, 0x85];

/** Whether others are in it, instead of data. */
export function isExtended({ type }: MbrEntry): boolean {
  return EXTENDED.includes(type);
}

/** Whether an MBR says that there is a GPT. */
export function protectsGpt(entries: readonly MbrEntry[]): boolean {
  return entries.some(({ type }) => type === GPT_PROTECTION);
}

/** The four entries of a sector; undefined if it has no table. A count of 0 is no partition. */
export function readMbr(sector: Buffer): readonly MbrEntry[] | undefined {
  if (sector.length < 512 || getU16(sector, 510) !== 0xaa55) return undefined;
  const places = [446, 462, 478, 494];
  if (!places.every((at) => [0, 0x80].includes(getU8(sector, at)))) return undefined;
  return places.map((at) => {
    const type = getU8(sector, at + 4);
    return { type, first: getU32(sector, at + 8), count: type === 0 ? 0 : getU32(sector, at + 12) };
  });
}

/** Whether an entry lies in a device, or a part of one, of so many blocks; the first of them may be the table. */
export function fits({ first, count }: PartitionEntry, blocks: number): boolean {
  return count > 0 && first > 0 && first < blocks && count <= blocks - first;
}

/** Where the entries of a GPT are. */
export interface GptHeader {
  /** Block of the first entry. */
  readonly entriesAt: number;
  readonly count: number;
  /** Bytes of each. */
  readonly entrySize: number;
  readonly entriesCrc: number;
}

/** @param block the one it was read from. @param blocks of the device. Undefined for a header that cannot be right. */
export function readGptHeader(bytes: Buffer, block: number, blocks: number): GptHeader | undefined {
  if (bytes.toString("latin1", 0, 8) !== "EFI PART") return undefined;
  const length = getU32(bytes, 12);
  if (length < 92 || length > bytes.length || length > 512) return undefined;
  const header = Buffer.from(bytes.subarray(0, length));
  header.fill(0, 16, 20);
  if (crc32(header) !== getU32(bytes, 16) || tryU64(bytes, 24) !== block) return undefined;
  const [entriesAt, count, entrySize] = [tryU64(bytes, 72), getU32(bytes, 80), getU32(bytes, 84)];
  if (count < 1 || count > 1024 || ![128, 256, 512, 1024].includes(entrySize)) return undefined;
  const needed = Math.ceil((count * entrySize) / bytes.length);
  if (!(entriesAt > 1 && entriesAt < blocks && needed <= blocks - entriesAt)) return undefined;
  return { entriesAt, count, entrySize, entriesCrc: getU32(bytes, 88) };
}

/** All entries, in order; undefined for bytes that are not those the header was written for. A count of 0 is none. */
export function readGptEntries(
  bytes: Buffer,
  { count, entrySize, entriesCrc }: GptHeader,
): readonly PartitionEntry[] | undefined {
  const table = bytes.subarray(0, count * entrySize);
  if (crc32(table) !== entriesCrc) return undefined;
  return Array.from({ length: count }, (_, index) => {
    const at = index * entrySize;
    const isNone = table.subarray(at, at + 16).every((byte) => byte === 0);
    const [first, last] = [tryU64(table, at + 32), tryU64(table, at + 40)];
    return { first, count: isNone || !(first <= last) ? 0 : last - first + 1 };
  });
}
