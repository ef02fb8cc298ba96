/** Finds the identity of a layer on a bitmap device without knowing the length of the target. */
import type { BlockDevice } from "@dmkit/block-io";
import { IDENTITY_BLOCK, bitmapLength, identityCandidates, identityOffset } from "../../format/geometry.ts";
import { type IdentityBlock, decodeIdentity, isIdentityAt } from "../../format/identity.ts";

/** An identity where it belongs, or one that is damaged. */
export interface Located {
  /** Bytes on the bitmap device. */
  readonly offset: number;
  readonly block: IdentityBlock & { kind: "layer" | "original" | "damaged" };
}

/** Undefined if there is none. @param most places to look at. A sound one is preferred. Errors: those of the device. */
export async function locateIdentity(
  bitmap: BlockDevice,
  most: number = Number.POSITIVE_INFINITY,
): Promise<Located | undefined> {
  const bytes = Buffer.alloc(IDENTITY_BLOCK);
  let damaged: Located | undefined;
  let places = 0;
  for (const offset of identityCandidates(bitmap.size)) {
    if (++places > most) break;
    await bitmap.read(offset, bytes);
    const block = decodeIdentity(bytes);
    if ((block.kind === "layer" || block.kind === "original") && isIdentityAt(bytes, offset))
      return { offset, block };
    if (block.kind === "damaged") damaged ??= { offset, block };
  }
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
