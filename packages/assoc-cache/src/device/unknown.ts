/** What is refused while entries of the cache device are unreadable or damaged: see core/unknown-sets.ts. */
import { BlockIoError, type Operation } from "@dmkit/block-io";
import type { CacheState } from "./state.ts";

/** Refuses bytes that may be dirty where nobody knows. Throws `EIO`. */
export function requireKnown(
  state: CacheState,
  op: "read" | "write" | "discard",
  offset: number,
  length: number,
): void {
  const { unknown, blockBytes } = state;
  if (unknown.size === 0) return;
  const first = Math.floor(offset / blockBytes);
  const count = Math.floor((offset + length - 1) / blockBytes) - first + 1;
  if (unknown.firstIn(first, count) !== undefined) throw unknownRefusal(state, op, offset, length);
}

/** The error of what needs blocks of which nobody knows whether they are in the cache only. */
export function unknownRefusal(
  { name, unknown: { size } }: CacheState,
  op: Operation,
  offset?: number,
  length?: number,
): BlockIoError {
  const reason = `entries of the cache device are unreadable or damaged: blocks of ${size} sets may be there only`;
  const hint =
    "Close it and open it again: a sector may come back; one that is damaged can be restored from a dump. To give up what was dirty there, write back all else (message clean), and make a new cache (persistence 0, force 1).";
  return new BlockIoError(reason, { code: "EIO", device: name, op, offset, length, hint });
}
