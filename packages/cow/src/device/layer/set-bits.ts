/** What is set in a bitmap device. */
import {
  Bitmap,
  type BlockDevice,
  type OfflineWork,
  SECTOR,
  SparseBitmap,
  readWhatIsGiven,
} from "@dmkit/block-io";
import { BITMAP_STEP } from "./layer.ts";

const STEP_BITS: number = BITMAP_STEP * 8;

/** What could be read of a bitmap. */
export interface SetBits {
  /** Clear where it could not. */
  readonly bits: SparseBitmap;
  /** Bytes where sectors of the device begin that cannot be read, in order. */
  readonly unreadable: readonly number[];
}

/** The first `bits` bits of a device. Errors: those of the device, but for places that it does not give. */
export async function readSetBits(
  device: BlockDevice,
  bits: number,
  { signal, progress }: Pick<OfflineWork, "signal" | "progress">,
): Promise<SetBits> {
  const found = new SparseBitmap();
  const unreadable: number[] = [];
  const end = Math.ceil(bits / STEP_BITS);
  for await (const piece of piecesWithData(device, bits)) {
    signal?.throwIfAborted();
    const bytes = Buffer.alloc(BITMAP_STEP);
    const count = Math.min(STEP_BITS, bits - piece * STEP_BITS);
    // Whole blocks of any device; what lies behind the last bit is left out.
    const used = bytes.subarray(0, Math.ceil(count / (8 * 4096)) * 4096);
    const start = piece * BITMAP_STEP;
    for (const sector of await readWhatIsGiven(device, start, used)) unreadable.push(start + sector * SECTOR);
    new Bitmap(STEP_BITS, bytes).clear(count, STEP_BITS - count);
    found.put(piece, bytes);
    progress?.(piece + 1, end);
  }
  progress?.(end, end);
  return { bits: found, unreadable };
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
