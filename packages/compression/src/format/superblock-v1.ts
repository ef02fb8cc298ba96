/**
 * Format 1: the superblock, the first block of the device; little-endian.
 *
 *      byte   0   u64  magic            0x106526c206506c09: 09 6c 50 06 c2 26 65 10
 *             8   u64  metadata blocks
 *            16   u64  data blocks
 *            24   u8   algorithm        0: LZO1X
 *            25        zero
 */
import { getU8, setU64, setU8, tryU64 } from "@dmkit/block-io";
import { BLOCK } from "./geometry-v1.ts";

const MAGIC = Buffer.from("096c5006c2266510", "hex");

export interface SuperblockV1 {
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  readonly algorithm: number;
}

/** Whether a block begins as a superblock of format 1. */
export function isSuperblockV1(block: Buffer): boolean {
  return block.subarray(0, 8).equals(MAGIC);
}

/** Counts that no device has are NaN. */
export function decodeSuperblockV1(block: Buffer): SuperblockV1 {
  return { metaBlocks: tryU64(block, 8), dataBlocks: tryU64(block, 16), algorithm: getU8(block, 24) };
}

export function encodeSuperblockV1({ metaBlocks, dataBlocks, algorithm }: SuperblockV1): Buffer {
  const block = Buffer.alloc(BLOCK);
  MAGIC.copy(block);
  setU64(block, 8, metaBlocks);
  setU64(block, 16, dataBlocks);
  setU8(block, 24, algorithm);
  return block;
}
