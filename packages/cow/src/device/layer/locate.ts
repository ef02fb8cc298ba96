/** Reads the identity of a layer, and finds it on a bitmap device without knowing the length of the target. */
import { type BlockDevice, SECTOR, isOfPlace, isZero, readWhatIsGiven, refuse } from "@dmkit/block-io";
import { IDENTITY_BLOCK, bitmapLength, identityCandidates, identityOffset } from "../../format/geometry.ts";
import { type IdentityBlock, decodeIdentity, isIdentityAt } from "../../format/identity.ts";

/** An identity where it belongs, or one that is damaged. */
export interface Located {
  /** Bytes on the bitmap device. */
  readonly offset: number;
  readonly block: IdentityBlock & { kind: "layer" | "original" | "damaged" };
}

/**
 * The block at byte `offset` of a bitmap device, where an identity may be. That is in the first sector, and nothing behind
 * it: what is not given of the rest counts as zeroes. Errors: those of the device, with what to do.
 */
export async function identityBlockAt(bitmap: BlockDevice, offset: number): Promise<Buffer> {
  const block = Buffer.alloc(IDENTITY_BLOCK);
  const missing = await readWhatIsGiven(bitmap, offset, block);
  // Nothing in the first sector is a new layer only if there is nothing at all.
  if (missing.size === 0 || !(missing.has(0) || isZero(block.subarray(0, SECTOR)))) return block;
  throw refuse(
    bitmap.name,
    "EIO",
    `byte ${offset}, where a layer says who it is, cannot be read`,
    "Copy the bitmap to a device that is whole; what is lost of it comes from a backup, or from a dump (dmkit restore).",
  );
}

/** Undefined if there is none. @param most places to look at. A sound one is preferred. Errors: those of the device. */
export async function locateIdentity(
  bitmap: BlockDevice,
  most: number = Number.POSITIVE_INFINITY,
): Promise<Located | undefined> {
  let damaged: Located | undefined;
  let unreadable: unknown;
  let places = 0;
  for (const offset of identityCandidates(bitmap.size)) {
    if (++places > most) break;
    const bytes = await identityBlockAt(bitmap, offset).catch((error: unknown) => {
      if (!isOfPlace(error)) throw error;
      unreadable ??= error;
    });
    if (bytes === undefined) continue;
    const block = decodeIdentity(bytes);
    if ((block.kind === "layer" || block.kind === "original") && isIdentityAt(bytes, offset))
      return { offset, block };
    if (block.kind === "damaged") damaged ??= { offset, block };
  }
  // It may be there.
  if (damaged === undefined && unreadable !== undefined) throw unreadable;
  return damaged;
}

/** Sectors of the target; of a layer of the original, which does not say, the least that they can be. */
export function sectorsOf({ block }: Located): number | undefined {
  if (block.kind === "layer") return block.identity.sectors;
  return block.kind === "original" ? Math.max(1, (block.bitmapLength - 1) * 4096) : undefined;
}

/** Byte where the identity of a target of `sectors` sectors belongs. */
export function placeOf(sectors: number): number {
  return identityOffset(bitmapLength(sectors));
}
