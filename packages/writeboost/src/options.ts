/**
 * Everything that can be set, once: the table of options and the tunables among them, which messages change
 * while the device runs.
 */
import { resolve } from "node:path";
import {
  type OptionsOf,
  type SettingsTable,
  type TunableTable,
  settingOf,
  tunablesOf,
} from "@dmkit/block-io";

/** The archive of a log that is to have none any more. */
export const NO_ARCHIVE = "none";

export const tunableNames = [
  "allow_writeback",
  "enable_writeback_modulator",
  "writeback_threshold",
  "nr_max_batched_writeback",
  "update_record_interval",
  "sync_interval",
  "read_cache_threshold",
  "sequential_cutoff",
  "promote_after",
  "write_around_mode",
  "writeback_rate",
  "writeback_pause",
  "discard_cache",
  "write_through",
] as const;

/** An option that a message can change while the device runs. */
export type TunableName = (typeof tunableNames)[number];

/** The values in force; units and ranges: {@link options}. */
export type Tunables = Record<TunableName, number>;

/** All options of the target, with types, units, ranges, defaults and help. */
export const options = {
  type: {
    type: "integer",
    min: 0,
    max: 1,
    help: "0: a barrier closes the RAM segment; 1: writes are logged on a plog device as well",
  },
  backing: { type: "device", help: "the slow device below" },
  cache: { type: "device", help: "the fast device that holds the log" },
  plog: { type: "device", optional: true, help: "the persistent log of type 1" },
  segment_size_order: {
    type: "integer",
    min: 4,
    max: 10,
    optional: true,
    help: "log2 of the sectors in a segment; default: the device's, 10 for a new one",
  },
  // 1 GiB at most: so many segments of the largest order.
  nr_rambuf_pool: { type: "integer", min: 1, max: 2048, default: 8, help: "segments in RAM" },
  dialect: {
    type: "choice",
    values: ["classic", "v2"],
    optional: true,
    help: "format of the cache device; default: the device's, classic for a new one",
  },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "format cache and plog devices that are not blank, and over a backing device that is a cache; a cache that is there stays",
  },
  grow_cache: {
    type: "flag",
    once: true,
    default: false,
    help: "the cache device was made larger: it is used to its end, with an empty log, once everything is written back",
  },
  archive: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string =>
      text === NO_ARCHIVE || /^s3:/i.test(text) ? text : resolve(folder, text),
    help: "STORE/DISK: the log is kept there as well; STORE is s3://BUCKET[/PREFIX] or a folder; none: no longer",
  },
  archive_flush: {
    type: "choice",
    values: ["local", "remote"],
    optional: true,
    help: "when a flush is over: with everything on the cache device (local, the default), or in the archive too",
  },
  ship_interval: {
    type: "integer",
    optional: true,
    min: 1,
    max: 3600,
    unit: "s",
    help: "seconds after which what was written is on its way to the archive at the latest; default 1",
  },
  allow_writeback: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1,
    help: "write dirty blocks back in the background",
  },
  enable_writeback_modulator: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1,
    help: "let the load of the backing device decide, every second, whether writeback is allowed",
  },
  writeback_threshold: {
    type: "integer",
    optional: true,
    min: 0,
    max: 100,
    unit: "%",
    help: "the modulator allows writeback below this utilisation of the backing device; 0: never",
  },
  nr_max_batched_writeback: {
    type: "integer",
    optional: true,
    min: 1,
    max: 2048,
    unit: "segments",
    help: "segments written back at once, at most 64 MiB of them; default: 16 MiB of them",
  },
  update_record_interval: {
    type: "integer",
    optional: true,
    min: 0,
    max: 3600,
    unit: "s",
    help: "how often the superblock record is written, which shortens replay; 0: at close only",
  },
  sync_interval: {
    type: "integer",
    optional: true,
    min: 0,
    max: 3600,
    unit: "s",
    help: "how often everything in RAM is made durable without anybody asking; 0: never",
  },
  read_cache_threshold: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1_000_000,
    unit: "blocks",
    help: "reads of fewer consecutive 4 KiB blocks are cached; 0: none",
  },
  sequential_cutoff: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1_073_741_824,
    unit: "bytes",
    help: "large writes of a stream that has grown to this go past the log; 0: none",
  },
  promote_after: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1000,
    unit: "misses",
    help: "of what reads may put into the cache, a block is put there when it is missed for this time; 1: at once; 0: only writes put blocks there",
  },
  write_around_mode: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1,
    help: "1: writes of whole blocks that the log does not have go past it, so that it is for reads; 0: all writes go to the log",
  },
  writeback_rate: {
    type: "size",
    optional: true,
    min: 0,
    max: 1_099_511_627_776,
    help: "bytes a second for writing back in the background; 0: no limit",
  },
  writeback_pause: {
    type: "integer",
    optional: true,
    min: 0,
    max: 3_600_000,
    unit: "ms",
    help: "the background writes back when clients have asked for nothing for so long, within twice that; 0: at any time",
  },
  discard_cache: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1,
    help: "1: what has been written back is discarded on the cache device, and read from the backing device; not beside read_cache_threshold, nor with an archive",
  },
  write_through: {
    type: "integer",
    optional: true,
    min: 0,
    max: 1,
    help: "1: writes are acknowledged when the backing device has them, and what is dirty is written back: the cache can be taken away once the fact backing_complete is 1",
  },
} as const;

/** The options after parsing: numbers, names of devices. */
export type WriteboostOptions = OptionsOf<typeof options>;

/** What the historical table syntax gives where nothing is said. @param order segment_size_order, 4 … 10. */
export function defaultTunables(order: number): Tunables {
  return {
    allow_writeback: 0,
    enable_writeback_modulator: 0,
    writeback_threshold: 70,
    nr_max_batched_writeback: 2 ** (15 - order),
    update_record_interval: 0,
    sync_interval: 0,
    read_cache_threshold: 0,
    sequential_cutoff: 0,
    promote_after: 1,
    write_around_mode: 0,
    writeback_rate: 0,
    writeback_pause: 0,
    discard_cache: 0,
    write_through: 0,
  };
}

/**
 * dmkit's own, for stack files and embedding: writes back when the disk is idle, never loses a second, and
 * leaves large sequential writes to the disk.
 * @param given what the user says: the modulator, which would overrule it, stays off beside an `allow_writeback`.
 */
export function friendlyTunables(given: { readonly allow_writeback?: unknown }): Partial<Tunables> {
  return {
    allow_writeback: 1,
    enable_writeback_modulator: given.allow_writeback === undefined ? 1 : 0,
    update_record_interval: 5,
    sync_interval: 1,
    sequential_cutoff: 4 * 1024 * 1024,
  };
}

/** What a program gives for each of them: numbers in the ranges of {@link options}. */
export const tunableSettings: SettingsTable<Tunables> = Object.fromEntries(
  tunableNames.map((name) => [name, settingOf(options[name])]),
) as SettingsTable<Tunables>;

/** What messages set, also by the names that the original's status and the later drivers have for them. */
export const writeboostTunables: TunableTable = tunablesOf(options, tunableNames, {
  nr_cur_batched_writeback: "nr_max_batched_writeback",
  update_sb_record_interval: "update_record_interval",
  sync_data_interval: "sync_interval",
});
