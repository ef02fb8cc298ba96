/**
 * Format 1: where things are, in blocks of 4096 bytes.
 *
 * ```
 * block 0                     superblock
 * block 1 …                   metadata: 5 bits for each data block
 * block 1 + metadata blocks … data
 * ```
 */

/** Bytes of a block. */
export const BLOCK = 4096;
/** Sectors of 512 bytes in a block. */
export const BLOCK_SECTORS = 8;
/** Blocks of the largest extent. */
export const MAX_EXTENT = 32;

/** Bytes of the payload of an extent. */
export function payloadBytes(sectors: number): number {
  return (sectors * BLOCK) / BLOCK_SECTORS;
}

export interface GeometryV1 {
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  /**
   * What the original computed by mistake for some sizes: it took one data block away from none and wrapped.
   * Undefined where it computed the same.
   */
  readonly wrapped: { readonly metaBlocks: number; readonly dataBlocks: number } | undefined;
}

/** Data blocks whose entries fill 5 metadata blocks, and 1. */
const LARGE = 32_768;
const SMALL = 6_553;

/** How a device of `total` blocks is divided. No data below 3 blocks. */
export function geometryV1(total: number): GeometryV1 {
  if (total < 3) return { metaBlocks: 0, dataBlocks: 0, wrapped: undefined };
  const rest = total - 1;
  const large = Math.floor(rest / (LARGE + 5));
  const afterLarge = rest % (LARGE + 5);
  const small = Math.floor(afterLarge / (SMALL + 1));
  const left = afterLarge % (SMALL + 1);
  const metaBlocks = large * 5 + small + 1;
  const dataBlocks = large * LARGE + small * SMALL + left - 1;
  return {
    metaBlocks,
    dataBlocks,
    wrapped: left === 0 ? { metaBlocks, dataBlocks: dataBlocks + 2 ** 32 } : undefined,
  };
}
