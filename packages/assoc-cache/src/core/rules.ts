/**
 * Decisions that data hangs on: what is believed, what has to be stable before what, what may be given up. A cache gets
 * them when it is opened; the simulation opens others with one of them changed, and has to notice.
 */
import type { Superblock } from "../format/superblock.ts";
import { type ConfigurationV1, decodeConfigurationV1 } from "../format/v1.ts";
import { type FrameTable, facts, states } from "./frame-table.ts";

export interface CacheRules {
  /** Clean entries go out of date while the cache is open. */
  believesClean(superblock: Superblock): boolean;
  /** Whether opening must be noted on the device before anything else happens. */
  marksInUse(superblock: Superblock): boolean;
  /** What a historical configuration says, or in words why it is none. One of zeroes is none. */
  configurationOf(bytes: Buffer, deviceSectors: number): ConfigurationV1 | string;
  /** Whether the block in which the source ended is completed, or forgotten, before the source counts as larger. */
  readonly completesLast: boolean;
  /**
   * The devices that are flushed on opening. What a process wrote that was killed can be read, and lost all the same when
   * the power fails: an entry that says dirty, the loss of another, what the source shows. It has to be stable before
   * anything relies on it.
   */
  flushedOnOpening<Device>(source: Device, cache: Device): readonly Device[];
  /** Data is stable before the entries that claim it. */
  readonly flushesData: boolean;
  /** Entries are stable before anything that relies on them. */
  readonly flushesEntries: boolean;
  /** Whether a frame that was about to be claimed when the flush began still is what was flushed. */
  isStaged(frames: FrameTable, frame: number): boolean;
  /** Whether nothing was written to a frame since it was copied to the source. */
  isUnchanged(frames: FrameTable, frame: number): boolean;
  /** A block whose copy to the source failed stays dirty. */
  readonly staysDirty: boolean;
  /** Nobody else has anything to do with a block that is being filled. */
  readonly fillsAlone: boolean;
  /** What is written past the cache leaves no copy in it. */
  readonly dropsCopies: boolean;
  /** Whether the source has to be made the newest before it is written to past this frame. */
  mustSettle(frames: FrameTable, frame: number): boolean;
  /** Whether a request covers all of a block; all in bytes. */
  covers(offset: number, length: number, block: number, blockLength: number): boolean;
  /** Whether a dirty frame holds what somebody was told is written. */
  isOnlyCopy(frames: FrameTable, frame: number): boolean;
  /** Whether a clean frame may be taken for another block. @param used somebody has locked its block, or waits for it. */
  mayEvict(used: boolean): boolean;
  /** Closing waits for blocks that were read and are still on their way into the cache. */
  readonly waitsForFills: boolean;
  /** Whether a clean close stores a frame as one that is valid. */
  isStoredClean(frames: FrameTable, frame: number): boolean;
}

export const cacheRules: CacheRules = Object.freeze<CacheRules>({
  believesClean: ({ clean }) => clean,
  marksInUse: ({ clean }) => clean,
  configurationOf: decodeConfigurationV1,
  completesLast: true,
  flushedOnOpening: (source, cache) => [source, cache],
  flushesData: true,
  flushesEntries: true,
  isStaged: (frames, frame) => frames.has(frame, facts.staged),
  isUnchanged: (frames, frame) => frames.stateOf(frame) === states.written,
  staysDirty: true,
  fillsAlone: true,
  dropsCopies: true,
  mustSettle: (frames, frame) => frames.isBinding(frame),
  covers: (offset, length, block, blockLength) => offset <= block && offset + length >= block + blockLength,
  isOnlyCopy: (frames, frame) => frames.has(frame, facts.acknowledged | facts.claim | facts.held),
  mayEvict: (used) => !used,
  waitsForFills: true,
  isStoredClean: (frames, frame) => frames.stateOf(frame) === states.clean,
});
