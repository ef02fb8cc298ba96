/**
 * Where things are on a cache device and on a plog device. All sizes and offsets in bytes unless a name says
 * sectors or blocks.
 *
 *      cache device   sector 0        superblock header
 *                     sectors 8 … 15  identity record (dmkit's own)
 *                     sector 2047     superblock record
 *                     sector 2048     slot 0, then slot after slot of 2^order sectors
 *      slot           4096            header and metablocks
 *                     4096 each       data of metablocks 0 … B - 1
 *      plog device    segment 0, then segment after segment of (1 + 8) × B sectors
 *
 * Segment ids start at 1; id i lives in slot (i - 1) mod N. N is as many as fit when the device is formatted, and stays
 * that when the device becomes larger: it stands in the identity record. Plain numbers throughout: products of slots and
 * sizes stay exact up to 2^53, where 32 bits would wrap at 2 TiB.
 */

/** Bytes in a cache block, the unit in which the cache maps. */
export const BLOCK = 4096;
/** log2 of the sectors in a block. */
export const SECTORS_PER_BLOCK = 8;
/** Bytes in front of the first slot. */
export const SLOTS_START: number = 1024 * 1024;
/** Allowed segment size orders. */
export const MIN_ORDER = 4;
export const MAX_ORDER = 10;
/** A ring of fewer slots could not tell its old end from its new one after a crash. */
export const MIN_SLOTS = 3;

// The most that recovery has to read and checksum because no flush is known to cover it.
const LARGEST_TAIL = 512 * 1024 * 1024;

export interface Geometry {
  readonly order: number;
  /** Bytes of a slot. */
  readonly slotSize: number;
  /** Slots in the ring: N. */
  readonly slots: number;
  /** Data blocks in a segment: B. */
  readonly blocks: number;
  /**
   * How many segments may be on the cache device without a flush behind them: K. Less than half of the ring,
   * so that after a crash the intact part is longer than all that may be torn (see core/log.ts).
   */
  readonly tail: number;
}

/** Data blocks in a segment of 2^order sectors. */
export function blocksPerSegment(order: number): number {
  return 2 ** (order - 3) - 1;
}

/**
 * Of a ring that fills a cache device of `size` bytes: right for a new one only, as a device may have grown since.
 * Fewer than {@link MIN_SLOTS} slots must be refused by the caller.
 */
export function geometryOf(size: number, order: number): Geometry {
  return geometryWith(order, Math.max(0, Math.floor((size - SLOTS_START) / slotSizeOf(order))));
}

/** Of a ring of `slots` slots. */
export function geometryWith(order: number, slots: number): Geometry {
  const slotSize = slotSizeOf(order);
  const tail = Math.max(1, Math.min(Math.floor((slots - 1) / 2), LARGEST_TAIL / slotSize));
  return { order, slotSize, slots, blocks: blocksPerSegment(order), tail };
}

function slotSizeOf(order: number): number {
  return 512 * 2 ** order;
}

/** The slot segment `id` lives in. */
export function slotOf({ slots }: Geometry, id: number): number {
  return (id - 1) % slots;
}

/** First byte of a slot. */
export function slotStart({ slotSize }: Geometry, slot: number): number {
  return SLOTS_START + slot * slotSize;
}

/** Bytes of a plog segment. */
export function plogSegmentSize(order: number): number {
  return (1 + SECTORS_PER_BLOCK) * blocksPerSegment(order) * 512;
}

/** P: how many plog segments are used, given how many buffers there are and how many segments fit. */
export function plogSegments(pool: number, fit: number): number {
  return fit > pool ? pool : Math.min(8, fit);
}
