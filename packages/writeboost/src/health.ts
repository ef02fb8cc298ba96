/** How a running cache is, in the words of {@link Health}. */
import { type BlockIoError, type Health, healthy, wholeStory, worstHealth } from "@dmkit/block-io";

export interface Signs {
  /** What the guard says: whether writes are refused. */
  readonly guard: Health;
  /** Why nothing is acknowledged any more. */
  readonly dead: BlockIoError | undefined;
  /** Why flushes fail for the time being. */
  readonly full: BlockIoError | undefined;
  readonly dirtyBlocks: number;
  /** Blocks the backing device does not take. */
  readonly badBlocks: number;
  /** Bytes that are missing if all of the devices is used. */
  readonly missing: number;
}

export function cacheHealth({ guard, dead, full, dirtyBlocks, ...wear }: Signs): Health {
  if (dead !== undefined) {
    return {
      state: "failed",
      why: `requests are refused: ${wholeStory(dead)}`,
      help:
        dirtyBlocks === 0
          ? "Repair or replace the cache device, then close and reopen the device."
          : `Repair or reconnect the cache device, then close and reopen the device; ${dirtyBlocks} blocks are not on the backing device yet, so do not use that without it.`,
    };
  }
  if (full === undefined || guard.state !== "ok") return worstHealth([guard, wearOf(wear)]);
  return {
    state: "failed",
    why: `flushes fail until there is space for the cache: ${wholeStory(full)}`,
    help: "Make room below the cache device: it goes on by itself then.",
  };
}

/** What does not keep it from working yet. */
function wearOf({ badBlocks, missing }: Pick<Signs, "badBlocks" | "missing">): Health {
  if (badBlocks > 0) {
    const why = `${badBlocks} blocks cannot be written to the backing device and stay in the cache`;
    return { state: "degraded", why, help: "Replace the backing device, or the part of it that is bad." };
  }
  if (missing === 0) return healthy;
  const why = `the file systems below lack ${missing} bytes, should all of the devices be used`;
  return { state: "degraded", why, help: "Make room on them." };
}
