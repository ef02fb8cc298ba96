/** Holds the clean blocks of a cache against its source, to which they should be equal. */
import { type BlockDevice, SECTOR, isGiven, readWhatIsGiven } from "@dmkit/block-io";
import { type FrameTable, states } from "../core/frame-table.ts";
import type { CheckOptions } from "./problems.ts";

/** Frames that are looked at between two reports of progress. */
const STEP = 256;

/**
 * The clean frames that differ, or cannot be read, or of which the source does not give the block, in order. @param
 * dataStart sector of frame 0. Reports the second half of the progress. Errors: those of the devices.
 */
export async function* compareClean(
  cache: BlockDevice,
  source: BlockDevice,
  table: FrameTable,
  dataStart: number,
  { signal, progress }: CheckOptions,
): AsyncIterable<{
  readonly frame: number;
  readonly block: number;
  readonly how: "differs" | "cache" | "source";
}> {
  const { frames, blockSectors } = table.geometry;
  const blockBytes = blockSectors * SECTOR;
  const cached = Buffer.alloc(blockBytes);
  const original = Buffer.alloc(blockBytes);
  for (let frame = 0; frame < frames; frame += 1) {
    if (frame % STEP === 0) {
      signal?.throwIfAborted();
      progress?.(frames + frame, frames * 2);
    }
    if (table.stateOf(frame) !== states.clean) continue;
    const block = table.blockOf(frame);
    // The last block of the source may be short.
    const length = Math.min(blockBytes, source.size - block * blockBytes);
    if (length <= 0) continue;
    if (!(await isGiven(cache.read(dataStart * SECTOR + frame * blockBytes, cached.subarray(0, length))))) {
      yield { frame, block, how: "cache" };
      continue;
    }
    const missing = await readWhatIsGiven(source, block * blockBytes, original.subarray(0, length));
    for (const sector of missing)
      original.copy(cached, sector * SECTOR, sector * SECTOR, (sector + 1) * SECTOR);
    if (cached.compare(original, 0, length, 0, length) !== 0) yield { frame, block, how: "differs" };
    else if (missing.size > 0) yield { frame, block, how: "source" };
  }
  progress?.(frames * 2, frames * 2);
}
