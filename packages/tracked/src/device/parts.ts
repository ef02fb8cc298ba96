/** What a running device is put together from; see open/open.ts. */
import type { BlockDevice, Environment, Limits } from "@dmkit/block-io";
import type { EpochTable } from "../core/epochs.ts";
import type { TrackedRules } from "../core/rules.ts";
import type { PageWriter } from "./page-writer.ts";
import type { SuperblockRecord } from "./record.ts";

/** What can be set while it runs. */
export interface Tuning {
  /** Chunks marked ahead of a stream, at most. */
  readonly ahead: number;
}

/** What was found when it was opened. */
export interface Losses {
  /** Pages of bitmaps. */
  readonly pages: number;
  /** Why everything was marked; undefined if it was not. */
  readonly changed: string | undefined;
}

export interface TrackedParts {
  readonly name: string;
  readonly data: BlockDevice;
  readonly bitmap: BlockDevice;
  readonly limits: Limits;
  readonly table: EpochTable;
  readonly writer: PageWriter;
  readonly record: SuperblockRecord;
  readonly losses: Losses;
  readonly tuning: Tuning;
  readonly environment: Environment;
  readonly rules: TrackedRules;
}
