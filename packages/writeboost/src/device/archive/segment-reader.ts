/**
 * Segments as an archive takes them: from RAM, else from the cache device. They lie in memory that is used again for the next
 * ones: memory that is touched for the first time costs up to a hundred times as much as the copy that goes there (4 KiB
 * writes with an archive).
 */
import { BLOCK, slotOf } from "../../format/geometry.ts";
import { dataStart, metablockBits, metablockSector, segmentSize } from "../../format/segment.ts";
import { readDurable } from "../log/read-slot.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { ArchivedSegment } from "./segment-archive.ts";

// Heads of slots are larger than those of segments in an archive; enough for all but many small ones.
const HEADS = 64 * BLOCK;

export class SegmentReader {
  readonly #log: SegmentLog;
  readonly #size: number;
  #memory: Buffer | undefined;
  #used = 0;

  /** @param bytes of blocks that are read until the next {@link begin}; what does not fit gets memory of its own. */
  constructor(log: SegmentLog, bytes: number) {
    this.#log = log;
    this.#size = bytes + HEADS;
  }

  /** Nobody looks at what was read before. */
  begin(): void {
    this.#used = 0;
  }

  /** As {@link begin}, and nothing is read for a while. */
  rest(): void {
    this.#memory = undefined;
    this.#used = 0;
  }

  /**
   * Reads segment `id`, which must be durable. Errors: `EIO`, where it is damaged or not given; those of the cache device.
   * @param time milliseconds since 1970, when it was closed.
   */
  async read(id: number, time: number): Promise<ArchivedSegment> {
    const log = this.#log;
    const { geometry, map } = log;
    const place = slotOf(geometry, id);
    const length = lengthOf(log, id);
    const slot = this.#take(segmentSize(length));
    if (log.inRam(place * map.blocks) === undefined) {
      const broken = await readDurable(log, id, slot);
      if (broken !== undefined) throw broken;
    } else {
      // Its buffer may be another's by the time it is sent.
      log.bufferOf(id).copy(slot, 0, 0, slot.length);
    }
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

  #take(length: number): Buffer {
    const start = this.#used;
    if (start + length > this.#size) return Buffer.allocUnsafeSlow(length);
    this.#used += length;
    this.#memory ??= Buffer.allocUnsafeSlow(this.#size);
    return this.#memory.subarray(start, this.#used);
  }
}

/** Blocks in segment `id`. */
export function lengthOf({ map, geometry }: SegmentLog, id: number): number {
  return map.lengths[slotOf(geometry, id)] as number;
}

/** Bytes of segments `first` to `last` on the cache device; or some number from `enough` on. */
export function bytesOf(
  log: SegmentLog,
  first: number,
  last: number,
  enough: number = Number.POSITIVE_INFINITY,
): number {
  let bytes = 0;
  for (let id = first; id <= last && bytes < enough; id += 1) bytes += segmentSize(lengthOf(log, id));
  return bytes;
}
