/** The cache on simulated disks: one target for each policy, and what varies from run to run. */
import { BlockIoError, type Environment } from "@dmkit/block-io";
import {
  type Geometry as SimGeometry,
  type Prng,
  type RuledTarget,
  type SimTarget,
  ruled,
} from "@dmkit/block-io/testing";
import type { BlockDevice } from "@dmkit/block-io";
import { type AssocCacheDevice, type CacheOptions, cacheOptions } from "../index.ts";
import { parseOptions } from "@dmkit/block-io";
import { states } from "../core/frame-table.ts";
import { type CacheRules, cacheRules } from "../core/rules.ts";
import { layoutOf } from "../format/layout.ts";
import { requiredSectorsV1 } from "../format/v1.ts";
import { openCache } from "../open/open.ts";

export interface Knobs {
  readonly sectors: number;
  readonly options: Readonly<Record<string, unknown>>;
}

export function cacheOptionsFrom(values: Readonly<Record<string, unknown>>): CacheOptions {
  return parseOptions(cacheOptions, { source: "source", cache: "cache", ...values });
}

/** Opens a cache over two devices. */
export function openOn(
  source: BlockDevice,
  cache: BlockDevice,
  values: Readonly<Record<string, unknown>>,
  environment: Environment,
  { size = source.size, rules = cacheRules }: { size?: number; rules?: CacheRules } = {},
): Promise<AssocCacheDevice> {
  const lower = async (reference: string): Promise<BlockDevice> => (reference === "source" ? source : cache);
  return openCache(cacheOptionsFrom(values), { name: "cache", size, environment, lower }, rules);
}

type Vary = (random: Prng) => { readonly sectors?: number; readonly [option: string]: unknown };

function geometry(random: Prng, vary: Vary): SimGeometry<Knobs> {
  const blockSectors = [8, 64, 512][random.weighted([12, 4, 1])] as number;
  const most = blockSectors === 512 ? 4 : blockSectors === 64 ? 8 : 64;
  const frames = Math.min(most, 2 ** (2 + random.weighted([5, 4, 3, 1, 1])));
  const ways = 2 ** random.between(0, Math.log2(frames));
  // Odd lengths: the last block is short. Larger than the cache, so that it evicts.
  const usual =
    Math.floor(frames * blockSectors * (0.6 + random.below(20) / 10)) + random.below(blockSectors);
  const { sectors = usual, ...varied } = vary(random);
  const drawn = {
    block_size: blockSectors,
    cache_size: frames,
    associativity: ways,
    sequential_cutoff: random.pick([0, 0, 16_384, 131_072]),
    high_watermark: random.pick([0, 25, 50, 100]),
    low_watermark: random.pick([0, 10, 50]),
    age_limit: random.pick([0, 1, 30]),
    writeback_rate: random.pick([0, 0, 1_000_000]),
    pool: random.pick([131_072, 16_777_216]),
    ...varied,
  };
  const options = {
    ...drawn,
    low_watermark: Math.min(drawn.low_watermark, drawn.high_watermark),
  };
  const shape = {
    frames: options.cache_size,
    blockSectors: options.block_size,
    ways: options.associativity,
  };
  const needed = varied["format"] === "v1" ? requiredSectorsV1(shape) : layoutOf(shape).requiredSectors;
  return {
    disks: [
      {
        name: "source",
        size: sectors * 512,
        fill: "stamps",
        discard: random.pick(["zeroes", "either", "none"]),
      },
      {
        name: "cache",
        ...(varied["discard_cache"] === 1 && { discard: random.pick(["zeroes", "either"] as const) }),
        size: (needed + random.below(9)) * 512,
        fill: random.chance(0.1) ? "noise" : "zero",
      },
    ],
    knobs: { sectors, options },
    stamped: () => true,
  };
}

/** The same device; close fails with a foreign error, which the simulation allows nobody, if it leaves a frame reserved. */
function unreserved(device: AssocCacheDevice): AssocCacheDevice {
  const close = device.close.bind(device);
  const { frames } = device.state;
  device.close = async () => {
    const closed = await Promise.allSettled([close()]);
    for (let frame = 0; frame < frames.geometry.frames; frame += 1) {
      if (frames.stateOf(frame) === states.filling) throw new Error(`frame ${frame} stays reserved`);
    }
    if (closed[0].status === "rejected") throw closed[0].reason;
  };
  return device;
}

export type CacheTarget = RuledTarget<Knobs, CacheRules>;

function target(name: string, summary: string, vary: Vary, operations = 40): CacheTarget {
  return ruled(cacheRules, (rules) => ({
    name: `cache:${name}`,
    summary,
    geometry: (random) => geometry(random, vary),
    async create([source, cache], env, { options }) {
      const device = await openOn(
        source as BlockDevice,
        cache as BlockDevice,
        { ...options, force: true },
        env,
        { rules },
      );
      await device.close();
    },
    async open([source, cache], env, { options }) {
      const disks = [source as BlockDevice, cache as BlockDevice] as const;
      try {
        return unreserved(await openOn(...disks, { ...options, persistence: 1 }, env, { rules }));
      } catch (error) {
        // After a crash there is no historical metadata any more: a new cache is made.
        if (options["format"] !== "v1" || (error as BlockIoError).code !== "EFORMAT") throw error;
        return unreserved(await openOn(...disks, options, env, { rules }));
      }
    },
    async quiesce(device) {
      const cache = device as AssocCacheDevice;
      await cache.clean();
      await cache.flush();
      // Blocks that were read may still be on their way into the cache.
      const { lock, blocks, frames, pool } = cache.state;
      lock.release(await lock.acquire(0, blocks, true));
      const stuck: string[] = [];
      if (frames.dirty !== 0) stuck.push(`${frames.dirty} blocks stay dirty`);
      if (pool.outstanding !== 0) stuck.push(`${pool.outstanding} buffers are out`);
      if (lock.pending !== 0) stuck.push(`${lock.pending} locks are held`);
      return stuck;
    },
    workload: { operations },
    kills: 0.15,
  }));
}

export const writeBack: CacheTarget = target("write-back", "dirty blocks in the cache", () => ({
  policy: "write-back",
}));

/** Everything is cleaned at once, and everybody wants the same few blocks. For mutants of what follows cleaning. */
export const churning: CacheTarget = target("churning", "write-back that never rests", (random) => ({
  policy: "write-back",
  block_size: 8,
  cache_size: 4,
  associativity: 4,
  high_watermark: 0,
  low_watermark: 0,
  writeback_rate: 0,
  sequential_cutoff: 0,
  sectors: 17 + random.below(16),
}));

/** Nothing is cleaned, and everybody wants the same few blocks. For mutants of what is dirty for long. */
export const keeping: CacheTarget = target("keeping", "write-back that leaves blocks dirty", (random) => ({
  policy: "write-back",
  block_size: 8,
  cache_size: 4,
  associativity: 4,
  high_watermark: 100,
  low_watermark: 50,
  age_limit: 0,
  sequential_cutoff: 0,
  sectors: 16 + random.below(17),
}));

export const writeThrough: CacheTarget = target("write-through", "writes go to the source", (random) => ({
  policy: "write-through",
  write_hit: random.pick(["invalidate", "update"]),
}));

export const writeAround: CacheTarget = target("write-around", "writes go past the cache", () => ({
  policy: "write-around",
}));

/** With everything that steers what is cached, and when it is written back. */
const steered: CacheTarget = target("steered", "write-back that is held back", (random) => ({
  policy: random.pick(["write-back", "write-back", "write-through"]),
  promote_after: random.pick([0, 1, 2, 3]),
  discard_cache: random.pick([0, 1]),
  read_sequential_cutoff: random.pick([0, 8192, 65_536]),
  writeback_rate: random.pick([0, 4096, 1_000_000]),
  writeback_pause: random.pick([0, 1, 500]),
}));

/**
 * Sessions so short that close comes upon blocks that are still being filled, all of which find a frame. For
 * mutants of close.
 */
export const hasty = (format: "v1" | "v2"): CacheTarget =>
  target(
    `hasty-${format}`,
    "closed soon after it was opened",
    (random) => ({
      policy: "write-through",
      format,
      block_size: 8,
      cache_size: 128,
      associativity: 128,
      sequential_cutoff: 0,
      pool: 16_777_216,
      sectors: 512 + random.below(512),
    }),
    3,
  );

export const historical: CacheTarget = target("v1", "historical metadata, lost in a crash", () => ({
  policy: "write-through",
  format: "v1",
}));

export const simTargets: readonly SimTarget[] = [
  writeBack,
  churning,
  steered,
  writeThrough,
  writeAround,
  historical,
  hasty("v2"),
  hasty("v1"),
];
