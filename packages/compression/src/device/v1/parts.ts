/** What the running device of format 1 is put together from. */
import type { CompressionRules } from "../../core/rules.ts";
import type { BlockDevice, Environment } from "@dmkit/block-io";
import type { ExtentMap } from "../../core/extent-map.ts";
import type { Codec } from "../codec.ts";
import type { Counters } from "../counters.ts";
import type { SealedEntries } from "./sealed.ts";

export interface DeviceV1Parts {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly environment: Environment;
  readonly lower: BlockDevice;
  readonly codec: Codec;
  readonly map: ExtentMap;
  /** Entries that the device below did not give. */
  readonly sealed: SealedEntries | undefined;
  readonly counters: Counters;
  readonly rules: CompressionRules;
  readonly metaBlocks: number;
  /** Blocks. */
  readonly maxExtent: number;
  /** Milliseconds that metadata waits, at most; 0: it is written with the data. */
  readonly interval: number;
  readonly readOnly: boolean;
  /** Discard what lies behind payloads, too. */
  readonly discardHoles: boolean;
}
