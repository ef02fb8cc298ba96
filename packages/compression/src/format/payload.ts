/**
 * What is stored of an extent of n blocks, in both formats: at its first sector,
 *
 * ```
 * raw           8·n sectors: the blocks as they are
 * compressed    fewer sectors: compressed data, zero bytes, and in the last 4 bytes of the last sector the
 *               length of the compressed data (u32, little-endian)
 * ```
 */
import { SECTOR, getU32, setU32 } from "@dmkit/block-io";

const LENGTH_WORD = 4;

/** The most compressed bytes that are worth it: at least one sector is saved. Below 1: never. */
export function compressionLimit(length: number): number {
  return length - SECTOR - LENGTH_WORD;
}

/** Sectors that a compressed length takes. */
export function compressedSectors(length: number): number {
  return Math.ceil((length + LENGTH_WORD) / SECTOR);
}

/** A compressed payload: `length` bytes of `compressed`, nothing but zeroes behind them, the length at the end. */
export function encodePayload(compressed: Uint8Array, length: number): Buffer {
  const payload = Buffer.allocUnsafe(compressedSectors(length) * SECTOR).fill(0, length);
  payload.set(compressed.subarray(0, length));
  setU32(payload, payload.length - LENGTH_WORD, length);
  return payload;
}

/** The compressed data in a payload, or undefined if its length word cannot be right. */
export function compressedPart(payload: Buffer): Buffer | undefined {
  const length = getU32(payload, payload.length - LENGTH_WORD);
  return length === 0 || length > payload.length - LENGTH_WORD ? undefined : payload.subarray(0, length);
}
