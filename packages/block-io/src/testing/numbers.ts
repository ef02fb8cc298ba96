/**
 * Bytes of numbers, for the tests of formats: worked out digit by digit from the number as its source gives it, with
 * nothing that the code under test uses. Bytes copied from a text prove only that two copies agree.
 */

/** The bytes of a number, the lowest first. @param length in bytes. */
export function littleEndian(value: bigint, length = 8): Buffer {
  return Buffer.from(bigEndian(value, length).toReversed());
}

/** The bytes of a number, the highest first. @param length in bytes. */
export function bigEndian(value: bigint, length = 8): Buffer {
  const digits = value.toString(16).padStart(length * 2, "0");
  if (value < 0n || digits.length !== length * 2) throw new RangeError(`${value} has not ${length} bytes`);
  return Buffer.from(digits, "hex");
}

/** The polynomial of CRC-32C as it is written, x^31 first. */
const CASTAGNOLI = 0x1edc_6f41n;

/**
 * CRC-32C by long division, bit by bit, from the number of its polynomial; slow.
 * @param inverted with the final inversion of the standard; the kernel's `crc32c(~0, …)` is without.
 */
export function crc32cByHand(bytes: Uint8Array, inverted = true): number {
  let rest = 0xffff_ffffn;
  for (const byte of bytes) {
    // Bits come lowest first: as the highest coefficient of what is left.
    for (let bit = 0; bit < 8; bit += 1) {
      const top = (rest >> 31n) ^ BigInt((byte >> bit) & 1);
      rest = ((rest << 1n) & 0xffff_ffffn) ^ (top === 1n ? CASTAGNOLI : 0n);
    }
  }
  const digits = rest.toString(2).padStart(32, "0").split("").toReversed().join("");
  const reflected = BigInt(`0b${digits}`);
  return Number(inverted ? reflected ^ 0xffff_ffffn : reflected);
}
