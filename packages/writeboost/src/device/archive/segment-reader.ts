/** Segments as an archive takes them: from RAM, else from the cache device, as long as that gives them. */
import { BlockIoError, isOfPlace, readWhatIsGiven, refuse } from "@dmkit/block-io";
import { bitsOf } from "../../core/sectors.ts";
import { BLOCK, slotOf, slotStart } from "../../format/geometry.ts";
import {
  dataStart,
  decodeSegmentHeader,
  isWhole,
  metablockBits,
  metablockLost,
  metablockSector,
  segmentSize,
} from "../../format/segment.ts";
import { type LogOver, readBelow } from "../request/read-below.ts";
import type { ArchivedSegment } from "./segment-archive.ts";

/**
 * Reads segment `id`, which must be durable, for the archive.
 *
 * What the cache device does not give is taken from the backing device where that has the same. Otherwise there is no
 * segment, `EIO`: whoever reads the archive would be shown older contents in place of what is missing.
 * @param time milliseconds since 1970, when it was closed. @param device for messages.
 */
export async function readSegment(
  parts: LogOver,
  id: number,
  time: number,
  device: string,
): Promise<ArchivedSegment> {
  const { log } = parts;
  const place = slotOf(log.geometry, id);
  const length = log.map.lengths[place] as number;
  const size = segmentSize(length);
  const isInRam = log.inRam(place * log.map.blocks) !== undefined;
  // Its buffer may be another's by the time it is sent.
  const slot = isInRam ? Buffer.from(log.bufferOf(id).subarray(0, size)) : Buffer.allocUnsafe(size);
  if (!isInRam) {
    const isComplete = await read(parts, id, slot);
    const header = decodeSegmentHeader(slot);
    // The checksum is over what does not count as well.
    if (header.id !== id || header.length !== length || (isComplete && !isWhole(slot)))
      throw refuse(device, "EIO", `segment ${id} is damaged on the cache device`, undefined, "read");
  }
  const sectors: number[] = [];
  const bits: number[] = [];
  const data: Buffer[] = [];
  for (let index = 0; index < length; index += 1) {
    const valid = shipped(slot, index);
    // Clean, and whole: it was read from the disk.
    if (valid === 0) continue;
    sectors.push(metablockSector(slot, index));
    bits.push(valid);
    data.push(slot.subarray(dataStart(index), dataStart(index + 1)));
  }
  const isAll = data.length === length;
  return { time, sectors, bits, data: isAll ? slot.subarray(BLOCK) : Buffer.concat(data) };
}

/** The sectors of a block that go to the archive. What is lost, it has: in the segment from which it was. */
function shipped(slot: Buffer, index: number): number {
  return metablockBits(slot, index) & ~metablockLost(slot, index);
}

/** Fills `slot`; false if parts that do not go to the archive are missing, or the backing device has given some. */
async function read(parts: LogOver, id: number, slot: Buffer): Promise<boolean> {
  const { cache, geometry, map } = parts.log;
  const offset = slotStart(geometry, slotOf(geometry, id));
  let error: BlockIoError;
  try {
    await cache.read(offset, slot);
    return true;
  } catch (thrown) {
    if (!isOfPlace(thrown)) throw thrown;
    error = thrown;
  }
  const missing = await readWhatIsGiven(cache, offset, slot);
  const unread = new BlockIoError(`segment ${id} cannot be read from the cache device`, {
    code: "EIO",
    device: cache.name,
    op: "read",
    offset,
    length: slot.length,
    cause: error,
  });
  if ([...missing].some((sector) => sector * 512 < BLOCK)) throw unread;
  const first = slotOf(geometry, id) * map.blocks;
  for (let index = 0; dataStart(index) < slot.length; index += 1) {
    const gone = bitsOf(missing, dataStart(index) / 512) & shipped(slot, index);
    const block = slot.subarray(dataStart(index), dataStart(index + 1));
    if (gone !== 0 && !(await readBelow(parts, first + index, gone, block))) throw unread;
  }
  return missing.size === 0;
}
