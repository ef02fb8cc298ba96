/**
 * A segment slot.
 *
 *      byte 0            id u64          0: never used
 *           8            checksum u32    over bytes 512 … 4096 × (1 + length) - 1, see checksum.ts
 *           12           length u8       metablocks that count, 0 … B
 *           13           zero to 512
 *           512 + 16 i   metablock i:    sector u64, dirty_bits u8, 7 zero bytes
 *           4096 (1 + i) data of metablock i
 *
 * Bytes 0 … 511 are one sector and therefore written whole or not at all. Sectors of a block whose bit is not
 * set hold arbitrary bytes, yet the checksum covers them. dirty_bits 0 means, in the v2 dialect and in logs of
 * 1.0.1, a clean block whose sectors are all valid.
 */
import { getU32, getU8, setU32, setU64, setU8, tryU64 } from "@dmkit/block-io";
import { type Dialect, checksum, dialectOfChecksum } from "./checksum.ts";
import { BLOCK, type Geometry, slotStart } from "./geometry.ts";

const METABLOCKS = 512;
const METABLOCK = 16;

/** The first sector of a slot. `id` is NaN where the stored one is above 2^53 - 1. */
export interface SegmentHeader {
  readonly id: number;
  readonly checksum: number;
  readonly length: number;
}

/** Bytes that a segment of `length` blocks occupies, and that are written for it. */
export function segmentSize(length: number): number {
  return BLOCK * (1 + length);
}

/** Offset in the slot of the data of metablock `index`. */
export function dataStart(index: number): number {
  return BLOCK * (1 + index);
}

/** Byte on the cache device of the data of cache block `index`: slot × B + index in the segment. */
export function blockOffset(geometry: Geometry, index: number): number {
  const slot = Math.floor(index / geometry.blocks);
  return slotStart(geometry, slot) + dataStart(index - slot * geometry.blocks);
}

export function decodeSegmentHeader(slot: Buffer): SegmentHeader {
  return { id: tryU64(slot, 0), checksum: getU32(slot, 8), length: getU8(slot, 12) };
}

/** Sectors of the head that hold anything, for as many blocks as the first one says. */
export function headSectors(slot: Buffer): number {
  return Math.min(8, Math.ceil((METABLOCKS + METABLOCK * getU8(slot, 12)) / 512));
}

/** The first sector of metablock `index` on the backing device; NaN where it is no sane number. */
export function metablockSector(slot: Buffer, index: number): number {
  return tryU64(slot, METABLOCKS + METABLOCK * index);
}

export function metablockBits(slot: Buffer, index: number): number {
  return getU8(slot, METABLOCKS + METABLOCK * index + 8);
}

export function setMetablock(slot: Buffer, index: number, sector: number, bits: number): void {
  const at = METABLOCKS + METABLOCK * index;
  setU64(slot, at, sector);
  // One byte, and with it the seven zero bytes.
  setU64(slot, at + 8, bits);
}

/** Zeroes the header and all metablocks, before those that count are put there. */
export function clearMetadata(slot: Buffer): void {
  slot.fill(0, 0, BLOCK);
}

/** Checksum and header, once metablocks and data are in their places. */
export function sealSegment(dialect: Dialect, slot: Buffer, id: number, length: number): void {
  slot.fill(0, 0, METABLOCKS);
  setU64(slot, 0, id);
  setU32(slot, 8, checksum(dialect, slot.subarray(METABLOCKS, segmentSize(length))));
  setU8(slot, 12, length);
}

/**
 * Makes segment `id` an empty one by its header alone; what the metablocks hold stays, and the checksum covers it.
 * @param head the first 4096 bytes of the slot.
 */
export function emptySegment(dialect: Dialect, head: Buffer, id: number): void {
  sealSegment(dialect, head, id, 0);
}

/** The dialect whose checksum holds; undefined for a segment that is torn or damaged, or longer than what is given of it. */
export function dialectOf(slot: Buffer): Dialect | undefined {
  const header = decodeSegmentHeader(slot);
  const size = segmentSize(header.length);
  if (size > slot.length) return undefined;
  return dialectOfChecksum(header.checksum, slot.subarray(METABLOCKS, size));
}

/**
 * Whether the bytes are those that were sealed, in whatever dialect. Earlier versions took a table's word for the
 * dialect, and have left logs with segments of both: each of them is as good as its checksum.
 */
export function isWhole(slot: Buffer): boolean {
  return dialectOf(slot) !== undefined;
}

/** Why a slot's header and metablocks cannot be those of segment `id`, or undefined if they can. */
export type MetadataProblem = "unused" | "id" | "length" | "sector" | "bits";

/** What {@link checkMetadata} holds a slot against. */
export interface MetadataBounds {
  readonly slot: number;
  readonly slots: number;
  readonly blocks: number;
  /** Sectors of the backing device. */
  readonly backing: number;
  /** Whether dirty_bits 0 is legal. */
  readonly cleanAllowed: boolean;
}

/** @param head the first 4096 bytes of the slot. */
export function checkMetadata(head: Buffer, bounds: MetadataBounds): MetadataProblem | undefined {
  const problem = checkHeader(head, bounds);
  if (problem !== undefined) return problem;
  const { length } = decodeSegmentHeader(head);
  for (let index = 0; index < length; index += 1) {
    const sector = metablockSector(head, index);
    const bits = metablockBits(head, index);
    if (bits === 0 && !bounds.cleanAllowed) return "bits";
    if (!blockFits(sector, bits, bounds.backing)) return "sector";
  }
  return undefined;
}

/** As far as the first sector of the slot tells. */
export function checkHeader(
  head: Buffer,
  { slot, slots, blocks }: Pick<MetadataBounds, "slot" | "slots" | "blocks">,
): MetadataProblem | undefined {
  const { id, length } = decodeSegmentHeader(head);
  if (id === 0) return "unused";
  if (!(id > 0) || (id - 1) % slots !== slot) return "id";
  return length > blocks ? "length" : undefined;
}

/** In the short last block of a backing device only the dirty sectors need fit. */
function blockFits(sector: number, bits: number, backing: number): boolean {
  if (!(sector < backing) || sector % 8 !== 0) return false;
  return bits === 0 || sector + 32 - Math.clz32(bits) <= backing;
}

/**
 * Spreads the metablocks of a head over columns, from index `at` on: backing block and dirty_bits of each. There
 * are millions of them on a large device. False if one of them lies outside of the backing device.
 * @param backing sectors.
 */
export function spreadMetablocks(
  head: Buffer,
  length: number,
  backing: number,
  columns: { readonly keys: Uint32Array | Float64Array; readonly bits: Uint8Array },
  at: number,
): boolean {
  const { keys, bits } = columns;
  for (let index = 0; index < length; index += 1) {
    const from = METABLOCKS + METABLOCK * index;
    // Above 2^53 the sum is not exact, but then it is beyond every device.
    const sector = head.readUInt32LE(from) + head.readUInt32LE(from + 4) * 0x1_0000_0000;
    const dirty = head[from + 8] as number;
    if (!blockFits(sector, dirty, backing)) return false;
    keys[at + index] = sector / 8;
    bits[at + index] = dirty;
  }
  return true;
}
