/** Bitmaps whose device goes on without them. */
import type { BlockDevice } from "@dmkit/block-io";
import { currentSuperblock, readSuperblocks, writeOrder, writeSuperblocks } from "../device/superblocks.ts";

/**
 * From now on everything counts as changed, in all epochs: as after a clean close whose witness is not known. Durable. Errors:
 * those of the device.
 */
export async function retireBitmaps(bitmap: BlockDevice): Promise<void> {
  const copies = await readSuperblocks(bitmap);
  const current = currentSuperblock(copies);
  if (current === undefined) return;
  const retired = { ...current, generation: current.generation + 1, clean: true, witness: undefined };
  await writeSuperblocks(bitmap, retired, writeOrder(copies));
}
