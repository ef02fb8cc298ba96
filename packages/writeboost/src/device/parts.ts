/** What the components of a running device share. */
import type { BlockDevice } from "@dmkit/block-io";
import type { Statistics } from "../core/statistics.ts";
import type { PlogWriter } from "./log/plog-writer.ts";
import type { SegmentLog } from "./log/segment-log.ts";

export interface Parts {
  readonly log: SegmentLog;
  readonly backing: BlockDevice;
  readonly plog: PlogWriter | undefined;
  readonly statistics: Statistics;
  /** Bytes of the device; the last block may be short. */
  readonly size: number;
}

/** The sectors a backing block has: all 8, or fewer at the end of the device. */
export function sectorsOfBlock(size: number, block: number): number {
  const rest = size - block * 4096;
  return rest >= 4096 ? 0xff : (1 << (rest / 512)) - 1;
}
