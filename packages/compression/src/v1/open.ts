/** Opening and making devices of format 1. */
import { type BlockDevice, BlockIoError, type OpenContext, SECTOR } from "@dmkit/block-io";
import { openCodec } from "../codec.ts";
import { ExtentMap } from "../core/extent-map.ts";
import { newCounters } from "../counters.ts";
import { unpackEntries } from "../format/entries-v1.ts";
import { BLOCK, BLOCK_SECTORS, MAX_EXTENT, geometryV1 } from "../format/geometry-v1.ts";
import { type SuperblockV1, decodeSuperblockV1, encodeSuperblockV1 } from "../format/superblock-v1.ts";
import type { CompressionOptions } from "../options.ts";
import { CompressionDeviceV1 } from "./device.ts";

/** By the number in the superblock. The original knew the first. */
export const algorithms: readonly string[] = ["lzo", "lz4", "deflate", "zstd"];

const CHUNK = 1024 * 1024;
// Eight entries take five bytes: chunks of whole such groups can be unpacked one by one.
const META_CHUNK = 5 * 4096 * 32;

/** Makes an empty device: metadata first, and the superblock when that is stable. */
export async function createV1(
  lower: BlockDevice,
  { algorithm = "lzo" }: CompressionOptions,
  { name }: OpenContext,
): Promise<void> {
  const { metaBlocks, dataBlocks } = geometryV1(Math.floor(lower.size / BLOCK));
  const number = algorithms.indexOf(algorithm);
  if (dataBlocks < 1 || number < 0) {
    throw new BlockIoError(
      dataBlocks < 1
        ? `${lower.size} bytes leave no room for data`
        : `format 1 has no number for ${algorithm}`,
      {
        code: "EINVAL",
        device: name,
        op: "open",
        hint: dataBlocks < 1 ? "Use a larger device." : `It can be: ${algorithms.join(", ")}.`,
      },
    );
  }
  await lower.write(0, Buffer.alloc(BLOCK));
  await lower.flush();
  for (let at = 0; at < metaBlocks * BLOCK; at += CHUNK) {
    await lower.write(BLOCK + at, Buffer.alloc(Math.min(CHUNK, metaBlocks * BLOCK - at)));
  }
  await lower.flush();
  await lower.write(0, encodeSuperblockV1({ metaBlocks, dataBlocks, algorithm: number }));
  await lower.flush();
}

export async function openV1(
  lower: BlockDevice,
  options: CompressionOptions,
  { name, size, environment }: OpenContext,
  synchronous: boolean,
): Promise<CompressionDeviceV1> {
  const first = Buffer.alloc(BLOCK);
  await lower.read(0, first);
  const superblock = decodeSuperblockV1(first);
  const { geometry, readOnly } = checkGeometry(lower, superblock);
  const algorithm = algorithms[superblock.algorithm];
  if (algorithm === undefined) throw refuse(lower, `algorithm ${superblock.algorithm} is not known`);
  if (options.algorithm !== undefined && options.algorithm !== algorithm) {
    throw new BlockIoError(`the device is compressed with ${algorithm}`, {
      code: "EINVAL",
      device: name,
      op: "open",
      hint: "Leave the option algorithm out.",
    });
  }
  const most = geometry.dataBlocks * BLOCK;
  if (size > most || size % BLOCK !== 0) {
    throw new BlockIoError(`${size} bytes do not fit`, {
      code: "EINVAL",
      device: name,
      op: "open",
      hint: `There are ${most / SECTOR} sectors; take a multiple of ${BLOCK_SECTORS}.`,
    });
  }
  const map = new ExtentMap(geometry.dataBlocks);
  await loadEntries(lower, map, geometry.metaBlocks);
  const codec = await openCodec(algorithm, name, synchronous);
  return new CompressionDeviceV1({
    name,
    size,
    environment,
    lower,
    codec,
    map,
    counters: newCounters(),
    metaBlocks: geometry.metaBlocks,
    maxExtent: (options.max_extent ?? MAX_EXTENT * BLOCK) / BLOCK,
    interval: options.mode === "writethrough" ? 0 : options.interval * 1000,
    readOnly,
  });
}

interface Checked {
  readonly geometry: { readonly metaBlocks: number; readonly dataBlocks: number };
  readonly readOnly: boolean;
}

/** The counts must be what the size gives; what the original got wrong can be read. */
function checkGeometry(lower: BlockDevice, { metaBlocks, dataBlocks }: SuperblockV1): Checked {
  const geometry = geometryV1(Math.floor(lower.size / BLOCK));
  if (geometry.metaBlocks === metaBlocks && geometry.dataBlocks === dataBlocks) {
    return { geometry, readOnly: lower.limits.capabilities.readOnly };
  }
  const { wrapped } = geometry;
  if (wrapped !== undefined && wrapped.metaBlocks === metaBlocks && wrapped.dataBlocks === dataBlocks) {
    return { geometry, readOnly: true };
  }
  throw refuse(
    lower,
    `the superblock counts ${metaBlocks} metadata and ${dataBlocks} data blocks, but a device of this size has ` +
      `${geometry.metaBlocks} and ${geometry.dataBlocks}`,
  );
}

function refuse(lower: BlockDevice, reason: string): BlockIoError {
  return new BlockIoError(reason, {
    code: "EFORMAT",
    device: lower.name,
    op: "open",
    hint: "Was the device copied to another size? Copy it to one of the original size.",
  });
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
