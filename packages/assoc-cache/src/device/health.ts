/** How a cache is doing. */
import { type Health, healthy, wholeStory, worstHealth } from "@dmkit/block-io";
import type { CacheState } from "./state.ts";
import { unknownRefusal } from "./unknown.ts";

/** @param needsCheck as its metadata says. @param aside dirty blocks that could not be written back. */
export function cacheHealth(state: CacheState, needsCheck: boolean, aside: number): Health {
  const check: Health = needsCheck
    ? {
        state: "needs check",
        why: "a device of the cache failed while it was open the last time",
        help: "Close it and run dmkit fsck on the cache device.",
      }
    : healthy;
  const left: Health =
    aside === 0
      ? healthy
      : {
          state: "degraded",
          why: `${aside} dirty blocks cannot be copied to the source: they are tried again, and all others are written back`,
          help: "The log says where; replace the device that has the bad place, or write these blocks anew.",
        };
  return worstHealth([devicesHealth(state), check, left]);
}

/** How the two devices are. */
function devicesHealth(state: CacheState): Health {
  const { sourceError, cacheError, cacheFull, unknown, frames } = state;
  if (sourceError !== undefined) {
    const why = `writes to the source cannot be relied on: ${wholeStory(sourceError)}`;
    return { state: "failed", why, help: "Check the source, then close and reopen the cache." };
  }
  if (cacheError !== undefined) {
    const why = wholeStory(cacheError);
    const help = "Repair or replace the cache device and open the cache again.";
    return frames.dirty === 0
      ? { state: "degraded", why: `goes on without its cache device: ${why}`, help }
      : {
          state: "failed",
          why: `the cache device failed and has the only copy of ${frames.dirty} blocks: ${why}`,
          help: "Repair or reconnect the cache device and open the cache again; do not use the source without it.",
        };
  }
  if (unknown.size > 0) {
    const { reason, hint } = unknownRefusal(state, "read");
    return { state: "degraded", why: reason, help: hint };
  }
  if (cacheFull === undefined) return healthy;
  const why = `goes past its cache device, which has no space: ${wholeStory(cacheFull)}`;
  return { state: "degraded", why, help: "Make room below the cache device: it is used again then." };
}
