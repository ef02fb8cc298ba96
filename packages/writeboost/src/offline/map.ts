/**
 * Offline: an image as a picture. The backing device is drawn in at most 65,536 grains, so that a picture of a
 * large one costs no more than reading the heads of the slots.
 */
import { Bitmap, type ImageMap, type MapRange, type MapStrip, type OfflineWork } from "@dmkit/block-io";
import type { Image } from "./examine/findings.ts";
import { BLOCK, SLOTS_START, slotStart } from "../format/geometry.ts";
import { type ScannedLog, scan } from "../open/scan.ts";

const MOST_GRAINS = 65_536;

type Kind = "superblock" | "dirty" | "clean" | "stale" | "bad" | "unused" | "cached";

const legend: Record<Kind, ImageMap["legend"][string]> = {
  superblock: { meaning: "superblock and identity record", character: "S", colour: "#7f7f7f", weight: 5 },
  dirty: {
    meaning: "newest data, not on the backing device yet",
    character: "#",
    colour: "#d62728",
    weight: 8,
  },
  bad: { meaning: "torn or damaged segments", character: "!", colour: "#9467bd", weight: 9 },
  stale: { meaning: "whole segments outside of the log", character: "?", colour: "#ff7f0e", weight: 4 },
  clean: { meaning: "segments that are written back", character: "=", colour: "#2ca02c", weight: 3 },
  cached: { meaning: "in the cache and on the backing device", character: "=", colour: "#98df8a", weight: 2 },
  unused: { meaning: "slots never used", character: ".", colour: "#e5e5e5", weight: 1 },
};

/** Throws `EFORMAT` where there is no cache, what devices throw, and the signal's reason. */
export async function mapImage({ cache, backing }: Image, work: OfflineWork): Promise<ImageMap> {
  const found = await scan(cache, backing?.size, work);
  const strips: MapStrip[] = [
    { title: `cache device ${cache.name}`, size: cache.size, ranges: cacheRanges(found) },
    backingStrip(found, backing?.name),
  ];
  return { strips, legend };
}

/** Neighbours of one kind are one range. */
function cacheRanges(found: ScannedLog): MapRange[] {
  const { geometry, ids } = found;
  const bad = new Set(found.problems.map(({ slot }) => slot));
  const ranges: MapRange[] = [{ offset: 0, length: SLOTS_START, kind: "superblock" }];
  for (let from = 0; from < ids.length; ) {
    const kind = slotKind(found, bad, from);
    let to = from + 1;
    while (to < ids.length && slotKind(found, bad, to) === kind) to += 1;
    ranges.push({ offset: slotStart(geometry, from), length: (to - from) * geometry.slotSize, kind });
    from = to;
  }
  return ranges;
}

function slotKind(
  { ids, first, last, lastWriteback }: ScannedLog,
  bad: ReadonlySet<number>,
  slot: number,
): Kind {
  const id = ids[slot] as number;
  if (bad.has(slot)) return "bad";
  if (id === 0) return "unused";
  if (id < first || id > last) return "stale";
  return id > lastWriteback ? "dirty" : "clean";
}

function backingStrip(found: ScannedLog, name: string | undefined): MapStrip {
  const { ids, map, first, last, lastWriteback, backingSize } = found;
  const inLog = (slot: number): boolean => (ids[slot] as number) >= first && (ids[slot] as number) <= last;
  const size = backingSize ?? endOfLog(found, inLog);
  let grain = BLOCK;
  while (size / grain > MOST_GRAINS) grain *= 2;
  const grains = Math.ceil(size / grain);
  const dirty = new Bitmap(grains);
  const cached = new Bitmap(grains);
  for (let slot = 0; slot < ids.length; slot += 1) {
    if (!inLog(slot)) continue;
    const start = slot * map.blocks;
    const end = start + (map.lengths[slot] as number);
    const marks = (ids[slot] as number) > lastWriteback ? dirty : cached;
    for (let index = start; index < end; index += 1) {
      const at = Math.floor(((map.keys[index] as number) * BLOCK) / grain);
      // Blocks of dirty_bits 0 came from the backing device by read caching.
      (map.dirty[index] === 0 ? cached : marks).set(at);
    }
  }
  const known = backingSize === undefined ? ", as far as it is known" : "";
  const title = `backing device${name === undefined ? "" : ` ${name}`}${known}`;
  return { title, size, ranges: grainRanges(size, grain, dirty, cached) };
}

/** The end of the last block in the log, in bytes: the least size the backing device can have. */
function endOfLog({ ids, map }: ScannedLog, inLog: (slot: number) => boolean): number {
  let end = 0;
  for (let slot = 0; slot < ids.length; slot += 1) {
    if (!inLog(slot)) continue;
    const start = slot * map.blocks;
    for (let index = start; index < start + (map.lengths[slot] as number); index += 1)
      end = Math.max(end, ((map.keys[index] as number) + 1) * BLOCK);
  }
  return end;
}

function* grainRanges(size: number, grain: number, dirty: Bitmap, cached: Bitmap): Iterable<MapRange> {
  const kindOf = (at: number): Kind | undefined =>
    dirty.get(at) ? "dirty" : cached.get(at) ? "cached" : undefined;
  for (let from = 0; from < dirty.length; ) {
    const kind = kindOf(from);
    let to = from + 1;
    while (to < dirty.length && kindOf(to) === kind) to += 1;
    const offset = from * grain;
    if (kind !== undefined) yield { offset, length: Math.min(to * grain, size) - offset, kind };
    from = to;
  }
}
