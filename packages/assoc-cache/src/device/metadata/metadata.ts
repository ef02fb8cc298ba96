/**
 * What a running cache wants of its metadata, whatever its format.
 */
import type { BlockIoError } from "@dmkit/block-io";

export interface Metadata {
  /** 1: historical, 2: ours. */
  readonly version: 1 | 2;
  /** Whether dirty blocks survive a crash, so that writes may stay in the cache. */
  readonly keepsDirty: boolean;
  /** The frame has become dirty, and no entry says so yet: the next commit claims it. */
  claim(frame: number): void;
  /** The frame is clean, but its entry may say dirty: some later commit drops that. */
  drop(frame: number): void;
  /** Makes everything durable that is acknowledged in the cache. At most two flushes of the cache device. */
  commit(): Promise<void>;
  /** Makes the loss of dropped entries durable. One flush of the cache device, if there is anything to do. */
  commitDrops(): Promise<void>;
  /**
   * Why a flush cannot succeed once the cache device has failed: it has the only copy of acknowledged data, or what
   * it brings back after a crash is older than what the source has. Undefined if the source alone is enough.
   */
  readonly debt: BlockIoError | undefined;
  /** Whether the cache device says that it needs a check. */
  readonly needsCheck: boolean;
  /** Stores that a device failed, so that a check is due. Nothing else is going on. */
  noteTrouble(): Promise<void>;
  /** Stores the policy durably. */
  policyChanged(): Promise<void>;
  /** Stores everything, and that this was a clean shutdown. Nothing else is going on. */
  saveClean(): Promise<void>;
}
