/**
 * `repair`: clears bits that speak for no sector, and writes the right magic over the wrong one of earlier versions.
 * Nothing else on a bitmap device can be put right without a guess: bits have no checksum, and an identity that is
 * damaged could be any. Each sector is old or new after a crash; a second run does what is left.
 */
import { Bitmap, BlockIoError, type OfflineWork, SECTOR } from "@dmkit/block-io";
import { hasStrayBits } from "./check.ts";
import { bitmapLength, identityOffset } from "../format/geometry.ts";
import { BITMAP_STEP, type LayerDevices, readIdentity, writeIdentity } from "../device/layer/layer.ts";

/**
 * Clears the stray bits of a sound layer of a target of `sectors` sectors; returns the pieces (bytes) in which
 * there were any. Errors: EFORMAT if it is no sound layer, EROFS, those of the device.
 */
export async function clearStrayBits(
  { bitmap }: Pick<LayerDevices, "bitmap">,
  sectors: number,
  { signal }: Pick<OfflineWork, "signal">,
): Promise<number[]> {
  const { kind } = await readIdentity(bitmap, sectors);
  if (kind !== "layer") {
    throw new BlockIoError("only a layer that dmkit has made can be repaired", {
      code: "EFORMAT",
      device: bitmap.name,
    });
  }
  const end = identityOffset(bitmapLength(sectors));
  const cleared: number[] = [];
  const firstPiece = Math.floor(sectors / 8 / BITMAP_STEP) * BITMAP_STEP;
  for (let offset = firstPiece; offset < end; offset += BITMAP_STEP) {
    signal?.throwIfAborted();
    const bytes = Buffer.alloc(Math.min(BITMAP_STEP, end - offset));
    await bitmap.read(offset, bytes);
    if (!hasStrayBits(bytes, offset, sectors)) continue;
    const bits = new Bitmap(bytes.length * 8, bytes);
    const from = Math.max(0, sectors - offset * 8);
    bits.clear(from, bits.length - from);
    // Sectors in front of the first stray bit are left alone.
    const unit = Math.max(SECTOR, bitmap.limits.logicalBlockSize);
    const start = Math.floor(from / 8 / unit) * unit;
    await bitmap.write(offset + start, bytes.subarray(start));
    cleared.push(offset);
  }
  if (cleared.length > 0) await bitmap.flush();
  return cleared;
}

/** Writes the identity of a layer again, which begins with the right magic then. Errors: those of the device. */
export async function mendMagic({ bitmap }: Pick<LayerDevices, "bitmap">, sectors: number): Promise<void> {
  const found = await readIdentity(bitmap, sectors);
  if (found.kind === "layer" && found.oldMagic === true) await writeIdentity(bitmap, found.identity);
}
