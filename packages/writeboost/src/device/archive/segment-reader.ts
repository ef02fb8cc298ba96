/** Segments as an archive takes them: from RAM, else from the cache device. */
import { BLOCK, slotOf } from "../../format/geometry.ts";
import { dataStart, metablockBits, metablockSector, segmentSize } from "../../format/segment.ts";
import { readDurable } from "../log/read-slot.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { ArchivedSegment } from "./segment-archive.ts";

/**
 * Reads segment `id`, which must be durable. Errors: `EIO`, where it is damaged or not given; those of the cache device.
 * @param time milliseconds since 1970, when it was closed.
 */
export async function segmentOf(log: SegmentLog, id: number, time: number): Promise<ArchivedSegment> {
  const { geometry, map } = log;
  const place = slotOf(geometry, id);
  const length = map.lengths[place] as number;
  const size = segmentSize(length);
  const isInRam = log.inRam(place * map.blocks) !== undefined;
  // Its buffer may be another's by the time it is sent.
  const slot = isInRam ? Buffer.from(log.bufferOf(id).subarray(0, size)) : Buffer.allocUnsafe(size);
  const broken = isInRam ? undefined : await readDurable(log, id, slot);
  if (broken !== undefined) throw broken;
  const sectors: number[] = [];
  const bits: number[] = [];
  const data: Buffer[] = [];
  for (let index = 0; index < length; index += 1) {
    const valid = metablockBits(slot, index);
    // Clean, and whole: it was read from the disk.
    if (valid === 0) continue;
    sectors.push(metablockSector(slot, index));
    bits.push(valid);
    data.push(slot.subarray(dataStart(index), dataStart(index + 1)));
  }
  const isAll = data.length === length;
  return { time, sectors, bits, data: isAll ? slot.subarray(BLOCK) : Buffer.concat(data) };
}
