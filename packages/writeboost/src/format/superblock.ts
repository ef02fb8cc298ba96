/**
 * The superblock: an immutable header in sector 0 and a mutable record in sector 2047.
 *
 *      sector 0      0  magic u32 = 0x57427374 (bytes 74 73 42 57)
 *                    4  segment_size_order u8, 4 … 10 (classic only; later drivers leave it uninitialised)
 *                    5  zero; not initialised by old drivers, ignored on read
 *                    or magic "dmkL", then as it was: the backing device went on without what only the cache has
 *                    or "dmkit restoring": a dump is being restored, and nothing here counts until that is done
 *                    or "dmkit growing", at 16 the order u8, at 17 the dialect u8 (0 classic, 1 v2): everything has been
 *                    written back, nothing here counts, and whoever opens it formats it anew, as large as the device is
 *                    or "dmkit formatting": nothing on the device counts, and never will: it was given up, or is being formatted.
 *                    That is durable before anything else of it goes, so no crash leaves a part of a cache
 *      sector 2047   0  last_writeback_segment_id u64
 *                    8  zero
 *
 * Both are written as the 4 KiB around them, which belong to nobody else and are zero.
 */
import { getU32, getU8, isUnfinished, isZero, setU32, setU64, setU8, tryU64 } from "@dmkit/block-io";
import type { Dialect } from "./checksum.ts";
import { BLOCK, MAX_ORDER, MIN_ORDER } from "./geometry.ts";

export const MAGIC = 0x5742_7374;
/** Bytes; sectors 0 … 7. */
export const HEADER_START = 0;
/** Bytes; sectors 2040 … 2047, the record is the last one. */
export const RECORD_START: number = 2040 * 512;

/** Of the block at {@link RECORD_START}: the byte where the record is. */
export const RECORD: number = 7 * 512;

const RESTORING = Buffer.from("dmkit restoring\0", "latin1");

/** The 512 bytes of sector 0 while a dump is being restored: neither blank nor a cache, so nobody touches it. */
export function encodeRestoring(): Buffer {
  const sector = Buffer.alloc(512);
  RESTORING.copy(sector);
  return sector;
}

const GROWING = Buffer.from("dmkit growing\0\0\0", "latin1");

/** The 4 KiB at {@link HEADER_START} while a cache is made as large as its device. */
export function encodeGrowing(order: number, dialect: Dialect): Buffer {
  const block = Buffer.alloc(BLOCK);
  GROWING.copy(block);
  setU8(block, 16, order);
  setU8(block, 17, dialect === "classic" ? 0 : 1);
  return block;
}

/** "dmkL", in the place of {@link MAGIC}: it was left behind, and must not be put back without a word. Older programs refuse it. */
export const LEFT_MAGIC: number = 0x4c6b_6d64;

/** The 4 KiB at {@link HEADER_START} of a cache that was left behind. */
export function encodeLeft(order: number): Buffer {
  const block = encodeHeader(order);
  setU32(block, 0, LEFT_MAGIC);
  return block;
}

/** Whether sector 0 looks like a header but for magic and order: nothing else that is known does. */
export function isBareHeader(sector: Buffer): boolean {
  return isZero(sector, 5, 512) && !isZero(sector, 0, 5);
}

/** What sector 0 says. `order` is undefined where byte 4 is no order. */
export type Header =
  | { readonly kind: "blank" }
  | { readonly kind: "unfinished" }
  | { readonly kind: "restoring" }
  | { readonly kind: "growing"; readonly order: number; readonly dialect: Dialect }
  | { readonly kind: "foreign"; readonly magic: number }
  | { readonly kind: "writeboost"; readonly order: number | undefined };

/** @param sector the 512 bytes of sector 0. */
export function decodeHeader(sector: Buffer): Header {
  if (isZero(sector, 0, 512)) return { kind: "blank" };
  if (isUnfinished(sector)) return { kind: "unfinished" };
  if (sector.subarray(0, RESTORING.length).equals(RESTORING)) return { kind: "restoring" };
  const [kept, dialect] = [getU8(sector, 16), getU8(sector, 17)];
  if (sector.subarray(0, GROWING.length).equals(GROWING) && isOrder(kept) && dialect <= 1)
    return { kind: "growing", order: kept, dialect: dialect === 0 ? "classic" : "v2" };
  const magic = getU32(sector, 0);
  if (magic !== MAGIC) return { kind: "foreign", magic };
  const order = getU8(sector, 4);
  return { kind: "writeboost", order: isOrder(order) ? order : undefined };
}

function isOrder(value: number): boolean {
  return value >= MIN_ORDER && value <= MAX_ORDER;
}

/** The 4 KiB at {@link HEADER_START}. */
export function encodeHeader(order: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  setU32(block, 0, MAGIC);
  setU8(block, 4, order);
  return block;
}

/** The last_writeback_segment_id in the 4 KiB at {@link RECORD_START}; 0 where it is no sane number. */
export function decodeRecord(block: Buffer): number {
  const id = tryU64(block, RECORD);
  return Number.isNaN(id) ? 0 : id;
}

/** The 4 KiB at {@link RECORD_START}. */
export function encodeRecord(lastWritebackId: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  setU64(block, RECORD, lastWritebackId);
  return block;
}
