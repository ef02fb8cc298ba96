/** Recognising an image, and what can be said of it without reading its payloads. */
import type { BlockDevice, Detected, ImageFacts } from "@dmkit/block-io";
import { countExtent, extentsOf, newTally, tallyFacts } from "../core/tally.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { decodeSuperblockV1, isSuperblockV1 } from "../format/superblock-v1.ts";
import { algorithms } from "../open/v1/load.ts";
import { readSuperblockCopies } from "../device/v2/superblocks.ts";
import { type Image, ROLE, openImage, readStart } from "./image.ts";

/** By the magic, of either copy for format 2. */
export async function detect(device: BlockDevice): Promise<Detected | undefined> {
  if (device.size < 3 * BLOCK) return undefined;
  const first = await readStart(device);
  const found = (text: string, identity?: string): Detected => ({
    certainty: "magic",
    role: ROLE,
    text,
    identity,
  });
  if (isSuperblockV1(first)) {
    const { algorithm, dataBlocks } = decodeSuperblockV1(first);
    return found(
      `compressed device, format 1, ${algorithms[algorithm] ?? "unknown algorithm"}, ${dataBlocks} data blocks`,
    );
  }
  const copies = await readSuperblockCopies(device);
  for (const copy of copies) {
    if (copy.kind !== "sound") continue;
    const { algorithm, layout, uuid } = copy.superblock;
    return found(
      `compressed device, format 2, ${algorithm}, ${layout.dataBlocks} data blocks`,
      uuid.toString("hex"),
    );
  }
  if (copies.some(({ kind }) => kind === "version")) return found("compressed device of a later program");
  if (copies.some(({ kind }) => kind === "damaged"))
    return found("compressed device, format 2, both superblocks damaged", "");
  return undefined;
}

/** Throws `EFORMAT` if it is no such device. */
export async function info(device: BlockDevice): Promise<ImageFacts> {
  const image = await openImage(device, false, true);
  await image.codec.close();
  const { map } = image;
  const tally = newTally();
  for (const extent of extentsOf(map)) countExtent(map, extent, tally);
  return { ...geometryFacts(image), ...tallyFacts(map, tally) };
}

function geometryFacts(image: Image): ImageFacts {
  const { format, algorithm, map, metaBlocks } = image;
  const sizes = { data_bytes: map.blocks * BLOCK, metadata_bytes: metaBlocks * BLOCK };
  if (image.format === "v1") return { format, algorithm, read_only: image.wrapped, ...sizes };
  const { uuid, generation, layout } = image.superblock;
  return {
    format,
    algorithm,
    uuid: uuid.toString("hex"),
    generation,
    closed: image.pending.length === 0 && image.unreadableSlots.length === 0,
    journal_records_to_replay: image.pending.length,
    ...sizes,
    journal_bytes: layout.journalBlocks * BLOCK,
  };
}
