/** Reading what is on a device of format 1: is it one, how is it divided, what is stored where. */
import { type BlockDevice, SECTOR, readTwice, readWhatIsGiven, refuse } from "@dmkit/block-io";
import type { ExtentMap } from "../../core/extent-map.ts";
import { unpackEntries } from "../../format/entries-v1.ts";
import { SealedEntries } from "../../device/v1/sealed.ts";
import { BLOCK, BLOCK_SECTORS, type GeometryV1, geometryV1 } from "../../format/geometry-v1.ts";
import type { SuperblockV1 } from "../../format/superblock-v1.ts";

/** By the number in the superblock. The original knew the first. */
export const algorithms: readonly string[] = ["lzo", "lz4", "deflate", "zstd"];

// What the original wrapped around.
const WRAP = 2 ** 32;

// Eight entries take five bytes: chunks of whole such groups can be unpacked one by one.
const META_CHUNK = 5 * 4096 * 32;

export interface Matched {
  readonly geometry: GeometryV1;
  /** The original's mistake: what it counted can be read, but the original could not have written it all. */
  readonly wrapped: boolean;
  /** Blocks of the device behind those that are counted: it was made larger, and they are not used. */
  readonly rest: number;
}

/**
 * The counts must be what the size gives, or what the original made of that by mistake: the size of the device, or of
 * what it was before it was made larger. Throws `EFORMAT`.
 */
export function matchGeometry(lower: BlockDevice, { metaBlocks, dataBlocks }: SuperblockV1): Matched {
  const blocks = Math.floor(lower.size / BLOCK);
  for (const count of [dataBlocks, dataBlocks - WRAP]) {
    const total = 1 + metaBlocks + count;
    const geometry = geometryV1(Math.max(0, total));
    const { wrapped = geometry } = geometry;
    const isWrapped = count !== dataBlocks;
    const made = isWrapped ? wrapped : geometry;
    if (count < 1 || made.metaBlocks !== metaBlocks || made.dataBlocks !== dataBlocks) continue;
    if (total <= blocks) return { geometry, wrapped: isWrapped, rest: blocks - total };
    throw refuse(
      lower.name,
      "EFORMAT",
      `the superblock counts ${metaBlocks} metadata and ${count} data blocks, but the device has ${blocks} in all`,
      "It was cut short. Give it its former size; what was there has to be there.",
    );
  }
  const { metaBlocks: meta, dataBlocks: data } = geometryV1(blocks);
  throw refuse(
    lower.name,
    "EFORMAT",
    `the superblock counts ${metaBlocks} metadata and ${dataBlocks} data blocks, but a device of this size has ` +
      `${meta} and ${data}`,
    "No device has such counts: restore the first block from a backup.",
  );
}

/** The algorithm's name. Throws `EFORMAT` for a number nobody knows. */
export function algorithmOf(lower: BlockDevice, { algorithm }: SuperblockV1): string {
  const name = algorithms[algorithm];
  if (name !== undefined) return name;
  const known = algorithms.map((one, number) => `${number} (${one})`).join(", ");
  throw refuse(
    lower.name,
    "EFORMAT",
    `algorithm ${algorithm} is not known`,
    `Known are: ${known}. Restore the first block from a backup.`,
  );
}

/** Fills the map from the metadata blocks; what the device does not give of them, undefined if it gives all. */
export async function loadEntries(
  lower: BlockDevice,
  map: ExtentMap,
  metaBlocks: number,
): Promise<SealedEntries | undefined> {
  const entriesInChunk = (META_CHUNK * 8) / 5;
  const missing = new Set<number>();
  for (let at = 0, first = 0; first < map.blocks; at += META_CHUNK, first += entriesInChunk) {
    const chunk = Buffer.alloc(Math.min(META_CHUNK, metaBlocks * BLOCK - at));
    for (const sector of await readTwice(lower, BLOCK + at, chunk)) missing.add(at / SECTOR + sector);
    unpackEntries(chunk, map.states.subarray(first, first + entriesInChunk));
  }
  if (missing.size === 0) return undefined;
  // With those beside them: entries and extents straddle metadata blocks.
  const pages = new Map<number, Buffer>();
  for (const sector of missing) {
    const page = Math.floor(sector / BLOCK_SECTORS);
    for (let near = Math.max(0, page - 1); near <= Math.min(page + 1, metaBlocks - 1); near += 1) {
      if (pages.has(near)) continue;
      const bytes = Buffer.alloc(BLOCK);
      await readWhatIsGiven(lower, (1 + near) * BLOCK, bytes);
      pages.set(near, bytes);
    }
  }
  return new SealedEntries(lower, map, missing, pages);
}
