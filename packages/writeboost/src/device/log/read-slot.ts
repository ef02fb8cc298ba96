/**
 * Reading slots of a cache device of which some sectors are not given. Sectors of the head that hold nothing are not
 * missed: zeroes are in their place, as this program writes them, and for a whole segment the checksum tells.
 */
import { type BlockDevice, BlockIoError, isOfPlace, readWhatIsGiven } from "@dmkit/block-io";
import { BLOCK, type Geometry, slotOf, slotStart } from "../../format/geometry.ts";
import { decodeSegmentHeader, headSectors, isWhole, segmentSize } from "../../format/segment.ts";

/** Fills `head` with the first 4096 bytes of the slot at byte `offset`. Throws what the device does, where it matters. */
export async function readHead(device: BlockDevice, offset: number, head: Buffer): Promise<void> {
  await fill(device, offset, head);
}

/** Fills `segment`, which says how long it is; `EIO` where nobody knows whether it is whole. */
export async function readSegment(device: BlockDevice, offset: number, segment: Buffer): Promise<void> {
  const error = await fill(device, offset, segment);
  if (error !== undefined && !isWhole(segment)) throw error;
}

/**
 * Reads segment `id` of the log, which is durable, into a buffer that is as long as it is. Returns why it cannot be used, if
 * so: it is damaged, or not given. Throws all else that the cache device does.
 * @param hint what that means, for who asks.
 */
export async function readDurable(
  { cache, geometry }: { readonly cache: BlockDevice; readonly geometry: Geometry },
  id: number,
  segment: Buffer,
  hint?: string,
): Promise<BlockIoError | undefined> {
  const offset = slotStart(geometry, slotOf(geometry, id));
  const broken = (reason: string, cause?: BlockIoError): BlockIoError =>
    new BlockIoError(`segment ${id} ${reason}`, {
      code: "EIO",
      device: cache.name,
      op: "read",
      offset,
      length: segment.length,
      cause,
      hint,
    });
  try {
    await readSegment(cache, offset, segment);
  } catch (error) {
    if (isOfPlace(error)) return broken("cannot be read from the cache device", error);
    throw error;
  }
  const header = decodeSegmentHeader(segment);
  const isIt = header.id === id && segmentSize(header.length) === segment.length && isWhole(segment);
  return isIt ? undefined : broken("is damaged on the cache device");
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
