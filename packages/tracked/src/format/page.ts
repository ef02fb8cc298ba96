/**
 * A page: one sector, so it is written whole or not at all. Little-endian.
 *
 *      0    u32        CRC-32C of bytes 4 … 511
 *      4    u32        number of the page in its epoch, from 0
 *      8    u64        number of the epoch
 *      16   16 bytes   UUID of the bitmap device
 *      32   480 bytes  bits, least significant first: bit n is chunk 3840 · page + n; 1: changed since the epoch began
 *
 * A sector that is anything else is a lost page. Zeroes are lost as well: a page with no bits is written as such, so that
 * nothing which comes to read as zeroes passes for "unchanged".
 */
import { SECTOR, UUID_BYTES, crc32c, getU32, setU32, setU64, tryU64, uuidBytes } from "@dmkit/block-io";
import { PAGE_BITS_BYTES } from "./geometry.ts";

const BITS_AT = SECTOR - PAGE_BITS_BYTES;

/** Whose page it is. */
export interface PageOwner {
  /** Of the bitmap device. */
  readonly uuid: string;
  /** Of the epoch. */
  readonly number: number;
}

/** Puts a page at `at` of `into`. @param bits {@link PAGE_BITS_BYTES} bytes. */
export function encodePage(
  into: Buffer,
  at: number,
  { uuid, number }: PageOwner,
  page: number,
  bits: Uint8Array,
): void {
  const sector = into.subarray(at, at + SECTOR);
  setU32(sector, 4, page);
  setU64(sector, 8, number);
  sector.set(uuidBytes(uuid), 16);
  sector.set(bits, BITS_AT);
  setU32(sector, 0, crc32c(sector.subarray(4)));
}

/** The bits of a page, not copied; undefined if the sector is not this page. */
export function decodePage(sector: Buffer, { uuid, number }: PageOwner, page: number): Buffer | undefined {
  if (getU32(sector, 0) !== crc32c(sector.subarray(4))) return undefined;
  if (getU32(sector, 4) !== page || tryU64(sector, 8) !== number) return undefined;
  if (!sector.subarray(16, 16 + UUID_BYTES).equals(uuidBytes(uuid))) return undefined;
  return sector.subarray(BITS_AT);
}

/** The bits, whatever else is wrong with the sector. For the simulation, which opens devices that believe them. */
export function bitsOf(sector: Buffer): Buffer {
  return sector.subarray(BITS_AT);
}
