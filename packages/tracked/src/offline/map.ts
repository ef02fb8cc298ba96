/** Bitmaps as a picture: what each epoch has of the device, and the bitmap device itself. */
import type { BlockDevice, ImageMap, MapKind, MapRange, OfflineWork } from "@dmkit/block-io";
import { SECTOR } from "@dmkit/block-io";
import type { Epoch, EpochTable } from "../core/epochs.ts";
import { SUPERBLOCK_BYTES, SUPERBLOCK_PLACES, pagesOf, slotStart } from "../format/geometry.ts";
import { findBitmaps } from "../open/bitmaps.ts";

const legend = {
  changed: { meaning: "changed since the epoch began", character: "#", colour: "#e07b20", weight: 5 },
  same: { meaning: "unchanged", character: ".", colour: "#e8e8e8", weight: 1 },
  superblock: { meaning: "superblock", character: "S", colour: "#7b3fa0", weight: 6 },
  bitmap: { meaning: "bitmap of an epoch", character: "B", colour: "#4f9f4f", weight: 4 },
  lost: {
    meaning: "page that is lost: all of it counts as changed",
    character: "!",
    colour: "#d02020",
    weight: 7,
  },
} as const satisfies Readonly<Record<string, MapKind>>;

/** Errors: `EFORMAT`, those of the device. */
export async function mapBitmaps(bitmap: BlockDevice, work: OfflineWork): Promise<ImageMap> {
  const { table, lost } = await findBitmaps(bitmap, work);
  const { geometry } = table;
  const places: MapRange[] = SUPERBLOCK_PLACES.map((offset) => ({
    offset,
    length: SUPERBLOCK_BYTES,
    kind: "superblock",
  }));
  for (const { slot, number } of table.epochs) {
    const start = slotStart(geometry, slot);
    let at = 0;
    for (const { page, epoch } of lost) {
      if (epoch.number !== number) continue;
      if (page > at)
        places.push({ offset: start + at * SECTOR, length: (page - at) * SECTOR, kind: "bitmap" });
      places.push({ offset: start + page * SECTOR, length: SECTOR, kind: "lost" });
      at = page + 1;
    }
    const pages = pagesOf(geometry);
    if (pages > at)
      places.push({ offset: start + at * SECTOR, length: (pages - at) * SECTOR, kind: "bitmap" });
  }
  const epochs = table.epochs.map((epoch) => ({
    title: `changed since ${epoch.name}`,
    size: geometry.size,
    ranges: { [Symbol.iterator]: () => rangesOf(table, epoch) },
  }));
  return {
    strips: [...epochs, { title: `bitmap device ${bitmap.name}`, size: bitmap.size, ranges: places }],
    legend,
  };
}

function* rangesOf({ geometry, chunks }: EpochTable, { bits }: Epoch): Generator<MapRange> {
  for (let first = 0; first < chunks; ) {
    const end = bits.runEnd(first);
    const offset = first * geometry.chunk;
    const length = Math.min(geometry.size, end * geometry.chunk) - offset;
    yield { offset, length, kind: bits.get(first) ? "changed" : "same" };
    first = end;
  }
}
