/**
 * The superblock: an immutable header in sector 0 and a mutable record in sector 2047.
 *
 *      sector 0      0  magic u32 = 0x57427374 (bytes 74 73 42 57)
 *                    4  segment_size_order u8, 4 … 10 (classic only; later drivers leave it uninitialised)
 *                    5  zero; not initialised by old drivers, ignored on read
 *                    or "dmkit restoring": a dump is being restored, and nothing here counts until that is done
 *      sector 2047   0  last_writeback_segment_id u64
 *                    8  zero
 *
 * Both are written as the 4 KiB around them, which belong to nobody else and are zero.
 */
import { getU32, getU8, isZero, setU32, setU64, setU8, tryU64 } from "@dmkit/block-io";
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

/** Whether sector 0 looks like a header but for magic and order: nothing else that is known does. */
export function isBareHeader(sector: Buffer): boolean {
  return isZero(sector, 5, 512) && !isZero(sector, 0, 5);
}

/** What sector 0 says. `order` is undefined where byte 4 is no order. */
export type Header =
  | { readonly kind: "blank" }
  | { readonly kind: "restoring" }
  | { readonly kind: "foreign"; readonly magic: number }
  | { readonly kind: "writeboost"; readonly order: number | undefined };

/** @param sector the 512 bytes of sector 0. */
export function decodeHeader(sector: Buffer): Header {
  if (isZero(sector, 0, 512)) return { kind: "blank" };
  if (sector.subarray(0, RESTORING.length).equals(RESTORING)) return { kind: "restoring" };
  const magic = getU32(sector, 0);
  if (magic !== MAGIC) return { kind: "foreign", magic };
  const order = getU8(sector, 4);
  return { kind: "writeboost", order: order >= MIN_ORDER && order <= MAX_ORDER ? order : undefined };
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
