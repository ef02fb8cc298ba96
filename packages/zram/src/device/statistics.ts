/** What the disk says of itself, under the names of the Linux driver's attributes. */
import type { Facts } from "@dmkit/block-io";
import { PAGE } from "../core/size-classes.ts";
import { secondariesOf } from "./algorithms.ts";
import type { RunningDisk } from "./disk.ts";

/** Bytes and pages; in the order of the attribute `mm_stat`. */
export function memoryStatistics({ parts }: RunningDisk): Readonly<Record<string, number>> {
  const { pages } = parts;
  const { slabs } = pages;
  return {
    orig_data_size: pages.stored * PAGE,
    compr_data_size: pages.compressedBytes,
    mem_used_total: slabs.usedBytes,
    mem_limit: Number.isFinite(slabs.limit) ? slabs.limit : 0,
    mem_used_max: slabs.peakBytes,
    same_pages: pages.same,
    pages_compacted: pages.compacted,
    huge_pages: pages.huge,
    huge_pages_since: pages.hugeSince,
  };
}

/** In the order of the attribute `io_stat`. */
export function ioStatistics(device: RunningDisk): Readonly<Record<string, number>> {
  return {
    failed_reads: device.failedReads,
    failed_writes: device.failedWrites,
    invalid_io: device.invalidIo,
    notify_free: device.notifyFree,
  };
}

/** Pages; in the order of the attribute `bd_stat`. */
export function backingStatistics(device: RunningDisk): Readonly<Record<string, number>> {
  return {
    bd_count: device.parts.pages.backed,
    bd_reads: device.backingReads,
    bd_writes: device.backingWrites,
  };
}

/** As the attribute `debug_stat` has it; the driver's second number, of slots that were locked, is always 0 here. */
function debugStatistics({ writeStalls }: RunningDisk): string {
  return `version: 1\n${writeStalls} 0`;
}

/** Of each algorithm that recompress tries its name, and how many pages in memory it holds. */
function algorithmFacts({ parts: { algorithms, pages } }: RunningDisk): Facts {
  const facts: Record<string, string | number> = {};
  for (const { priority, name } of secondariesOf(algorithms)) {
    const which = priority === 1 ? "" : String(priority);
    facts[`recomp_algorithm${which}`] = name;
    facts[`recomp_pages${which}`] = pages.compressed[priority] as number;
  }
  return facts;
}

/** All of them by name, in the order of the status line. */
export function zramFacts(device: RunningDisk): Facts {
  const { primary, backing, limit } = device.parts;
  return {
    disksize: device.size,
    comp_algorithm: primary.name,
    max_comp_streams: primary.status().maxStreams,
    ...algorithmFacts(device),
    ...memoryStatistics(device),
    ...ioStatistics(device),
    writeback_limit: limit.pages,
    writeback_limit_enable: limit.isOn ? 1 : 0,
    compressed_writeback: device.compressedWriteback ? 1 : 0,
    ...device.policy.settings,
    ...(backing && backingStatistics(device)),
  };
}

/** Attributes that can be read, besides the options that can be set. */
export const attributes = [
  "mm_stat",
  "io_stat",
  "bd_stat",
  "debug_stat",
  "disksize",
  "comp_algorithm",
  "recomp_algorithm",
  "recomp_algorithm2",
  "recomp_algorithm3",
  "recomp_pages",
  "recomp_pages2",
  "recomp_pages3",
  "orig_data_size",
  "compr_data_size",
  "mem_used_total",
  "mem_used_max",
  "same_pages",
  "pages_compacted",
  "huge_pages",
  "huge_pages_since",
] as const;

const groups = { mm_stat: memoryStatistics, io_stat: ioStatistics, bd_stat: backingStatistics } as const;

/** One attribute by name, or undefined if there is none. */
export function attribute(device: RunningDisk, name: (typeof attributes)[number]): string | undefined {
  if (name === "mm_stat" || name === "io_stat" || name === "bd_stat") {
    return Object.values(groups[name](device)).join(" ");
  }
  if (name === "debug_stat") return debugStatistics(device);
  const value = zramFacts(device)[name];
  return value === undefined ? undefined : String(value);
}
