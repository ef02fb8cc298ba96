/**
 * Where things lie on a bitmap device. With L the sectors of the target:
 *
 *      byte 0                     ceil(L / 8)        512 · bmap_len          identity            + 4096
 *      | dense bitmap, bit n (LSB first) = sector n | zero                 | identity block     |
 *
 *      bmap_len = 1 + (L >> 12)                           sectors
 *      identity = 512 · ((bmap_len & ~63) + 192)          bytes
 *
 * One sector of the bitmap speaks for 4096 sectors of the target: that much is a *page*.
 */
import { SECTOR, refuse } from "@dmkit/block-io";

/** Sectors of the target that one sector of the bitmap speaks for. */
export const PAGE_SECTORS = 4096;

/** Bytes the bitmap device must reach past the start of the identity block. */
export const IDENTITY_BLOCK = 4096;

/** The first sector an identity can lie at, and the distance of the next ones. */
const IDENTITY_START = 192;
const IDENTITY_STEP = 64;

/** Sectors: the field `bmap_len` of a target of `sectors` sectors. */
export function bitmapLength(sectors: number): number {
  return 1 + Math.floor(sectors / PAGE_SECTORS);
}

/** Byte offset of the identity block of a bitmap of `bitmapLength` sectors. */
export function identityOffset(bitmapLength: number): number {
  return SECTOR * (Math.floor(bitmapLength / IDENTITY_STEP) * IDENTITY_STEP + IDENTITY_START);
}

/** The least size of a bitmap device in bytes, for a target of `sectors` sectors. */
export function bitmapDeviceSize(sectors: number): number {
  return identityOffset(bitmapLength(sectors)) + IDENTITY_BLOCK;
}

/** Pages of the bitmap that hold bits: one sector each. Without the last sector where L is a multiple of 4096. */
export function pageCount(sectors: number): number {
  return Math.ceil(sectors / PAGE_SECTORS);
}

/** Byte offsets on a device of `size` bytes where an identity may lie: sectors 192 + 64·k. */
export function* identityCandidates(size: number): Iterable<number> {
  const fits = (offset: number): boolean =>
    offset >= SECTOR * IDENTITY_START && offset <= size - IDENTITY_BLOCK;
  // Most bitmap devices are made as small as they can be: then it is the last one.
  const last = size - IDENTITY_BLOCK;
  const isCandidate = last % (SECTOR * IDENTITY_STEP) === 0 && fits(last);
  if (isCandidate) yield last;
  for (let offset = SECTOR * IDENTITY_START; fits(offset); offset += SECTOR * IDENTITY_STEP) {
    if (!isCandidate || offset !== last) yield offset;
  }
}

/** Throws `EINVAL` for a length no target can have. */
export function checkSectors(sectors: number): void {
  if (
    Number.isSafeInteger(sectors) &&
    sectors > 0 &&
    sectors <= Math.floor(Number.MAX_SAFE_INTEGER / SECTOR)
  ) {
    return;
  }
  throw refuse(undefined, "EINVAL", `a length of ${sectors} sectors is not possible`, undefined);
}
