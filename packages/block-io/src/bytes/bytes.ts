/**
 * Little-endian integers in buffers. 64-bit values are plain numbers: two 32-bit halves, with values above
 * 2^53 - 1 refused on writing and told apart on reading ({@link getU64} throws, {@link tryU64} says NaN).
 * `getBigUint64` would be some 24 times slower.
 *
 * Only `format/` folders and protocol codecs may call these: they are the only places that know bytes.
 */
import { BlockIoError } from "../contract/errors.ts";

const HIGH = 0x1_0000_0000;
const MAX_HIGH = 0x20_0000;

/** One byte. */
export function getU8(from: Uint8Array, at: number): number {
  const value = from[at];
  if (value === undefined) throw outside(from, at, 1);
  return value;
}

/** Little-endian. */
export function getU16(from: Uint8Array, at: number): number {
  bounds(from, at, 2);
  return (from[at] as number) | ((from[at + 1] as number) << 8);
}

/** Little-endian. */
export function getU32(from: Uint8Array, at: number): number {
  bounds(from, at, 4);
  return (
    ((from[at] as number) |
      ((from[at + 1] as number) << 8) |
      ((from[at + 2] as number) << 16) |
      ((from[at + 3] as number) << 24)) >>>
    0
  );
}

/** NaN where the stored value is above 2^53 - 1. */
export function tryU64(from: Uint8Array, at: number): number {
  bounds(from, at, 8);
  const high = getU32(from, at + 4);
  return high >= MAX_HIGH ? Number.NaN : high * HIGH + getU32(from, at);
}

/** Throws `EFORMAT` where the stored value is above 2^53 - 1. */
export function getU64(from: Uint8Array, at: number): number {
  const value = tryU64(from, at);
  if (Number.isNaN(value))
    throw new BlockIoError(`64-bit value at byte ${at} is out of range`, { code: "EFORMAT" });
  return value;
}

/** One byte. */
export function setU8(into: Uint8Array, at: number, value: number): void {
  bounds(into, at, 1);
  range(value, 0xff);
  into[at] = value;
}

/** Little-endian. */
export function setU16(into: Uint8Array, at: number, value: number): void {
  bounds(into, at, 2);
  range(value, 0xffff);
  into[at] = value;
  into[at + 1] = value >>> 8;
}

/** Little-endian. */
export function setU32(into: Uint8Array, at: number, value: number): void {
  bounds(into, at, 4);
  range(value, 0xffff_ffff);
  into[at] = value;
  into[at + 1] = value >>> 8;
  into[at + 2] = value >>> 16;
  into[at + 3] = value >>> 24;
}

/** Little-endian; a safe integer. */
export function setU64(into: Uint8Array, at: number, value: number): void {
  bounds(into, at, 8);
  range(value, Number.MAX_SAFE_INTEGER);
  setU32(into, at, value % HIGH);
  setU32(into, at + 4, Math.floor(value / HIGH));
}

/** Whether all bytes from `start` to `end` are zero. */
export function isZero(bytes: Uint8Array, start = 0, end: number = bytes.length): boolean {
  let at = start;
  // memcmp against a block of zeroes is many times faster than a loop over bytes.
  for (; end - at >= ZERO_BLOCK.length; at += ZERO_BLOCK.length) {
    if (ZERO_BLOCK.compare(bytes, at, at + ZERO_BLOCK.length) !== 0) return false;
  }
  for (; at < end; at += 1) if (bytes[at] !== 0) return false;
  return true;
}

const ZERO_BLOCK = Buffer.alloc(512);

function bounds(bytes: Uint8Array, at: number, length: number): void {
  if (at < 0 || at > bytes.length - length) throw outside(bytes, at, length);
}

function range(value: number, maximum: number): void {
  if (!Number.isInteger(value) || value < 0 || value > maximum) {
    throw new RangeError(`${value} is not an integer in 0 … ${maximum}`);
  }
}

function outside(bytes: Uint8Array, at: number, length: number): RangeError {
  return new RangeError(`${length} bytes at ${at} lie outside a buffer of ${bytes.length}`);
}
