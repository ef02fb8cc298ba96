/** How a running cache is, in the words of {@link Health}. */
import { type BlockIoError, type Health, healthy, wholeStory, worstHealth } from "@dmkit/block-io";
import type { SegmentLog } from "../log/segment-log.ts";
import type { Writeback } from "../writeback/writeback.ts";

/**
 * @param guard what the guard says: whether writes are refused.
 * @param writeback which blocks the backing device does not take, and why nothing is written back, if that is so.
 * @param missing bytes, if all of the devices is used.
 * @param badSector why the superblock record cannot be written, if it cannot.
 */
export function cacheHealth(
  guard: Health,
  { dead, full, map: { dirtyBlocks } }: Pick<SegmentLog, "dead" | "full" | "map">,
  writeback: Pick<Writeback, "bad" | "trouble">,
  missing: number,
  badSector: BlockIoError | undefined,
): Health {
  if (dead !== undefined) {
    return {
      state: "failed",
      why: `requests are refused: ${wholeStory(dead)}`,
      help:
        dead.code === "ESHUTDOWN"
          ? dead.hint
          : dirtyBlocks === 0
            ? "Repair or replace the cache device, then close and reopen the device."
            : `Repair or reconnect the cache device, then close and reopen the device; ${dirtyBlocks} blocks are not on the backing device yet, so do not use that without it.`,
    };
  }
  if (full === undefined || guard.state !== "ok")
    return worstHealth([guard, wearOf(writeback, missing, badSector)]);
  return {
    state: "failed",
    why: `flushes fail until there is space for the cache: ${wholeStory(full)}`,
    help: "Make room below the cache device: it goes on by itself then.",
  };
}

/** What does not keep it from working yet. */
function wearOf(
  { bad: { size: badBlocks }, trouble }: Pick<Writeback, "bad" | "trouble">,
  missing: number,
  badSector: BlockIoError | undefined,
): Health {
  if (trouble !== undefined) {
    const why = `nothing is written back, and writes are refused once the log is full: ${wholeStory(trouble)}`;
    return { state: "degraded", why, help: trouble.hint ?? "It goes on by itself when the devices do." };
  }
  if (badBlocks > 0) {
    const why = `${badBlocks} blocks cannot be written to the backing device and stay in the cache`;
    return { state: "degraded", why, help: "Replace the backing device, or the part of it that is bad." };
  }
  if (badSector !== undefined) {
    const why = `the superblock record on the cache device cannot be written: ${badSector.message}`;
    return { state: "degraded", why, help: "Nothing depends on that sector; replace the cache device soon." };
  }
  if (missing === 0) return healthy;
  const why = `the file systems below lack ${missing} bytes, should all of the devices be used`;
  return { state: "degraded", why, help: "Make room on them." };
}
