/** The layout as a picture: what each part of the device holds, and how well the data is compressed. */
import type { BlockDevice, ImageMap, MapKind, MapRange } from "@dmkit/block-io";
import type { StoredExtent } from "../core/extent-map.ts";
import { BLOCK, BLOCK_SECTORS } from "../format/geometry-v1.ts";
import { extentsOf } from "../core/tally.ts";
import { type Image, openImage, placeOf } from "./image.ts";

const legend: Readonly<Record<string, MapKind>> = {
  superblock: { meaning: "superblock", character: "S", colour: "#7048e8", weight: 6 },
  journal: { meaning: "journal", character: "J", colour: "#f08c00", weight: 5 },
  metadata: { meaning: "metadata", character: "M", colour: "#1971c2", weight: 5 },
  quarter: { meaning: "compressed to a quarter, or less", character: "1", colour: "#2b8a3e", weight: 1 },
  half: { meaning: "compressed to a half, or less", character: "2", colour: "#69db7c", weight: 2 },
  most: { meaning: "compressed to more than a half", character: "3", colour: "#c0eb75", weight: 3 },
  raw: { meaning: "stored as it is", character: "#", colour: "#868e96", weight: 4 },
  lost: { meaning: "contents are gone", character: "!", colour: "#e03131", weight: 7 },
};

/** Throws `EFORMAT` if it is no such device. */
export async function drawMap(device: BlockDevice): Promise<ImageMap> {
  const image = await openImage(device, false);
  await image.codec.close();
  return { strips: [{ title: device.name, size: device.size, ranges: ranges(image) }], legend };
}

function* ranges(image: Image): Iterable<MapRange> {
  if (image.format === "v1") {
    yield { offset: 0, length: BLOCK, kind: "superblock" };
    yield { offset: BLOCK, length: image.metaBlocks * BLOCK, kind: "metadata" };
  } else {
    const { journalStart, journalBlocks, metaStart, metaBlocks } = image.superblock.layout;
    yield { offset: 0, length: journalStart * BLOCK, kind: "superblock" };
    yield { offset: journalStart * BLOCK, length: journalBlocks * BLOCK, kind: "journal" };
    yield { offset: metaStart * BLOCK, length: metaBlocks * BLOCK, kind: "metadata" };
  }
  yield* dataRanges(image);
}

/** Neighbouring extents of one kind are one range; holes are not drawn. */
function* dataRanges(image: Image): Iterable<MapRange> {
  let last: MapRange | undefined;
  for (const extent of extentsOf(image.map)) {
    const kind = kindOf(extent);
    const offset = placeOf(image, extent.head);
    const length = extent.blocks * BLOCK;
    if (last !== undefined && last.kind === kind && last.offset + last.length === offset) {
      last = { ...last, length: last.length + length };
      continue;
    }
    if (last !== undefined) yield last;
    last = kind === undefined ? undefined : { offset, length, kind };
  }
  if (last !== undefined) yield last;
}

function kindOf({ blocks, sectors, bad }: StoredExtent): string | undefined {
  if (bad) return "lost";
  if (sectors === 0) return undefined;
  const share = sectors / (blocks * BLOCK_SECTORS);
  return share <= 0.25 ? "quarter" : share <= 0.5 ? "half" : share < 1 ? "most" : "raw";
}
