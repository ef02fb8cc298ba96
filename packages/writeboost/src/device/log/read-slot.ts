/**
 * Reading slots of a cache device of which some sectors are not given. Sectors of the head that hold nothing are not
 * missed: zeroes are in their place, as this program writes them, and for a whole segment the checksum tells.
 */
import { type BlockDevice, isOfPlace, readWhatIsGiven } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import { headSectors, isWhole } from "../../format/segment.ts";

/** Fills `head` with the first 4096 bytes of the slot at byte `offset`. Throws what the device does, where it matters. */
export async function readHead(device: BlockDevice, offset: number, head: Buffer): Promise<void> {
  await fill(device, offset, head);
}

/** Fills `segment`, which says how long it is; `EIO` where nobody knows whether it is whole. */
export async function readSegment(device: BlockDevice, offset: number, segment: Buffer): Promise<void> {
  const error = await fill(device, offset, segment);
  if (error !== undefined && !isWhole(segment)) throw error;
}

/** Returns why something was not given that may not matter. */
async function fill(device: BlockDevice, offset: number, into: Buffer): Promise<Error | undefined> {
  try {
    await device.read(offset, into);
    return undefined;
  } catch (error) {
    if (!isOfPlace(error)) throw error;
    const head = into.subarray(0, BLOCK);
    const missing = await readWhatIsGiven(device, offset, head);
    if ([...missing].some((sector) => sector < headSectors(head))) throw error;
    if (into.length === BLOCK) return missing.size === 0 ? undefined : error;
    // Otherwise it is the data.
    if (missing.size === 0) throw error;
    await device.read(offset + BLOCK, into.subarray(BLOCK));
    return error;
  }
}
