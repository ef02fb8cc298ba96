/** The declaration of caches as images: what offline tools can do with them. */
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type ImageFacts,
  type ImageFormat,
  type OptionTable,
  SECTOR,
  parseOptions,
  refuse,
} from "@dmkit/block-io";
import { check } from "./offline/check.ts";
import { detect } from "./offline/detect.ts";
import { dump, restore } from "./offline/dump.ts";
import { entryStates } from "./format/entries.ts";
import type { Geometry } from "./format/geometry.ts";
import { layoutOf } from "./format/layout.ts";
import type { Superblock } from "./format/superblock.ts";
import { uuidFromText } from "./format/uuid.ts";
import { requiredSectorsV1, sectorInTableV1 } from "./format/v1.ts";
import { importV1 } from "./offline/import.ts";
import { mapCache } from "./offline/map.ts";
import { type NewCache, createV1, createV2, writeMetadataV1 } from "./open/create.ts";
import { readEntries } from "./open/entries.ts";
import { findMetadata } from "./open/load.ts";
import { cacheOptions } from "./options.ts";
import { repair } from "./offline/repair.ts";
import { writeDirty } from "./offline/replay.ts";
import { writeSuperblocks } from "./device/metadata/superblocks.ts";

const formatOptions = {
  block_size: cacheOptions.block_size,
  cache_size: {
    type: "integer",
    min: 1,
    max: cacheOptions.cache_size.max,
    unit: "blocks",
    optional: true,
    help: "blocks in the cache, a power of two; left out: as many as fit",
  },
  associativity: {
    type: "integer",
    min: 1,
    max: cacheOptions.associativity.max,
    unit: "ways",
    optional: true,
    help: "frames a block may go to, a power of two; left out: 1024, or all of a smaller cache",
  },
  policy: { ...cacheOptions.policy, help: "the policy the cache is opened with; left out: write-through" },
  format: cacheOptions.format,
  source_size: {
    type: "size",
    min: SECTOR,
    max: Number.MAX_SAFE_INTEGER,
    optional: true,
    help: "bytes of the source that are cached; left out: all of it, if it is named",
  },
  source_uuid: cacheOptions.source_uuid,
  import: {
    type: "flag",
    default: false,
    help: "keep the blocks of a historical cache that is there; of the other options source_size and source_uuid count",
  },
  force: { type: "flag", default: false, help: "over a cache that holds dirty blocks, which are lost" },
} as const satisfies OptionTable;

const replayOptions = {
  force: {
    type: "flag",
    default: false,
    help: "write although the source has changed since the cache was closed",
  },
} as const satisfies OptionTable;

/** Offline tools for caches of both metadata versions. */
export const assocCacheImages: ImageFormat = {
  name: "cache",
  summary: "set-associative block cache",
  roles: [
    { name: "cache", required: true, help: "the device that holds the cached blocks and the metadata" },
    {
      name: "source",
      required: false,
      cached: true,
      help: "the device that is cached; clean blocks are compared with it",
    },
  ],
  detect,
  info: async (devices) => info(cacheOf(devices)),
  async *check(devices, work) {
    yield* check(cacheOf(devices), devices["source"], work);
  },
  repair: async (devices, work) => repair(cacheOf(devices), devices["source"], work),
  dump: async (devices) => dump(cacheOf(devices)),
  restore: async (devices, given, { force }) => restore(cacheOf(devices), given, force),
  map: async (devices) => mapCache(cacheOf(devices), devices["source"]),
  replay: {
    to: "source",
    options: replayOptions,
    async run(devices, words, work) {
      const { force } = parseOptions(replayOptions, words, "replay");
      const blocks = await writeDirty(sourceOf(devices), cacheOf(devices), { ...work, force });
      return { facts: { blocks }, text: `${blocks} dirty blocks` };
    },
  },
  formatOptions,
  keepsImage: (words) => parseOptions(formatOptions, words, "cache").import,
  async format(devices, words, work) {
    const cache = cacheOf(devices);
    const options = parseOptions(formatOptions, words, "cache");
    if (options.import) {
      await importV1(cache, sourceOf(devices), {
        ...work,
        size: sourceSize(options.source_size, devices),
        sourceUuid: options.source_uuid,
      });
      return;
    }
    const blockSectors = options.block_size;
    const frames = options.cache_size ?? mostFrames(cache, blockSectors, options.format);
    const ways = options.associativity ?? Math.min(frames, cacheOptions.associativity.default);
    const sourceUuid = (options.source_uuid ?? "").toLowerCase();
    if (uuidFromText(sourceUuid) === undefined) {
      throw refuse(
        cache.name,
        "EINVAL",
        `"${sourceUuid}" is not a UUID`,
        "Write 8-4-4-4-12 hexadecimal digits.",
      );
    }
    if ((blockSectors * SECTOR) % cache.limits.logicalBlockSize !== 0) {
      const reason = `blocks of ${blockSectors} sectors do not suit the device`;
      throw refuse(cache.name, "EINVAL", reason, "Give a block size of at least 8 sectors.");
    }
    const wanted: NewCache = {
      geometry: { frames, blockSectors, ways },
      policy: options.policy ?? "write-through",
      size: options.format === "v1" ? 0 : sourceSize(options.source_size, devices),
      sourceUuid,
      force: options.force,
      random: work.environment.random,
    };
    await (options.format === "v1" ? makeV1 : makeV2)(cache, wanted);
  },
};

async function makeV1(cache: BlockDevice, wanted: NewCache): Promise<void> {
  const { policy, geometry } = wanted;
  if (policy !== "write-through" && policy !== "write-back") {
    throw refuse(cache.name, "EINVAL", `format v1 knows no policy ${policy}`, "Use format v2.");
  }
  await createV1(cache, wanted);
  await writeMetadataV1(cache, geometry, policy === "write-back", []);
}

/** A new cache counts as one that was closed cleanly. */
async function makeV2(cache: BlockDevice, wanted: NewCache): Promise<void> {
  const superblock = await createV2(cache, wanted);
  await writeSuperblocks(cache, { ...superblock, clean: true, generation: superblock.generation + 1 });
}

/** Frames of the largest cache that fits; at least 1, which then does not fit either. */
function mostFrames(cache: BlockDevice, blockSectors: number, format: "v1" | "v2"): number {
  const fits = (frames: number): boolean => {
    const geometry = { frames, blockSectors, ways: 1 };
    const needed = format === "v1" ? requiredSectorsV1(geometry) : layoutOf(geometry).requiredSectors;
    return needed <= cache.size / SECTOR;
  };
  let frames = 1;
  while (frames * 2 <= cacheOptions.cache_size.max && fits(frames * 2)) frames *= 2;
  return frames;
}

function sourceSize(given: number | undefined, { source }: ImageDevices): number {
  const size = given ?? source?.size;
  const fits = size !== undefined && size % SECTOR === 0 && (source === undefined || size <= source.size);
  if (fits) return size;
  throw refuse(
    "cache",
    "EINVAL",
    size === undefined ? "the size of the source is not known" : `the source cannot have ${size} bytes`,
    "Name the source, or give its source_size, a multiple of 512.",
  );
}

/** Throws `EFORMAT` if there is no cache. */
async function info(cache: BlockDevice): Promise<ImageFacts> {
  const stored = await findMetadata(cache);
  if (stored.version === 2) return factsV2(cache, stored.superblock);
  const { geometry, writeBack } = stored.configuration;
  let used = 0;
  for (let frame = 0; frame < geometry.frames; frame += 1) {
    if (sectorInTableV1(stored.table, frame) !== 0) used += 1;
  }
  return {
    format: "v1",
    state: "closed cleanly, unless the machine crashed afterwards",
    policy: writeBack ? "write-back" : "write-through",
    ...shape(geometry),
    used_blocks: used,
    dirty_blocks: 0,
    checksum: stored.checksum === "whole" ? "right" : "folded to 16 bits: the original driver refuses it",
  };
}

async function factsV2(cache: BlockDevice, superblock: Superblock): Promise<ImageFacts> {
  let [used, dirty, damaged] = [0, 0, 0];
  for await (const { state, problem } of readEntries(cache, superblock)) {
    if (problem !== undefined) damaged += 1;
    else if (state === entryStates.dirty || superblock.clean) used += 1;
    if (problem === undefined && state === entryStates.dirty) dirty += 1;
  }
  return {
    format: "v2",
    state: superblock.clean ? "closed cleanly" : "in use, or not closed cleanly",
    policy: superblock.policy,
    ...shape(superblock.geometry),
    used_blocks: used,
    dirty_blocks: dirty,
    damaged_entries: damaged,
    needs_check: superblock.needsCheck,
    source_bytes: superblock.sourceSectors * SECTOR,
    uuid: superblock.uuid,
    ...(superblock.sourceUuid === "" ? {} : { source_uuid: superblock.sourceUuid }),
    generation: superblock.generation,
  };
}

function shape({ frames, blockSectors, ways }: Geometry): ImageFacts {
  const block = blockSectors * SECTOR;
  return { capacity_bytes: frames * block, block_bytes: block, blocks: frames, ways };
}

function sourceOf({ source }: ImageDevices): BlockDevice {
  if (source !== undefined) return source;
  throw new BlockIoError("no source is given", { code: "EINVAL", hint: "Name the source as well." });
}

function cacheOf({ cache }: ImageDevices): BlockDevice {
  if (cache !== undefined) return cache;
  throw new BlockIoError("no cache device is given", { code: "EINVAL", hint: "Name the cache device." });
}
