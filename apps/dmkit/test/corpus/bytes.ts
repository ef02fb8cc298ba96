/**
 * Integers and checksums, written from the FORMAT.md files alone: the corpus shares no code with what it tests.
 * All integers are little-endian.
 */

const TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0x82f6_3b78 : crc >>> 1;
  return crc >>> 0;
});

/** CRC-32C. @param before the CRC of what comes before. */
export function crc(bytes: Uint8Array, before = 0): number {
  return ~rawCrc(bytes, ~before) >>> 0;
}

/** CRC-32C without the final inversion: the classic dialect of writeboost. */
export function rawCrc(bytes: Uint8Array, seed = 0xffff_ffff): number {
  let state = seed >>> 0;
  for (const byte of bytes) state = ((TABLE[(state ^ byte) & 0xff] as number) ^ (state >>> 8)) >>> 0;
  return state;
}

export function get64(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

/** The eight bytes of a number, which may be beyond what a double can hold. */
export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
