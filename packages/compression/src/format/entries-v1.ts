/**
 * Format 1: metadata entries of 5 bits, packed from bit 0 of byte 0 upward; entry i starts at bit 5·i and may
 * straddle a byte.
 *
 *      bits 0–3   payload sectors attributed to the block, 0 … 8
 *      bit  4     tail: the block continues the extent of the block before it
 *
 * Eight entries take five bytes.
 */

/** Entries whose bits are in `bytes`, from its first; `bytes` must hold them all. */
export function unpackEntries(bytes: Uint8Array, into: Uint8Array): void {
  for (let entry = 0; entry < into.length; entry += 1) {
    const bit = entry * 5;
    const at = bit >> 3;
    const word = (bytes[at] as number) | ((bytes[at + 1] ?? 0) << 8);
    into[entry] = (word >> (bit & 7)) & 0x1f;
  }
}

/**
 * One block of the packed metadata, out of all entries. Entries straddle blocks, too; the bits behind the last
 * entry are zero.
 *
 * @param block its number, from 0; @param into 4096 bytes.
 */
export function packBlock(entries: Uint8Array, block: number, into: Uint8Array): void {
  const start = block * into.length * 8;
  const end = start + into.length * 8;
  into.fill(0);
  const last = Math.min(entries.length, Math.ceil(end / 5));
  for (let entry = Math.floor(start / 5); entry < last; entry += 1) {
    const value = (entries[entry] as number) & 0x1f;
    const bit = entry * 5 - start;
    // The entry may begin before this block (bit < 0) or end behind it.
    const at = Math.floor(bit / 8);
    const word = value << (bit - at * 8);
    if (at >= 0) into[at] = (into[at] as number) | (word & 0xff);
    if (at + 1 >= 0 && at + 1 < into.length) into[at + 1] = (into[at + 1] as number) | (word >> 8);
  }
}

/** The metadata blocks, from 0, that hold the entries of `count` blocks from `first`. */
export function metaBlocksOf(
  first: number,
  count: number,
): { readonly first: number; readonly last: number } {
  const bits = 4096 * 8;
  return { first: Math.floor((first * 5) / bits), last: Math.floor(((first + count) * 5 - 1) / bits) };
}
