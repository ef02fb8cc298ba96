/**
 * Format 2: the metadata of a group of 64 blocks, one sector; little-endian.
 *
 *      byte   0   u32      CRC-32C of bytes 4 … 511, begun with the UUID and the group's number (u64)
 *             4   u32      zero
 *             8   u64      number of the journal record that changed it last
 *            16   64 × u8  states: payload sectors 0 … 8, plus 16 for a tail; 15: contents are lost
 *            80   64 × u32 checksums: at the head of an extent the CRC-32C of its payload, begun with the UUID
 *                          and the head's number (u64); zero elsewhere
 *           336            zero
 */
import { SECTOR, crc32c, getU32, setU32, setU64, tryU64 } from "@dmkit/block-io";
import { GROUP } from "./layout-v2.ts";
import { checkOrMend } from "./single-bit.ts";

const SUMS = 16 + GROUP;

/** Where the checksums of things with a UUID and a number begin. */
export function salt(uuid: Buffer, number: number): number {
  setU64(numberBytes, 0, number);
  return crc32c(numberBytes, crc32c(uuid));
}
const numberBytes = Buffer.alloc(8);

/** The checksum of the payload of the extent at block `head`. */
export function payloadSum(uuid: Buffer, head: number, payload: Uint8Array): number {
  return crc32c(payload, salt(uuid, head));
}

/** Writes a group's sector into `into` at byte `at`. States and sums are those of all blocks. */
export function encodeGroup(
  into: Buffer,
  at: number,
  uuid: Buffer,
  group: number,
  record: number,
  states: Uint8Array,
  sums: Uint32Array,
): void {
  const sector = into.subarray(at, at + SECTOR);
  sector.fill(0);
  setU64(sector, 8, record);
  const first = group * GROUP;
  const count = Math.min(GROUP, states.length - first);
  for (let index = 0; index < count; index += 1) {
    sector[16 + index] = states[first + index] as number;
    setU32(sector, SUMS + index * 4, sums[first + index] as number);
  }
  setU32(sector, 0, crc32c(sector.subarray(4), salt(uuid, group)));
}

/** Reads a group's sector; the number of the record that wrote it, or undefined if it does not check. */
export function decodeGroup(
  sector: Buffer,
  uuid: Buffer,
  group: number,
  states: Uint8Array,
  sums: Uint32Array,
): number | undefined {
  if (getU32(sector, 0) !== crc32c(sector.subarray(4, SECTOR), salt(uuid, group))) return undefined;
  const first = group * GROUP;
  const count = Math.min(GROUP, states.length - first);
  for (let index = 0; index < count; index += 1) {
    states[first + index] = sector[16 + index] as number;
    sums[first + index] = getU32(sector, SUMS + index * 4);
  }
  return tryU64(sector, 8);
}

/** Puts one flipped bit of a group's sector right, if that is what is wrong with it: to be proved by other means. */
export function mendGroup(sector: Buffer, uuid: Buffer, group: number): Buffer | undefined {
  const mended = Buffer.from(sector.subarray(0, SECTOR));
  const seed = salt(uuid, group);
  if (!checkOrMend(mended.subarray(4), seed, getU32(mended, 0))) return undefined;
  setU32(mended, 0, crc32c(mended.subarray(4), seed));
  return mended;
}
