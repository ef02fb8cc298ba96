/** The bits of a bitmap device, as runs. RAM only for pieces in which something is set. */
import { Bitmap, type BlockDevice, type OfflineWork } from "@dmkit/block-io";
import { BITMAP_STEP } from "./layer.ts";

/** Bits in a row. */
export interface BitRun {
  readonly first: number;
  readonly count: number;
}

const STEP_BITS: number = BITMAP_STEP * 8;

/** The first `bits` bits of a device. Errors: those of the device. */
export async function readSetBits(
  device: BlockDevice,
  bits: number,
  { signal, progress }: Pick<OfflineWork, "signal" | "progress">,
): Promise<SetBits> {
  const pieces = new Map<number, Bitmap>();
  const end = Math.ceil(bits / STEP_BITS);
  for await (const piece of piecesWithData(device, bits)) {
    signal?.throwIfAborted();
    // Whole blocks of any device; what lies behind the last bit is left out.
    const length = Math.min(BITMAP_STEP, Math.ceil((bits - piece * STEP_BITS) / (8 * 4096)) * 4096);
    const bytes = Buffer.alloc(length);
    await device.read(piece * BITMAP_STEP, bytes);
    const bitmap = new Bitmap(Math.min(STEP_BITS, bits - piece * STEP_BITS), bytes);
    if (bitmap.find(true, 0) < bitmap.length) pieces.set(piece, bitmap);
    progress?.(piece + 1, end);
  }
  progress?.(end, end);
  return new SetBits(pieces);
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

export class SetBits implements Iterable<BitRun> {
  readonly #pieces: ReadonlyMap<number, Bitmap>;

  /** @param pieces in order. */
  constructor(pieces: ReadonlyMap<number, Bitmap>) {
    this.#pieces = pieces;
  }

  /** Bits that are set. */
  get count(): number {
    let count = 0;
    for (const bitmap of this.#pieces.values()) count += bitmap.count();
    return count;
  }

  /** In order; runs are as long as they can be. */
  *[Symbol.iterator](): Iterator<BitRun> {
    let first = 0;
    let end = -1;
    for (const [piece, bitmap] of this.#pieces) {
      const start = piece * STEP_BITS;
      for (let at = bitmap.find(true, 0); at < bitmap.length; ) {
        const stop = bitmap.find(false, at);
        if (start + at !== end) {
          if (end > first) yield { first, count: end - first };
          first = start + at;
        }
        end = start + stop;
        at = bitmap.find(true, stop);
      }
    }
    if (end > first) yield { first, count: end - first };
  }
}
