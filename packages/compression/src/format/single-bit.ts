/**
 * Finding the one bit that has changed, from the difference of two CRC-32Cs.
 *
 * A CRC is linear: which bit was flipped decides the difference, whatever the data. The difference a bit makes is
 * found by going backward from the last one: each step divides by x. Within the lengths used here every bit makes
 * another difference, and none of them looks like a flipped bit of the stored CRC itself.
 */
import { crc32c } from "@dmkit/block-io";

const POLYNOMIAL = 0x82f6_3b78;

/**
 * Whether `bytes` have the CRC they should have, if need be after putting one flipped bit right. What is wrong in
 * more than one bit (a torn write) looks like a flipped bit once in a million times: check the whole afterwards.
 *
 * @param seed where the CRC begins; @param expected may have lost a bit, too.
 */
export function checkOrMend(bytes: Buffer, seed: number, expected: number): boolean {
  const difference = (crc32c(bytes, seed) ^ expected) >>> 0;
  if (difference === 0 || isPowerOfTwo(difference)) return true;
  const bits = bytes.length * 8;
  let made = POLYNOMIAL;
  for (let bit = bits - 1; bit >= 0; bit -= 1) {
    if (made >>> 0 === difference) {
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      return true;
    }
    made = (made & 1) === 1 ? (made >>> 1) ^ POLYNOMIAL : made >>> 1;
  }
  return false;
}

function isPowerOfTwo(value: number): boolean {
  return (value & (value - 1)) === 0;
}
