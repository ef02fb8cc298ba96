/**
 * Big-endian integers in buffers: the byte order of the network. 64-bit values are plain numbers made of two
 * 32-bit halves. A value of 2^53 or more comes back rounded, which is still 2^53 or more: larger than any
 * device, and not a safe integer, so that bounds checks refuse it like any other value out of range.
 *
 * Positions are not checked: the caller has made sure that the bytes are there.
 */
const HIGH = 0x1_0000_0000;

export function getU16(from: Uint8Array, at: number): number {
  return ((from[at] as number) << 8) | (from[at + 1] as number);
}

export function getU32(from: Uint8Array, at: number): number {
  return (
    (((from[at] as number) << 24) |
      ((from[at + 1] as number) << 16) |
      ((from[at + 2] as number) << 8) |
      (from[at + 3] as number)) >>>
    0
  );
}

/** Rounded where the value is 2^53 or more. */
export function getU64(from: Uint8Array, at: number): number {
  return getU32(from, at) * HIGH + getU32(from, at + 4);
}

export function setU16(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 8;
  into[at + 1] = value;
}

export function setU32(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 24;
  into[at + 1] = value >>> 16;
  into[at + 2] = value >>> 8;
  into[at + 3] = value;
}

/** @param value 0 … 2^53 - 1. */
export function setU64(into: Uint8Array, at: number, value: number): void {
  setU32(into, at, Math.floor(value / HIGH));
  // ToUint32 keeps the low 32 bits of any safe integer exactly.
  setU32(into, at + 4, value >>> 0);
}
