/** The options of the target: one table for table lines, stack files, help, and messages that change them. */
import { type DeviceUse, type OptionsOf, type TunableTable, tunablesOf } from "@dmkit/block-io";

/** The options of `cache`: types, ranges, defaults, help. What a table, a stack file and a program may give. */
export const cacheOptions = {
  source: { type: "device", help: "the device that is cached" },
  cache: { type: "device", help: "the device that holds the cached blocks and the metadata" },
  persistence: {
    type: "integer",
    min: 0,
    max: 2,
    default: 0,
    help: "0: make a new cache; 1: load it from the cache device, whose stored configuration wins; 2: load it, or make it where the device is blank",
  },
  block_size: {
    type: "sectors",
    min: 1,
    max: 2048,
    default: 8,
    help: "sectors of a block, a power of two; 4 KiB suits writes, larger ones suit reads",
  },
  cache_size: {
    type: "integer",
    min: 1,
    max: 268_435_456,
    unit: "blocks",
    default: 65_536,
    help: "blocks in the cache, a power of two",
  },
  associativity: {
    type: "integer",
    min: 1,
    max: 268_435_456,
    unit: "ways",
    default: 1024,
    help: "frames a block may go to, a power of two, at most the cache size",
  },
  write_policy: {
    type: "integer",
    min: 0,
    max: 1,
    default: 0,
    help: "0: write-through, 1: write-back",
  },
  policy: {
    type: "choice",
    values: ["write-through", "write-back", "write-around", "pass-through", "cleaner"],
    optional: true,
    help: "the policy by name, instead of the number; every one can be switched to by message",
  },
  write_hit: {
    type: "choice",
    values: ["invalidate", "update"],
    default: "invalidate",
    help: "what a write-through write does to a cached block",
  },
  format: {
    type: "choice",
    values: ["v2", "v1"],
    default: "v2",
    help: "metadata of a new cache; v1 is the historical one: write-through only, lost in a crash",
  },
  force: {
    type: "flag",
    once: true,
    overwrites: true,
    default: false,
    help: "make a new cache over dirty blocks of an old one, on a device that is not blank, or of a source that is a cache; open although the source has changed",
  },
  grow_source: {
    type: "flag",
    once: true,
    default: false,
    help: "the source was made larger: what is cached of it is as much as the table maps from now on",
  },
  grow_cache: {
    type: "flag",
    once: true,
    default: false,
    help: "the cache becomes as large as cache_size says, empty, once everything is written back",
  },
  sequential_cutoff: {
    type: "size",
    min: 0,
    max: 1_099_511_627_776,
    default: 4_194_304,
    help: "bytes after which a sequential stream goes past the cache; 0: never",
  },
  read_sequential_cutoff: {
    type: "size",
    optional: true,
    min: 0,
    max: 1_099_511_627_776,
    help: "the same for reads; default: as for writes",
  },
  promote_after: {
    type: "integer",
    min: 0,
    max: 1000,
    unit: "misses",
    default: 1,
    help: "a block is put into the cache when a read misses it for this time; 1: at once; 0: only writes put blocks there",
  },
  high_watermark: {
    type: "integer",
    min: 0,
    max: 100,
    unit: "%",
    default: 50,
    help: "dirty share of the cache at which blocks are written back in the background",
  },
  low_watermark: {
    type: "integer",
    min: 0,
    max: 100,
    atMost: "high_watermark",
    unit: "%",
    default: 40,
    help: "dirty share at which that stops again",
  },
  age_limit: {
    type: "integer",
    min: 0,
    max: 86_400,
    unit: "s",
    default: 30,
    help: "a block that was dirty for so long is written back, within twice that; 0: no limit",
  },
  writeback_rate: {
    type: "size",
    min: 0,
    max: 1_099_511_627_776,
    default: 0,
    help: "bytes a second for writing back in the background; 0: no limit",
  },
  writeback_pause: {
    type: "integer",
    min: 0,
    max: 3_600_000,
    unit: "ms",
    default: 0,
    help: "the background writes back when clients have asked for nothing for so long, within twice that; 0: at any time",
  },
  discard_cache: {
    type: "integer",
    min: 0,
    max: 1,
    default: 0,
    help: "1: the cache device is told, by discards, of frames that a discard, zeroes or invalidate have emptied",
  },
  pool: {
    type: "size",
    min: 131_072,
    max: 4_294_967_296,
    default: 16_777_216,
    help: "bytes of buffers for fills and writebacks; with all in use reads are not cached",
  },
  source_uuid: {
    type: "text",
    optional: true,
    help: "UUID of the source: stored with a new cache, compared when one is loaded",
  },
} as const;

/** What a cache is opened with, as {@link cacheOptions} says it. */
export type CacheOptions = OptionsOf<typeof cacheOptions>;

/** Those that may follow the positional arguments of a table as key and value. */
type NamedOption = Exclude<
  keyof CacheOptions,
  "source" | "cache" | "persistence" | "block_size" | "cache_size" | "associativity" | "write_policy"
>;

export const namedOptions: readonly NamedOption[] = [
  "policy",
  "write_hit",
  "format",
  "force",
  "grow_source",
  "grow_cache",
  "sequential_cutoff",
  "read_sequential_cutoff",
  "promote_after",
  "high_watermark",
  "low_watermark",
  "age_limit",
  "writeback_rate",
  "writeback_pause",
  "discard_cache",
  "pool",
  "source_uuid",
];

/** Those that messages change while the cache is open. */
export const tunableNames = [
  "policy",
  "write_hit",
  "sequential_cutoff",
  "read_sequential_cutoff",
  "promote_after",
  "high_watermark",
  "low_watermark",
  "age_limit",
  "writeback_rate",
  "writeback_pause",
  "discard_cache",
] as const;

export const cacheTunables: TunableTable = tunablesOf(cacheOptions, tunableNames);

/** What the policy is set to has a method of its own. */
export type Tunable = Exclude<(typeof tunableNames)[number], "policy">;

/** What the target does with its devices; `size` in bytes. */
export function usesOf(
  { source, cache }: Pick<CacheOptions, "source" | "cache">,
  size: number,
): Readonly<Record<"source" | "cache", DeviceUse>> {
  return { source: [source, "owns", { offset: 0, length: size }], cache: [cache, "owns"] };
}
