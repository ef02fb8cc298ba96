/**
 * The bitmap as the original wrote it. Inside a bitmap block of B bytes (the block size of its buffer cache,
 * 512 … 4096), which should have spoken for 8·B sectors, it used only the first B/8 bytes:
 *
 *      sector s  →  block s / 8B,  byte (s mod B) / 8 in it,  bit s mod 8
 *
 *      block:  | a: B/8 bytes | not used: 7·B/8 bytes                          |
 *      dense:  | a            | a            | a            | … eight times    |
 *
 * Sectors that lie B apart in a group share a bit. Set, it says that any of them may be present.
 */

/** Block sizes the original could have had, in bytes. */
export const aliasedBlockSizes = [512, 1024, 2048, 4096] as const;
/** Bytes of the blocks that the original driver wrote. */
export type AliasedBlockSize = (typeof aliasedBlockSizes)[number];

/**
 * Turns an aliased bitmap into a dense one, in place: all sectors that share a set bit become present.
 * @param bitmap whole blocks, from the start of one.
 */
export function expandAliased(bitmap: Buffer, blockSize: AliasedBlockSize): void {
  const used = blockSize / 8;
  for (let block = 0; block < bitmap.length; block += blockSize) {
    for (let copy = block + used; copy < block + blockSize; copy += used) {
      bitmap.copyWithin(copy, block, block + used);
    }
  }
}
