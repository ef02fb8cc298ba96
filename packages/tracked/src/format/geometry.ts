/**
 * Where things are on a bitmap device. Bytes:
 *
 *      0        superblock, first copy
 *      65536    superblock, second copy
 *      131072   slot 0: its pages, then zeroes up to a multiple of 4096
 *      …        slot 1, 2 …, all of the same length
 *
 * A chunk is the unit of tracking, a page (one sector) the unit in which bits are written: 3840 chunks each.
 */
import { SECTOR } from "@dmkit/block-io";

/** Bytes of one copy of the superblock, and where the copies are. */
export const SUPERBLOCK_BYTES = 8192;
export const SUPERBLOCK_PLACES: readonly [first: number, second: number] = [0, 65_536];
/** Bytes in front of the first slot. */
export const PAGES_START = 131_072;
/** Bytes of bits in a page. */
export const PAGE_BITS_BYTES = 480;
/** Chunks that a page speaks for. */
export const PAGE_CHUNKS: number = PAGE_BITS_BYTES * 8;

export const MIN_CHUNK = 4096;
export const MAX_CHUNK: number = 64 * 1024 * 1024;
/** Epochs there can be at a time, at most. */
export const MAX_SLOTS = 64;
/** Chunks of a device, at most: 256 MiB of memory for each epoch. */
export const MAX_CHUNKS: number = 2 ** 31;

// So that no slot shares a block with another one.
const SLOT_UNIT = 4096;

/** What a bitmap device was made for. */
export interface Geometry {
  /** Bytes that are tracked. */
  readonly size: number;
  /** Bytes; a power of two. */
  readonly chunk: number;
  /** Epochs that there is room for. */
  readonly slots: number;
}

/** Chunks; the last one may be short. */
export function chunksOf({ size, chunk }: Geometry): number {
  return Math.ceil(size / chunk);
}

/** Pages of one epoch. */
export function pagesOf(geometry: Geometry): number {
  return Math.ceil(chunksOf(geometry) / PAGE_CHUNKS);
}

/** Bytes of one slot. */
export function slotBytes(geometry: Geometry): number {
  return Math.ceil((pagesOf(geometry) * SECTOR) / SLOT_UNIT) * SLOT_UNIT;
}

/** Bytes on the bitmap device where the pages of a slot begin. */
export function slotStart(geometry: Geometry, slot: number): number {
  return PAGES_START + slot * slotBytes(geometry);
}

/** Bytes that the bitmap device must have. */
export function bitmapDeviceSize(geometry: Geometry): number {
  return slotStart(geometry, geometry.slots);
}

/** What is wrong with a geometry, in words; undefined if nothing is. */
export function geometryProblem({ size, chunk, slots }: Geometry): string | undefined {
  if (!Number.isSafeInteger(size) || size <= 0 || size % SECTOR !== 0)
    return `${size} bytes cannot be tracked: they are no whole sectors of ${SECTOR} bytes`;
  if (!(chunk >= MIN_CHUNK && chunk <= MAX_CHUNK) || !Number.isInteger(Math.log2(chunk)))
    return `a granularity of ${chunk} bytes is no power of two from ${MIN_CHUNK} to ${MAX_CHUNK}`;
  if (!(slots >= 1 && slots <= MAX_SLOTS)) return `${slots} epochs are not from 1 to ${MAX_SLOTS}`;
  if (size / chunk > MAX_CHUNKS) return `${size} bytes have more than ${MAX_CHUNKS} chunks of ${chunk} bytes`;
  return undefined;
}
