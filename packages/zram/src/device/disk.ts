/** A running disk, as those see it that work on its pages: messages, snapshots, statistics. */
import type { BlockDevice, BlockIoError, Environment } from "@dmkit/block-io";
import type { Compressor } from "@dmkit/compressor";
import type { Pages } from "../core/pages.ts";
import type { ZramRules } from "../core/rules.ts";
import type { Algorithms } from "./algorithms.ts";

/** Seconds of not being used, 0 for never; bytes in 24 hours, 0 for no limit. See policy.ts. */
export interface PolicySettings {
  readonly recompress_after: number;
  readonly writeback_after: number;
  readonly writeback_daily: number;
}

/** How many pages may still be written back. */
export interface WritebackLimit {
  pages: number;
  isOn: boolean;
}

/** What the device is made of; see open/open.ts. */
export interface ZramParts {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly environment: Environment;
  readonly pages: Pages;
  /** Of priority 0: what writes are compressed with. */
  readonly primary: Compressor;
  /** All of them, by priority, 0 … 3; from 1 on those that `recompress` tries. */
  readonly algorithms: Algorithms;
  readonly backing: BlockDevice | undefined;
  /** Why a backing device that was given is not used. */
  readonly withoutBacking?: string | undefined;
  /** Where its contents are kept while it is closed. */
  readonly snapshots: { save(disk: RunningDisk, mayLose: boolean): Promise<void> } | undefined;
  /** Nothing may be written, since nothing could be kept. Default false. */
  readonly readOnly?: boolean;
  /** What of the snapshot could not be read, because of which it is read-only. */
  readonly unread?: string | undefined;
  readonly limit: WritebackLimit;
  /** As it was said: 0 leaves it to the machine. */
  readonly streams: number;
  /** Pages are moved to the backing device as they are in memory, compressed. */
  readonly compressedWriteback: boolean;
  readonly policy: PolicySettings;
  readonly rules: ZramRules;
}

export interface RunningDisk {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly parts: ZramParts;
  /** Why it takes no writes any more. */
  readonly failure: BlockIoError | undefined;
  failedReads: number;
  failedWrites: number;
  /** Pages whose contents were discarded. */
  notifyFree: number;
  /** Blocks read from the backing device. */
  backingReads: number;
  /** Blocks written to it. */
  backingWrites: number;
  /** Compressions at a time, as it was said. */
  streams: number;
  /** Pages are moved to the backing device as they are in memory, compressed. */
  compressedWriteback: boolean;
  readonly policy: { readonly settings: PolicySettings; set(changes: Partial<PolicySettings>): void };
  /** How often a page had to wait for a stream of the compressor. */
  writeStalls: number;
  /** Requests that are not aligned, or not inside the disk. */
  readonly invalidIo: number;
  /** Fills a page that is in RAM; throws `EIO` if its bytes are not what was stored. */
  readWhole(page: number, into: Buffer): void;
  /** Forgets everything. Requests wait meanwhile. */
  reset(): Promise<void>;
}
