/** A layer as a picture: what it holds of the target, what it shows over a base, and the bitmap device itself. */
import {
  type BitRun,
  type BlockDevice,
  type ImageMap,
  type MapKind,
  type MapRange,
  type MapStrip,
  type OfflineWork,
  SECTOR,
} from "@dmkit/block-io";
import { IDENTITY_BLOCK, bitmapLength } from "../format/geometry.ts";
import { placeOf } from "../device/layer/locate.ts";
import { readSetBits } from "../device/layer/set-bits.ts";

const legend = {
  layer: { meaning: "in this layer", character: "#", colour: "#e07b20", weight: 5 },
  base: { meaning: "shows through from the base", character: "b", colour: "#3f6fb5", weight: 3 },
  hole: {
    meaning: "nothing: reads as zeroes, or from what lies below",
    character: ".",
    colour: "#e8e8e8",
    weight: 1,
  },
  bitmap: { meaning: "bitmap", character: "B", colour: "#4f9f4f", weight: 4 },
  bad: {
    meaning: "bitmap that cannot be read: its sectors are shown as if not in the layer",
    character: "!",
    colour: "#d02020",
    weight: 7,
  },
  identity: { meaning: "identity", character: "I", colour: "#7b3fa0", weight: 6 },
} as const satisfies Readonly<Record<string, MapKind>>;

type Kind = keyof typeof legend;

/** @param base what lies below, if it is known. Errors: those of the devices. */
export async function mapLayer(
  bitmap: BlockDevice,
  base: BlockDevice | undefined,
  sectors: number,
  work: Pick<OfflineWork, "signal" | "progress">,
): Promise<ImageMap> {
  const { bits, unreadable } = await readSetBits(bitmap, sectors, work);
  const layer = (): Iterable<BitRun> => bits.runs(true, 0, sectors);
  const size = sectors * SECTOR;
  const strips: MapStrip[] = [
    { title: `layer ${bitmap.name}`, size, ranges: again(() => over(layer(), holes(size))) },
  ];
  if (base !== undefined) {
    const below = await extentsOf(base, Math.min(size, base.size));
    strips.push({ title: "layer and base together", size, ranges: again(() => over(layer(), below)) });
  }
  const place = placeOf(sectors);
  const parts: MapRange[] = [];
  let at = 0;
  for (const bad of unreadable) {
    if (bad > at) parts.push(range(at, bad - at, "bitmap"));
    parts.push(range(bad, SECTOR, "bad"));
    at = bad + SECTOR;
  }
  const end = bitmapLength(sectors) * SECTOR;
  if (end > at) parts.push(range(at, end - at, "bitmap"));
  parts.push(range(place, IDENTITY_BLOCK, "identity"));
  strips.push({ title: `bitmap device ${bitmap.name}`, size: bitmap.size, ranges: parts });
  return { strips, legend };
}

function range(offset: number, length: number, kind: Kind): MapRange {
  return { offset, length, kind };
}

function holes(size: number): readonly MapRange[] {
  return [range(0, size, "hole")];
}

async function extentsOf(base: BlockDevice, size: number): Promise<readonly MapRange[]> {
  const found: MapRange[] = [];
  for await (const { offset, length, kind } of base.extents(0, size)) {
    found.push(range(offset, length, kind === "data" ? "base" : "hole"));
  }
  return found;
}

/** The layer's runs, and between them what lies below. */
function* over(layer: Iterable<BitRun>, below: readonly MapRange[]): Iterable<MapRange> {
  let at = 0;
  let next = 0;
  const until = function* (end: number): Iterable<MapRange> {
    for (; next < below.length && at < end; ) {
      const one = below[next] as MapRange;
      const from = Math.max(at, one.offset);
      const to = Math.min(end, one.offset + one.length);
      if (from < to) yield { ...one, offset: from, length: to - from };
      at = Math.max(from, to);
      if (one.offset + one.length <= end) next += 1;
      else return;
    }
  };
  for (const { first, count } of layer) {
    yield* until(first * SECTOR);
    at = (first + count) * SECTOR;
    yield range(first * SECTOR, count * SECTOR, "layer");
    while (next < below.length && endOf(below[next] as MapRange) <= at) next += 1;
  }
  yield* until(Number.POSITIVE_INFINITY);
}

function endOf({ offset, length }: MapRange): number {
  return offset + length;
}

/** Can be gone through more than once. */
function again(make: () => Iterable<MapRange>): Iterable<MapRange> {
  return { [Symbol.iterator]: () => make()[Symbol.iterator]() };
}
