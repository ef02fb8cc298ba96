/** The options of the target, named as the attributes of the Linux driver are. */
import { resolve } from "node:path";
import type { DeviceUse, OptionsOf } from "@dmkit/block-io";

/** The options of `zram`: types, ranges, defaults, help. */
export const zramOptions = {
  comp_algorithm: {
    type: "text",
    default: "lz4",
    help: "how pages are compressed: lz4, lzo, deflate, zstd, none",
  },
  comp_level: {
    type: "integer",
    min: 1,
    max: 19,
    optional: true,
    help: "how hard it tries: deflate 1 … 9, zstd 1 … 19; default: the algorithm's own",
  },
  comp_dict: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string => resolve(folder, text),
    help: "file with a dictionary for comp_algorithm: lz4, deflate, zstd",
  },
  max_comp_streams: {
    type: "integer",
    min: 0,
    max: 1024,
    default: 0,
    help: "compressions at a time of an algorithm that is slow on a page (zstd by WebAssembly), on threads of their own; others compress at once, one after the other; 0: as many as the machine runs threads",
  },
  mem_limit: {
    type: "size",
    min: 0,
    max: 68_719_476_736,
    default: 0,
    help: "bytes of memory for pages; writes beyond it fail with ENOSPC; 0: no limit",
  },
  writeback_limit: {
    type: "integer",
    min: 0,
    max: 2_147_483_648,
    unit: "pages",
    default: 0,
    help: "pages that may still be written back, with writeback_limit_enable; counts down",
  },
  writeback_limit_enable: {
    type: "flag",
    default: false,
    help: "1: writeback ends when writeback_limit is used up",
  },
  compressed_writeback: {
    type: "flag",
    default: false,
    help: "1: pages are moved to the backing device as they are in memory, compressed; 0: decompressed",
  },
  recompress_after: {
    type: "integer",
    min: 0,
    max: 345_600,
    unit: "s",
    default: 0,
    help: "pages that nobody has used for so long are compressed with the second algorithm; 0: by message only",
  },
  writeback_after: {
    type: "integer",
    min: 0,
    max: 345_600,
    unit: "s",
    default: 0,
    help: "pages that nobody has used for so long are moved to the backing device; 0: by message only",
  },
  writeback_daily: {
    type: "size",
    min: 0,
    max: 1_099_511_627_776,
    default: 0,
    help: "bytes that writeback_after may write to the backing device in 24 hours, messages included; 0: no limit",
  },
  recomp_algorithm: {
    type: "text",
    optional: true,
    help: "algorithm of priority 1, which the message recompress tries first",
  },
  recomp_level: {
    type: "integer",
    min: 1,
    max: 19,
    optional: true,
    help: "comp_level of recomp_algorithm",
  },
  recomp_dict: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string => resolve(folder, text),
    help: "file with a dictionary for recomp_algorithm: lz4, deflate, zstd",
  },
  recomp_algorithm2: {
    type: "text",
    optional: true,
    help: "algorithm of priority 2, which the message recompress tries after those before",
  },
  recomp_level2: {
    type: "integer",
    min: 1,
    max: 19,
    optional: true,
    help: "comp_level of recomp_algorithm2",
  },
  recomp_dict2: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string => resolve(folder, text),
    help: "file with a dictionary for recomp_algorithm2: lz4, deflate, zstd",
  },
  recomp_algorithm3: {
    type: "text",
    optional: true,
    help: "algorithm of priority 3, which the message recompress tries after those before",
  },
  recomp_level3: {
    type: "integer",
    min: 1,
    max: 19,
    optional: true,
    help: "comp_level of recomp_algorithm3",
  },
  recomp_dict3: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string => resolve(folder, text),
    help: "file with a dictionary for recomp_algorithm3: lz4, deflate, zstd",
  },
  snapshot: {
    type: "device",
    optional: true,
    help: "where contents are saved at close and restored from at open; takes two snapshots of the whole disk in turn",
  },
  backing_dev: {
    type: "device",
    optional: true,
    help: "where the message writeback puts idle and huge pages, behind a first block that marks it as such",
  },
  bad: {
    type: "choice",
    values: ["unreadable"],
    optional: true,
    once: true,
    help: "unreadable: pages that the snapshot's device does not give are given up, EIO until they are written; without it the disk is read-only then",
  },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "take a backing_dev or snapshot device that is not blank; snapshots that are there stay",
  },
} as const;

/** What the disk is opened with, as {@link zramOptions} says it. */
export type ZramOptions = OptionsOf<typeof zramOptions>;

/** Those that may follow the algorithm in a table. */
export const namedOptions: readonly Exclude<keyof typeof zramOptions, "comp_algorithm">[] = (
  Object.keys(zramOptions) as (keyof typeof zramOptions)[]
).filter((name) => name !== "comp_algorithm");

/** What the target does with its devices. */
export function usesOf({
  backing_dev: backing,
  snapshot,
}: Pick<ZramOptions, "backing_dev" | "snapshot">): Readonly<
  Record<"backing" | "snapshot", DeviceUse | undefined>
> {
  return {
    backing: backing === undefined ? undefined : [backing, "owns"],
    snapshot: snapshot === undefined ? undefined : [snapshot, "owns"],
  };
}
