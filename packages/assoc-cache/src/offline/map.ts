/** A cache as a picture: where on its device everything is, and which parts of the source are cached. */
import {
  type BlockDevice,
  type ImageMap,
  type MapKind,
  type MapRange,
  type MapStrip,
  SECTOR,
} from "@dmkit/block-io";
import { ENTRIES_PER_SECTOR, entryStates } from "../format/entries.ts";
import type { Geometry } from "../format/geometry.ts";
import type { Superblock } from "../format/superblock.ts";
import { sectorInTableV1 } from "../format/v1.ts";
import { isOfSector, readEntries } from "../open/entries.ts";
import { findMetadata } from "../open/load.ts";

const legend = {
  superblock: { meaning: "superblock or configuration", character: "S", colour: "#7b3fa0", weight: 5 },
  entries: { meaning: "entries: what each frame holds", character: "E", colour: "#3f6fb5", weight: 4 },
  damaged: { meaning: "what these frames hold cannot be read", character: "!", colour: "#c02020", weight: 7 },
  dirty: { meaning: "dirty: newer than the source", character: "D", colour: "#e07b20", weight: 6 },
  clean: { meaning: "clean: equal to the source", character: "c", colour: "#4f9f4f", weight: 3 },
  stale: { meaning: "was clean before a crash, not believed", character: "-", colour: "#b8c8b8", weight: 2 },
  free: { meaning: "free", character: ".", colour: "#e8e8e8", weight: 1 },
} as const satisfies Readonly<Record<string, MapKind>>;

/** What a frame can be, by number. */
const frameKinds = ["free", "stale", "clean", "dirty", "damaged"] as const;
type FrameKind = (typeof frameKinds)[number];

/** All frames of a cache; one that holds nothing believed has no block. */
class Frames {
  readonly geometry: Geometry;
  readonly #kinds: Uint8Array;
  /** block · 2 + 1 if dirty. */
  readonly #cached: number[] = [];

  constructor(geometry: Geometry) {
    this.geometry = geometry;
    this.#kinds = new Uint8Array(geometry.frames);
  }

  mark(frame: number, count: number, kind: FrameKind): void {
    this.#kinds.fill(frameKinds.indexOf(kind), frame, frame + count);
  }

  put(frame: number, block: number, kind: "clean" | "dirty"): void {
    this.mark(frame, 1, kind);
    this.#cached.push(block * 2 + (kind === "dirty" ? 1 : 0));
  }

  /** Runs of frames of one kind, on the device. @param start byte of frame 0. */
  *onDevice(start: number): Iterable<MapRange> {
    const { frames, blockSectors } = this.geometry;
    const size = blockSectors * SECTOR;
    for (let first = 0; first < frames; ) {
      const kind = this.#kinds[first] as number;
      let end = first + 1;
      while (end < frames && this.#kinds[end] === kind) end += 1;
      const name = frameKinds[kind] as FrameKind;
      yield { offset: start + first * size, length: (end - first) * size, kind: name };
      first = end;
    }
  }

  /** Runs of cached blocks, on the source of `size` bytes. */
  *onSource(size: number): Iterable<MapRange> {
    const blockBytes = this.geometry.blockSectors * SECTOR;
    const sorted = Float64Array.from(this.#cached).sort();
    for (let at = 0; at < sorted.length; ) {
      const first = sorted[at] as number;
      let count = 1;
      // Neighbours of the same kind are 2 apart.
      while (sorted[at + count] === first + count * 2) count += 1;
      const offset = Math.floor(first / 2) * blockBytes;
      const length = Math.min(count * blockBytes, size - offset);
      if (length > 0) yield { offset, length, kind: first % 2 === 1 ? "dirty" : "clean" };
      at += count;
    }
  }
}

/** @param source for its size, where the metadata does not tell it. Throws `EFORMAT` if there is no cache. */
export async function mapCache(cache: BlockDevice, source: BlockDevice | undefined): Promise<ImageMap> {
  const stored = await findMetadata(cache);
  if (stored.version === 1) {
    const { geometry } = stored.configuration;
    return picture(framesV1(geometry, stored.table), cache, stored.table.length, source?.size);
  }
  const frames = await framesV2(cache, stored.superblock);
  return picture(frames, cache, stored.superblock, stored.superblock.sourceSectors * SECTOR);
}

/** @param metadata of version 2 the superblock, of version 1 the bytes of the table. */
function picture(
  frames: Frames,
  cache: BlockDevice,
  metadata: Superblock | number,
  sourceSize: number | undefined,
): ImageMap {
  const onDevice = function* (): Iterable<MapRange> {
    if (typeof metadata === "number") {
      yield* frames.onDevice(0);
      yield { offset: cache.size - SECTOR - metadata, length: metadata, kind: "entries" };
    } else {
      const start = metadata.entryStart * SECTOR;
      yield { offset: 0, length: SECTOR, kind: "superblock" };
      yield { offset: start, length: metadata.dataStart * SECTOR - start, kind: "entries" };
      yield* frames.onDevice(metadata.dataStart * SECTOR);
    }
    yield { offset: cache.size - SECTOR, length: SECTOR, kind: "superblock" };
  };
  const strips: MapStrip[] = [{ title: `cache ${cache.name}`, size: cache.size, ranges: again(onDevice) }];
  if (sourceSize !== undefined) {
    const ranges = again(() => frames.onSource(sourceSize));
    strips.push({ title: "source, as far as it is cached", size: sourceSize, ranges });
  }
  return { strips, legend };
}

/** Can be gone through more than once. */
function again(make: () => Iterable<MapRange>): Iterable<MapRange> {
  return { [Symbol.iterator]: () => make()[Symbol.iterator]() };
}

function framesV1(geometry: Geometry, table: Buffer): Frames {
  const frames = new Frames(geometry);
  for (let frame = 0; frame < geometry.frames; frame += 1) {
    const sector = sectorInTableV1(table, frame);
    if (sector === 0) continue;
    const block = sector / geometry.blockSectors;
    if (Number.isInteger(block)) frames.put(frame, block, "clean");
    else frames.mark(frame, 1, "damaged");
  }
  return frames;
}

async function framesV2(cache: BlockDevice, superblock: Superblock): Promise<Frames> {
  const frames = new Frames(superblock.geometry);
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    if (problem !== undefined) frames.mark(frame, isOfSector(problem) ? ENTRIES_PER_SECTOR : 1, "damaged");
    else if (state === entryStates.dirty) frames.put(frame, block, "dirty");
    else if (superblock.clean) frames.put(frame, block, "clean");
    else frames.mark(frame, 1, "stale");
  }
  return frames;
}
