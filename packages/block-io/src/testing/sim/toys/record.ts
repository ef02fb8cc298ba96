/**
 * The records of the toy devices: a header sector, and the data behind it.
 *
 *      byte 0   u32  magic "toy!"
 *           4   u32  epoch       (log) the incarnation of the log; (cache) 0
 *           8   u64  sequence    counts up
 *          16   u32  target      sector on the device where the data belongs
 *          20   u32  count       sectors of data, 0 … 64
 *          24   u32  CRC-32C of bytes 0 … 23 and the data
 *          28        zero to 512
 */
import { getU32, setU32, setU64, tryU64 } from "../../../bytes/bytes.ts";
import { crc32c } from "../../../bytes/crc32c.ts";
import { SECTOR } from "../../../contract/device.ts";

const MAGIC = 0x2179_6f74;
const MOST = 64;

export interface ToyRecord {
  readonly epoch: number;
  readonly sequence: number;
  readonly target: number;
  readonly count: number;
}

/** Header and data in one buffer, ready to be written. */
export function encodeRecord({ epoch, sequence, target, count }: ToyRecord, data: Buffer): Buffer {
  const bytes = Buffer.alloc(SECTOR + count * SECTOR);
  setU32(bytes, 0, MAGIC);
  setU32(bytes, 4, epoch);
  setU64(bytes, 8, sequence);
  setU32(bytes, 16, target);
  setU32(bytes, 20, count);
  data.copy(bytes, SECTOR, 0, count * SECTOR);
  setU32(bytes, 24, checksum(bytes, count));
  return bytes;
}

/** The record at the start of `bytes`, or undefined if there is no whole one. */
export function decodeRecord(bytes: Buffer): ToyRecord | undefined {
  if (getU32(bytes, 0) !== MAGIC) return undefined;
  const count = getU32(bytes, 20);
  const sequence = tryU64(bytes, 8);
  if (count > MOST || SECTOR + count * SECTOR > bytes.length || Number.isNaN(sequence)) return undefined;
  if (getU32(bytes, 24) !== checksum(bytes, count)) return undefined;
  return { epoch: getU32(bytes, 4), sequence, target: getU32(bytes, 16), count };
}

function checksum(bytes: Buffer, count: number): number {
  return crc32c(bytes.subarray(SECTOR, SECTOR + count * SECTOR), crc32c(bytes.subarray(0, 24)));
}
