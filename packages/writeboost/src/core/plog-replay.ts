/**
 * Rebuilds a segment from its plog records: later records overlay earlier ones, the length is the largest
 * index + 1. Pure; the buffer it returns is sealed and can be written to the slot.
 */
import { BLOCK } from "../format/geometry.ts";
import type { PlogRecord } from "../format/plog.ts";
import { clearMetadata, dataStart, sealSegment, segmentSize, setMetablock } from "../format/segment.ts";
import { runEnd, runStart, sectorBits } from "./sectors.ts";

export interface Rebuilt {
  readonly id: number;
  readonly length: number;
  /** Backing block of each index; every index below `length` has one. */
  readonly keys: Float64Array;
  readonly bits: Uint8Array;
  /** `segmentSize(length)` bytes. */
  readonly image: Buffer;
}

/** Undefined where the records do not make a segment: two blocks at one index, or an index without any. */
export function rebuildSegment(source: Buffer, records: readonly PlogRecord[]): Rebuilt | undefined {
  const [first] = records;
  if (first === undefined) return undefined;
  const length = records.reduce((most, { index }) => Math.max(most, index + 1), 0);
  const image = Buffer.alloc(segmentSize(length));
  clearMetadata(image);
  const keys = new Float64Array(length).fill(-1);
  const bits = new Uint8Array(length);
  for (const { sector, index, length: sectors, dataAt } of records) {
    const block = Math.floor(sector / 8);
    const within = sector % 8;
    if (keys[index] !== -1 && keys[index] !== block) return undefined;
    keys[index] = block;
    bits[index] = (bits[index] as number) | sectorBits(within, sectors);
    source.copy(image, dataStart(index) + within * 512, dataAt, dataAt + sectors * 512);
  }
  for (let index = 0; index < length; index += 1) {
    if (bits[index] === 0) return undefined;
    setMetablock(image, index, ((keys[index] as number) * BLOCK) / 512, bits[index] as number);
  }
  sealSegment("classic", image, first.id, length);
  return { id: first.id, length, keys, bits, image };
}

/** Adds sectors of an older copy of block `index` to a rebuilt segment. `data` is the whole older block. */
export function complete(rebuilt: Rebuilt, index: number, missing: number, data: Buffer): void {
  const { image, keys, bits, id, length } = rebuilt;
  for (let from = runStart(missing, 0); from < 8; ) {
    const end = runEnd(missing, from);
    data.copy(image, dataStart(index) + from * 512, from * 512, end * 512);
    from = runStart(missing, end);
  }
  bits[index] = (bits[index] as number) | missing;
  setMetablock(image, index, ((keys[index] as number) * BLOCK) / 512, bits[index]);
  sealSegment("classic", image, id, length);
}
