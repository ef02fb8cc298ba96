/** Opens a cache: makes a new one or loads an old one, and marks it as in use before anything else happens. */
import { type CacheRules, cacheRules } from "../core/rules.ts";
import {
  type BlockDevice,
  FORCE_WORD,
  MemoryOverlay,
  type OpenContext,
  SECTOR,
  anyReadOnly,
  contentsOf,
  join,
  parseOptions,
  requireBlank,
  requireNoCache,
  requireRoom,
  refuse,
} from "@dmkit/block-io";
import { AssocCacheDevice } from "../device/device.ts";
import type { Geometry } from "../format/geometry.ts";
import type { Policy, Superblock } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";
import { encodeInUseV1 } from "../format/v1.ts";
import { type NewCache, createV1, createV2, refuseDirty, requirePossible } from "./create.ts";
import {
  type Stored,
  type Trace,
  checkPairing,
  checkBlockSize,
  findMetadata,
  loadV1,
  loadV2,
  traceOf,
  whyStale,
} from "./load.ts";
import { type CacheOptions, cacheOptions, usesOf } from "../options.ts";
import type { Metadata } from "../device/metadata/metadata.ts";
import { MetadataV1 } from "../device/metadata/metadata-v1.ts";
import { MetadataV2 } from "../device/metadata/metadata-v2.ts";
import { CacheState } from "../device/state.ts";
import { writeSuperblocks } from "../device/metadata/superblocks.ts";
import { completeLast, createLarger, forgetBehind } from "./grow.ts";

interface Devices {
  readonly source: BlockDevice;
  readonly cache: BlockDevice;
}

/** What a cache is opened with. */
interface Opening extends OpenContext {
  readonly rules: CacheRules;
}

/** Errors: EINVAL (geometry, room, wrong source), EBUSY (dirty blocks), EFORMAT (metadata), EROFS, I/O errors. */
export async function openCache(
  given: CacheOptions,
  opening: OpenContext,
  rules: CacheRules = cacheRules,
): Promise<AssocCacheDevice> {
  const context: Opening = { ...opening, rules };
  // A table has been checked; a program has not.
  const options = parseOptions(cacheOptions, given, "cache");
  const { source, cache } = await devicesOf(options, context);
  if (anyReadOnly([source, cache])) return openReadOnly(options, context, { source, cache });
  const devices = { source, cache };
  const found = await traceOf(cache, rules);
  const { state, metadata } = loads(options, found)
    ? await load(options, context, devices)
    : await create(options, context, devices, found);
  await join(rules.flushedOnOpening(source, cache).map((device) => device.flush()));
  const device = new AssocCacheDevice(state, metadata, options);
  const grows = options.grow_cache && options.cache_size > state.frames.geometry.frames;
  return grows && metadata instanceof MetadataV2
    ? larger(device, metadata, options, context, devices)
    : device;
}

/**
 * The same cache with more frames. Which set a block is in follows from how many there are, so they are empty: everything is
 * written back first, and a crash from then on leaves the old cache, a device that counts as blank, or the new one.
 */
async function larger(
  device: AssocCacheDevice,
  metadata: MetadataV2,
  options: CacheOptions,
  context: Opening,
  devices: Devices,
): Promise<AssocCacheDevice> {
  const { geometry, policy, sourceUuid: uuid } = metadata.superblock;
  const wanted: NewCache = {
    geometry: { ...geometry, frames: options.cache_size },
    policy,
    size: context.size,
    sourceUuid: uuid,
    force: false,
    random: context.environment.random,
  };
  try {
    requirePossible(devices.cache, wanted, "v2");
  } finally {
    await device.close();
  }
  const superblock = await createLarger(devices.cache, wanted, geometry);
  const state = stateV2(context, devices, options, superblock);
  return new AssocCacheDevice(state, new MetadataV2(state, superblock), options);
}

/** Throws what opening would throw, as far as it shows by reading little. */
export async function checkCache(options: CacheOptions, context: CheckContext): Promise<void> {
  const devices = await devicesOf(options, context);
  if (anyReadOnly(Object.values(devices))) return;
  const found = await traceOf(devices.cache);
  if (loads(options, found)) await requireLoadable(options, context, devices, cacheRules);
  else {
    await requireCreatable(options, context, devices, found);
    if (!options.force) await refuseDirty(devices.cache);
  }
}

type CheckContext = Pick<OpenContext, "name" | "size" | "environment" | "lower">;

async function devicesOf(
  options: CacheOptions,
  { size, lower }: Pick<OpenContext, "size" | "lower">,
): Promise<Devices> {
  const uses = usesOf(options, size);
  const source = await lower(...uses.source);
  const cache = await lower(...uses.cache);
  requireRoom(source, 0, size);
  return { source, cache };
}

function loads({ persistence, grow_cache: grows }: CacheOptions, found: Trace): boolean {
  // Becoming larger begins with what counts as blank.
  if (grows && found === "nothing") return false;
  return persistence === 1 || (persistence === 2 && found === "cache");
}

/** Loads what is there, whatever `persistence` says; what that has to change is changed in memory. */
async function openReadOnly(
  options: CacheOptions,
  context: Opening,
  { source, cache }: Devices,
): Promise<AssocCacheDevice> {
  if ((await contentsOf(cache)) === undefined) {
    throw refuse(
      cache.name,
      "EROFS",
      "there is no cache on the device, and none can be made read-only",
      source.limits.capabilities.readOnly
        ? "The source can only be read: use it without a cache."
        : "Open it for writing once, or read the source by itself.",
    );
  }
  const devices = { source: new MemoryOverlay(source), cache: new MemoryOverlay(cache) };
  const { state, metadata } = await load(options, context, devices);
  state.readOnly = true;
  return new AssocCacheDevice(state, metadata, options);
}

/** What is written over: a cache of ours needs no word unless blocks are dirty, which making a new one finds out. */
async function requireLeave(
  found: Trace,
  { force }: CacheOptions,
  { source, cache }: Devices,
): Promise<void> {
  await requireNoCache(source, { force });
  if (found === "nothing") await requireBlank(cache, { force });
}

interface Opened {
  readonly state: CacheState;
  readonly metadata: Metadata;
}

/** What is going to be made. Nothing is written, nor erased, before everything is known to be right. */
async function requireCreatable(
  options: CacheOptions,
  context: Omit<CheckContext, "lower">,
  devices: Devices,
  found: Trace,
): Promise<NewCache> {
  if (!options.force) await requireLeave(found, options, devices);
  const policy: Policy = options.policy ?? (options.write_policy === 1 ? "write-back" : "write-through");
  const wanted: NewCache = {
    geometry: {
      frames: options.cache_size,
      blockSectors: options.block_size,
      ways: options.associativity,
    },
    policy,
    size: context.size,
    sourceUuid: sourceUuid(options, context),
    force: options.force,
    random: context.environment.random,
  };
  if (options.format === "v1" && policy !== "write-through") throw onlyWriteThrough(context.name);
  requirePossible(devices.cache, wanted, options.format);
  checkBlockSize(wanted.geometry, devices);
  return wanted;
}

async function create(
  options: CacheOptions,
  context: Opening,
  devices: Devices,
  found: Trace,
): Promise<Opened> {
  const wanted = await requireCreatable(options, context, devices, found);
  if (options.force) await requireLeave(found, options, devices);
  if (options.format === "v1") {
    await createV1(devices.cache, wanted);
    const state = newState(context, devices, options, wanted.geometry, 0, wanted.policy, true);
    return { state, metadata: new MetadataV1(state) };
  }
  const superblock = await createV2(devices.cache, wanted);
  const state = stateV2(context, devices, options, superblock);
  return { state, metadata: new MetadataV2(state, superblock) };
}

/** What is there, and whether the source is as it was left. */
async function requireLoadable(
  options: CacheOptions,
  context: Omit<CheckContext, "lower">,
  devices: Devices,
  rules: CacheRules,
): Promise<{ readonly stored: Stored; readonly changed?: string | undefined }> {
  const stored = await findMetadata(devices.cache, rules);
  if (stored.version === 1) {
    checkBlockSize(stored.configuration.geometry, devices);
    return { stored };
  }
  const { superblock } = stored;
  checkBlockSize(superblock.geometry, devices);
  checkPairing(superblock, devices.source, context.size, sourceUuid(options, context), options);
  const changed = await whyStale(superblock, devices.source);
  if (changed !== undefined && !options.force) {
    throw refuse(
      devices.source.name,
      "EINVAL",
      changed,
      `Give the right source; to open it all the same, without its clean blocks, give ${FORCE_WORD}`,
    );
  }
  return { stored, changed };
}

async function load(options: CacheOptions, context: Opening, devices: Devices): Promise<Opened> {
  const { stored, changed } = await requireLoadable(options, context, devices, context.rules);
  if (stored.version === 1) return loadOld(stored, options, context, devices);
  const { superblock } = stored;
  if (superblock.needsCheck) {
    context.environment.logger.log(
      "warn",
      `${context.name}: a device failed earlier; check the cache device`,
    );
  }
  const state = stateV2(context, devices, options, superblock);
  const trustsClean = changed === undefined && context.rules.believesClean(superblock);
  await loadV2(state, devices.cache, superblock, trustsClean);
  const sourceSectors = context.size / SECTOR;
  const isResized = superblock.sourceSectors !== sourceSectors || superblock.left === true;
  if (superblock.sourceSectors > sourceSectors) forgetBehind(state, superblock.sourceSectors);
  else if (isResized && context.rules.completesLast)
    await completeLast(state, superblock.sourceSectors * SECTOR);
  // From here on clean entries go out of date without notice.
  const inUse = {
    ...superblock,
    left: undefined,
    sourceSectors,
    clean: false,
    generation: superblock.generation + 1,
  };
  if (context.rules.marksInUse(superblock) || isResized) await writeSuperblocks(devices.cache, inUse);
  return { state, metadata: new MetadataV2(state, superblock.clean || isResized ? inUse : superblock) };
}

async function loadOld(
  { configuration, table }: Stored & { version: 1 },
  options: CacheOptions,
  context: Opening,
  devices: Devices,
): Promise<Opened> {
  const { geometry } = configuration;
  const { cache } = devices;
  // Historical metadata has two policies only, and writing back is not safe with it: others are for the table to say.
  const policy = options.policy === "write-back" ? undefined : options.policy;
  const state = newState(context, devices, options, geometry, 0, policy ?? "write-through", true);
  loadV1(state.frames, table, cache, context.size / SECTOR);
  if (configuration.writeBack) {
    context.environment.logger.log("warn", `${context.name}: a historical cache is opened write-through`);
  }
  await cache.write(cache.size - SECTOR, encodeInUseV1());
  await cache.flush();
  return { state, metadata: new MetadataV1(state) };
}

function stateV2(
  context: Opening,
  devices: Devices,
  options: CacheOptions,
  { geometry, dataStart, policy }: Superblock,
): CacheState {
  return newState(context, devices, options, geometry, dataStart * SECTOR, policy, false);
}

function newState(
  { name, size, environment, rules }: Opening,
  { source, cache }: Devices,
  options: CacheOptions,
  geometry: Geometry,
  dataOffset: number,
  policy: Policy,
  skipsBlockZero: boolean,
): CacheState {
  const poolBytes = options.pool;
  return new CacheState({
    name,
    source,
    cache,
    size,
    geometry,
    dataOffset,
    policy,
    environment,
    poolBytes,
    skipsBlockZero,
    rules,
  });
}

function sourceUuid(options: CacheOptions, { name }: Pick<OpenContext, "name">): string {
  const text = (options.source_uuid ?? "").toLowerCase();
  if (uuidFromText(text) !== undefined) return text;
  throw refuse(name, "EINVAL", `"${text}" is not a UUID`, "Write 8-4-4-4-12 hexadecimal digits.");
}

function onlyWriteThrough(name: string): Error {
  return refuse(
    name,
    "EINVAL",
    "format v1 forgets dirty blocks in a crash",
    "Use it write-through, or use format v2.",
  );
}
