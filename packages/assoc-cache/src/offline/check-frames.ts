/**
 * Whether what is in the frames can be read. Of a clean block the source has everything; a dirty one is the only copy,
 * and it is better known before somebody needs it.
 */
import { type BlockDevice, SECTOR, isGiven } from "@dmkit/block-io";
import type { FrameTable } from "../core/frame-table.ts";
import { type CheckOptions, type Finding, cannotFix } from "./problems.ts";

/** Frames that are looked at between two looks at the signal. */
const STEP = 256;

/** Reads all dirty frames. @param dataStart sector of frame 0. Errors: those of the device, but for `EIO`. */
export async function* checkDirtyFrames(
  cache: BlockDevice,
  table: FrameTable,
  dataStart: number,
  { signal }: Pick<CheckOptions, "signal">,
): AsyncGenerator<Finding, void> {
  const { frames, blockSectors } = table.geometry;
  const bytes = Buffer.alloc(blockSectors * SECTOR);
  for (let frame = 0; frame < frames; frame += 1) {
    if (frame % STEP === 0) signal?.throwIfAborted();
    if (!table.isDirty(frame)) continue;
    const offset = dataStart * SECTOR + frame * bytes.length;
    if (await isGiven(cache.read(offset, bytes))) continue;
    const block = table.blockOf(frame);
    yield cannotFix("dirty-unreadable", {
      frame,
      block,
      offset,
      length: bytes.length,
      text: `frame ${frame}, the only copy of block ${block}, cannot be read`,
      advice:
        "Copy the cache device to one that is whole, as far as it can be read, and go on with that. Restore the block from a backup, or give it up: write over it.",
    });
  }
}
