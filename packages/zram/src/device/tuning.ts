/** What can be set while the disk runs. */
import type { OptionsOf } from "@dmkit/block-io";
import { defaultStreams } from "@dmkit/compressor";
import type { zramOptions } from "../options.ts";
import type { RunningDisk } from "./disk.ts";

export const tunableNames = [
  "mem_limit",
  "max_comp_streams",
  "writeback_limit",
  "writeback_limit_enable",
  "compressed_writeback",
  "recompress_after",
  "writeback_after",
  "writeback_daily",
] as const;

/** Their values by name. */
export type Tuned = Pick<OptionsOf<typeof zramOptions>, (typeof tunableNames)[number]>;

export function tunedValues({ parts, streams, compressedWriteback, policy }: RunningDisk): Tuned {
  const { pages, limit } = parts;
  return {
    mem_limit: Number.isFinite(pages.slabs.limit) ? pages.slabs.limit : 0,
    max_comp_streams: streams,
    writeback_limit: limit.pages,
    writeback_limit_enable: limit.isOn,
    compressed_writeback: compressedWriteback,
    ...policy.settings,
  };
}

/** Changes some; the others stay. */
export async function tune(device: RunningDisk, changes: Partial<Tuned>): Promise<void> {
  const {
    mem_limit,
    max_comp_streams,
    writeback_limit,
    writeback_limit_enable,
    compressed_writeback,
    ...policy
  } = changes;
  const { pages, primary, limit } = device.parts;
  if (mem_limit !== undefined) pages.slabs.limit = mem_limit === 0 ? Number.POSITIVE_INFINITY : mem_limit;
  limit.pages = writeback_limit ?? limit.pages;
  limit.isOn = writeback_limit_enable ?? limit.isOn;
  device.compressedWriteback = compressed_writeback ?? device.compressedWriteback;
  if (Object.keys(policy).length > 0) device.policy.set(policy);
  if (max_comp_streams === undefined) return;
  device.streams = max_comp_streams;
  await primary.setMaxStreams(max_comp_streams === 0 ? defaultStreams() : max_comp_streams);
}
