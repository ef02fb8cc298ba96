/** A layer on its two devices: finding out what it is, and writing its identity. */
import {
  type BlockDevice,
  BlockIoError,
  type Overwriting,
  SECTOR,
  isZero,
  requireBlank,
  requireRoom,
} from "@dmkit/block-io";
import {
  IDENTITY_BLOCK,
  bitmapDeviceSize,
  bitmapLength,
  identityOffset,
  pageCount,
} from "../../format/geometry.ts";
import { type Identity, type IdentityBlock, decodeIdentity, encodeIdentity } from "../../format/identity.ts";
import { identityBlockAt, locateIdentity, placeOf } from "./locate.ts";

/** The devices a layer lives on. */
export interface LayerDevices {
  readonly bitmap: BlockDevice;
  readonly data: BlockDevice;
  /** Bytes: where the layer's data starts on `data`. */
  readonly offset: number;
}

/** Bytes read or written of a bitmap at once: 64 pages, 128 MiB of the target. */
export const BITMAP_STEP: number = 32 * 1024;

/** Refuses devices that are too small for a target of `sectors` sectors. Throws `EINVAL`. */
export function requireLayerRoom({ bitmap, data, offset }: LayerDevices, sectors: number): void {
  requireRoom(data, offset, sectors * SECTOR);
  requireRoom(bitmap, 0, bitmapDeviceSize(sectors));
}

/** Reads and judges the identity of a layer of a target of `sectors` sectors. */
export async function readIdentity(bitmap: BlockDevice, sectors: number): Promise<IdentityBlock> {
  return decodeIdentity(await identityBlockAt(bitmap, placeOf(sectors)));
}

/** Writes the identity and waits until it is stable. */
export async function writeIdentity(bitmap: BlockDevice, identity: Identity): Promise<void> {
  const unit = bitmap.limits.logicalBlockSize;
  const block = Buffer.alloc(unit);
  encodeIdentity(identity).copy(block);
  await bitmap.write(identityOffset(bitmapLength(identity.sectors)), block);
  await bitmap.flush();
}

/** Makes the layer new again: no identity. Its bitmap must be zero and stable. */
export async function eraseIdentity(bitmap: BlockDevice, sectors: number): Promise<void> {
  await bitmap.write(identityOffset(bitmapLength(sectors)), Buffer.alloc(bitmap.limits.logicalBlockSize));
  await bitmap.flush();
}

/** Zeroes a bitmap and the identity behind it, durably: bits alone are refused, so the identity goes first. */
export async function clearBitmap(bitmap: BlockDevice, sectors: number): Promise<void> {
  await bitmap.writeZeroes(identityOffset(bitmapLength(sectors)), IDENTITY_BLOCK);
  await bitmap.flush();
  await bitmap.writeZeroes(0, bitmapDeviceSize(sectors), { mayUnmap: true });
  await bitmap.flush();
}

/** Refuses to make a new layer of devices that are not blank, or takes them as if they were. Errors: `code`. */
export async function requireBlankLayer(
  { bitmap, data, offset }: LayerDevices,
  sectors: number,
  how: Omit<Overwriting, "area">,
): Promise<void> {
  const area = { offset, length: sectors * SECTOR };
  if (!how.force) {
    await requireBlank(bitmap, how);
    return requireBlank(data, { ...how, area });
  }
  await clearBitmap(bitmap, sectors);
  await requireBlank(bitmap, how);
  await requireBlank(data, { ...how, area });
}

/** Looks for an identity without knowing the length of the target; undefined if there is none. */
export async function findIdentity(bitmap: BlockDevice): Promise<IdentityBlock | undefined> {
  const block = (await locateIdentity(bitmap))?.block;
  return block?.kind === "damaged" ? undefined : block;
}

/** Throws `EFORMAT` unless the whole bitmap, up to the identity, is zero: as that of a new layer must be. */
export async function requireEmpty(bitmap: BlockDevice, sectors: number): Promise<void> {
  const end = identityOffset(bitmapLength(sectors));
  const buffer = Buffer.allocUnsafe(BITMAP_STEP);
  for await (const extent of bitmap.extents(0, end)) {
    if (extent.kind !== "data") continue;
    for (let at = extent.offset; at < extent.offset + extent.length; at += BITMAP_STEP) {
      const piece = buffer.subarray(0, Math.min(BITMAP_STEP, extent.offset + extent.length - at));
      await bitmap.read(at, piece);
      if (isZero(piece)) continue;
      throw new BlockIoError("the bitmap has no identity, but is not empty", {
        code: "EFORMAT",
        device: bitmap.name,
        op: "open",
        offset: at,
        length: piece.length,
        hint: "Give a bitmap device full of zeroes for a new layer, and check the length of the target.",
      });
    }
  }
}

/** Bytes of the bitmap that hold bits, rounded up to what any device can transfer. */
export function bitmapBytes(sectors: number): number {
  // The identity block lies further away than this rounds up to.
  return Math.ceil((pageCount(sectors) * SECTOR) / 4096) * 4096;
}
