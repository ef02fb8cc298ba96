/** Zeroes to be written as data, and bytes as sectors. */
import { SECTOR } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";

/** Bytes: the most that is written at once where zeroes have to be written as data. */
export const ZERO_CHUNK: number = 1024 * 1024;
let zeroChunk: Buffer | undefined;

/** A shared read-only buffer of at most 1 MiB of zeroes. */
export function zeroes(length: number): Buffer {
  zeroChunk ??= Buffer.alloc(ZERO_CHUNK);
  return length >= ZERO_CHUNK ? zeroChunk : zeroChunk.subarray(0, length);
}

/** Sectors in `bytes`; throws `EINVAL` if it is not whole sectors. */
export function sectorsOf(bytes: number): number {
  if (bytes % SECTOR !== 0) {
    throw new BlockIoError(`${bytes} bytes are not whole sectors of ${SECTOR}`, { code: "EINVAL" });
  }
  return bytes / SECTOR;
}
