/** Opening and making devices of format 1. */
import type { Opening } from "../opening.ts";
import { type BlockDevice, type OpenContext, beginFormat, readWhatIsGiven, refuse } from "@dmkit/block-io";
import { openCodec } from "../../device/codec.ts";
import { ExtentMap } from "../../core/extent-map.ts";
import { newCounters } from "../../device/counters.ts";
import { BLOCK, MAX_EXTENT, geometryV1 } from "../../format/geometry-v1.ts";
import { type SuperblockV1, decodeSuperblockV1, encodeSuperblockV1 } from "../../format/superblock-v1.ts";
import type { CompressionOptions } from "../../options.ts";
import { requireFit, requireOptionsOfV1 } from "../refusals.ts";
import { CompressionDeviceV1 } from "../../device/v1/device.ts";
import { algorithmOf, algorithms, loadEntries, matchGeometry } from "./load.ts";

/** The algorithm of a new device. */
export const DEFAULT_V1 = "lzo";

const CHUNK = 1024 * 1024;

/** Makes an empty device: metadata first, and the superblock when that is stable. */
export async function createV1(
  lower: BlockDevice,
  { algorithm = DEFAULT_V1 }: Pick<CompressionOptions, "algorithm">,
  { name }: Pick<OpenContext, "name">,
): Promise<void> {
  const superblock = planV1(lower, algorithm, name);
  const bytes = superblock.metaBlocks * BLOCK;
  await beginFormat(lower);
  for (let at = 0; at < bytes; at += CHUNK) {
    await lower.write(BLOCK + at, Buffer.alloc(Math.min(CHUNK, bytes - at)));
  }
  await lower.flush();
  await lower.write(0, encodeSuperblockV1(superblock));
  await lower.flush();
}

/** The superblock of a new device. Throws `EINVAL`. */
export function planV1(lower: BlockDevice, algorithm: string, name: string): SuperblockV1 {
  const { metaBlocks, dataBlocks } = geometryV1(Math.floor(lower.size / BLOCK));
  const number = algorithms.indexOf(algorithm);
  if (dataBlocks >= 1 && number >= 0) return { metaBlocks, dataBlocks, algorithm: number };
  throw refuse(
    name,
    "EINVAL",
    dataBlocks < 1 ? `${lower.size} bytes leave no room for data` : `format 1 has no number for ${algorithm}`,
    dataBlocks < 1 ? "Use a larger device." : `It can be: ${algorithms.join(", ")}.`,
  );
}

/** Throws `EINVAL` for a device that is not as the options say, `EFORMAT` for one that makes no sense. */
export function requireV1(
  lower: BlockDevice,
  start: Buffer,
  options: CompressionOptions,
  { name, size }: Pick<OpenContext, "name" | "size">,
): ReturnType<typeof matchGeometry> & { readonly algorithm: string } {
  const superblock = decodeSuperblockV1(start);
  requireOptionsOfV1(options, name);
  const matched = matchGeometry(lower, superblock);
  const algorithm = algorithmOf(lower, superblock);
  if (options.algorithm !== undefined && options.algorithm !== algorithm) {
    throw refuse(
      name,
      "EINVAL",
      `the device is compressed with ${algorithm}`,
      "Leave the option algorithm out.",
    );
  }
  requireFit(size, matched.geometry.dataBlocks, name);
  return { ...matched, algorithm };
}

export async function openV1(
  lower: BlockDevice,
  options: CompressionOptions,
  context: OpenContext,
  { synchronous, rules }: Opening,
): Promise<CompressionDeviceV1> {
  const { name, size, environment } = context;
  const first = Buffer.alloc(BLOCK);
  // All but the first sector is zero; that one is read again for its error.
  if ((await readWhatIsGiven(lower, 0, first)).has(0)) await lower.read(0, first);
  const { geometry, wrapped, algorithm } = requireV1(lower, first, options, context);
  const map = new ExtentMap(geometry.dataBlocks);
  const sealed = await loadEntries(lower, map, geometry.metaBlocks);
  if (sealed !== undefined)
    environment.logger.log("error", "unreadable metadata", { why: sealed.health().why ?? "" });
  const codec = await openCodec(algorithm, name, synchronous);
  return new CompressionDeviceV1({
    name,
    size,
    environment,
    lower,
    codec,
    map,
    sealed,
    counters: newCounters(),
    rules,
    metaBlocks: geometry.metaBlocks,
    maxExtent: (options.max_extent ?? MAX_EXTENT * BLOCK) / BLOCK,
    interval: options.mode === "writethrough" ? 0 : options.interval * 1000,
    discardHoles: options.discard_holes,
    readOnly: wrapped || lower.limits.capabilities.readOnly,
  });
}
