/**
 * LZ4 blocks as the library wants them. A block itself says nothing of how long its content is; the library
 * puts that in front, and what we store is the block alone.
 *
 * | where | what |
 * |---|---|
 * | 0 … 3 | length of the content, u32, little-endian |
 * | 4 … | the raw LZ4 block |
 */

export const PREFIX_LENGTH = 4;

/** Fills `into` (at least 4 bytes longer than `block`) with a block whose content is `length` bytes or less. */
export function writePrefixed(into: Uint8Array, block: Uint8Array, length: number): void {
  into[0] = length;
  into[1] = length >>> 8;
  into[2] = length >>> 16;
  into[3] = length >>> 24;
  into.set(block, PREFIX_LENGTH);
}

/** What {@link writePrefixed} has put there. */
export function lengthInPrefix(block: Uint8Array): number {
  const [first = 0, second = 0, third = 0, fourth = 0] = block;
  return (first | (second << 8) | (third << 16) | (fourth << 24)) >>> 0;
}
