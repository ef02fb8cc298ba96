/** What the disk says of itself, under the names of the Linux driver's attributes. */
import { PAGE } from "./core/size-classes.ts";
import type { ZramDevice } from "./device.ts";

/** Bytes and pages; in the order of the attribute `mm_stat`. */
export function memoryStatistics({ parts }: ZramDevice): Readonly<Record<string, number>> {
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
  };
}

/** In the order of the attribute `io_stat`. */
export function ioStatistics({ failedReads, failedWrites }: ZramDevice): Readonly<Record<string, number>> {
  return { failed_reads: failedReads, failed_writes: failedWrites, invalid_io: 0, notify_free: 0 };
}

/** Pages; in the order of the attribute `bd_stat`. */
export function backingStatistics(device: ZramDevice): Readonly<Record<string, number>> {
  return {
    bd_count: device.parts.pages.backed,
    bd_reads: device.backingReads,
    bd_writes: device.backingWrites,
  };
}

export function statusLine(device: ZramDevice): string {
  const { primary, secondary, backing } = device.parts;
  const facts: Record<string, string | number> = {
    disksize: device.size,
    comp_algorithm: primary.name,
    max_comp_streams: primary.status().maxStreams,
    ...(secondary && { recomp_algorithm: secondary.name }),
    ...memoryStatistics(device),
    ...ioStatistics(device),
    ...(backing && backingStatistics(device)),
  };
  return Object.entries(facts).flat().join(" ");
}

/** One attribute by name, or undefined if there is none. */
export function attribute(device: ZramDevice, name: string): string | undefined {
  const { primary, secondary } = device.parts;
  const groups: Readonly<Record<string, () => Readonly<Record<string, number>>>> = {
    mm_stat: () => memoryStatistics(device),
    io_stat: () => ioStatistics(device),
    bd_stat: () => backingStatistics(device),
  };
  const group = Object.hasOwn(groups, name) ? groups[name] : undefined;
  if (group !== undefined) return Object.values(group()).join(" ");
  const single: Readonly<Record<string, string | number | undefined>> = {
    disksize: device.size,
    comp_algorithm: primary.name,
    recomp_algorithm: secondary?.name,
    max_comp_streams: primary.status().maxStreams,
    ...memoryStatistics(device),
  };
  const value = Object.hasOwn(single, name) ? single[name] : undefined;
  return value === undefined ? undefined : String(value);
}
