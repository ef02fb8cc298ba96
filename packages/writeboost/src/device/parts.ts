/** What the components of a running device share. */
import type { BlockDevice } from "@dmkit/block-io";
import type { Statistics } from "../core/statistics.ts";
import type { Shipper } from "./archive/shipper.ts";
import type { PlogWriter } from "./log/plog-writer.ts";
import type { SegmentLog } from "./log/segment-log.ts";
import type { SegmentAges } from "./segment-ages.ts";

export interface Parts {
  readonly log: SegmentLog;
  readonly backing: BlockDevice;
  readonly plog: PlogWriter | undefined;
  /** Where the log is archived. */
  readonly shipper: Shipper | undefined;
  readonly statistics: Statistics;
  readonly ages: SegmentAges;
  /** Bytes of the device; the last block may be short. */
  readonly size: number;
}
