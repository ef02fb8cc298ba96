/** Reading what is on a device of format 1: is it one, how is it divided, what is stored where. */
import { type BlockDevice, BlockIoError } from "@dmkit/block-io";
import type { ExtentMap } from "../../core/extent-map.ts";
import { unpackEntries } from "../../format/entries-v1.ts";
import { BLOCK, type GeometryV1, geometryV1 } from "../../format/geometry-v1.ts";
import type { SuperblockV1 } from "../../format/superblock-v1.ts";

/** By the number in the superblock. The original knew the first. */
export const algorithms: readonly string[] = ["lzo", "lz4", "deflate", "zstd"];

// Eight entries take five bytes: chunks of whole such groups can be unpacked one by one.
const META_CHUNK = 5 * 4096 * 32;

export interface Matched {
  readonly geometry: GeometryV1;
  /** The original's mistake: what it counted can be read, but the original could not have written it all. */
  readonly wrapped: boolean;
}

/** The counts must be what the size gives, or what the original made of that by mistake. Throws `EFORMAT`. */
export function matchGeometry(lower: BlockDevice, { metaBlocks, dataBlocks }: SuperblockV1): Matched {
  const geometry = geometryV1(Math.floor(lower.size / BLOCK));
  if (geometry.metaBlocks === metaBlocks && geometry.dataBlocks === dataBlocks) {
    return { geometry, wrapped: false };
  }
  const { wrapped } = geometry;
  if (wrapped !== undefined && wrapped.metaBlocks === metaBlocks && wrapped.dataBlocks === dataBlocks) {
    return { geometry, wrapped: true };
  }
  throw refuse(
    lower,
    `the superblock counts ${metaBlocks} metadata and ${dataBlocks} data blocks, but a device of this size has ` +
      `${geometry.metaBlocks} and ${geometry.dataBlocks}`,
    "Was the device copied to another size? Copy it to one of the original size.",
  );
}

/** The algorithm's name. Throws `EFORMAT` for a number nobody knows. */
export function algorithmOf(lower: BlockDevice, { algorithm }: SuperblockV1): string {
  const name = algorithms[algorithm];
  if (name !== undefined) return name;
  const known = algorithms.map((one, number) => `${number} (${one})`).join(", ");
  throw refuse(
    lower,
    `algorithm ${algorithm} is not known`,
    `Known are: ${known}. Restore the first block from a backup.`,
  );
}

function refuse(lower: BlockDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EFORMAT", device: lower.name, op: "open", hint });
}

/** Fills the map from the metadata blocks. */
export async function loadEntries(lower: BlockDevice, map: ExtentMap, metaBlocks: number): Promise<void> {
  const entriesInChunk = (META_CHUNK * 8) / 5;
  for (let at = 0, first = 0; first < map.blocks; at += META_CHUNK, first += entriesInChunk) {
    const chunk = Buffer.alloc(Math.min(META_CHUNK, metaBlocks * BLOCK - at));
    await lower.read(BLOCK + at, chunk);
    unpackEntries(chunk, map.states.subarray(first, first + entriesInChunk));
  }
}
