/** What is set in a bitmap device. */
import { Bitmap, type BlockDevice, type OfflineWork, SparseBitmap } from "@dmkit/block-io";
import { BITMAP_STEP } from "./layer.ts";

const STEP_BITS: number = BITMAP_STEP * 8;

/** The first `bits` bits of a device. Errors: those of the device. */
export async function readSetBits(
  device: BlockDevice,
  bits: number,
  { signal, progress }: Pick<OfflineWork, "signal" | "progress">,
): Promise<SparseBitmap> {
  const found = new SparseBitmap();
  const end = Math.ceil(bits / STEP_BITS);
  for await (const piece of piecesWithData(device, bits)) {
    signal?.throwIfAborted();
    const bytes = Buffer.alloc(BITMAP_STEP);
    const count = Math.min(STEP_BITS, bits - piece * STEP_BITS);
    // Whole blocks of any device; what lies behind the last bit is left out.
    await device.read(piece * BITMAP_STEP, bytes.subarray(0, Math.ceil(count / (8 * 4096)) * 4096));
    new Bitmap(STEP_BITS, bytes).clear(count, STEP_BITS - count);
    found.put(piece, bytes);
    progress?.(piece + 1, end);
  }
  progress?.(end, end);
  return found;
}

/** Numbers of the pieces that are not holes, in order. */
export async function* piecesWithData(device: BlockDevice, bits: number): AsyncIterable<number> {
  let next = 0;
  const length = Math.ceil(bits / (8 * 4096)) * 4096;
  for await (const extent of device.extents(0, length)) {
    if (extent.kind !== "data") continue;
    const last = Math.ceil((extent.offset + extent.length) / BITMAP_STEP);
    for (next = Math.max(next, Math.floor(extent.offset / BITMAP_STEP)); next < last; next += 1) yield next;
  }
}
