/** Which segments that have been written back may become empty together, in whatever order that becomes durable. */
import type { BlockMap } from "./block-map.ts";

/**
 * How many of `slots`, from the first on: as long as no two of them hold the same block. If a crash left the newer one
 * empty and not the older, the older copy would be found, and read as if it were the newest.
 */
export function emptyTogether(
  { blocks, keys, lengths }: Pick<BlockMap, "blocks" | "keys" | "lengths">,
  slots: readonly number[],
): number {
  const seen = new Set<number>();
  for (const [count, slot] of slots.entries()) {
    const held = keys.subarray(slot * blocks, slot * blocks + (lengths[slot] as number));
    if (held.some((block) => seen.has(block))) return count;
    for (const block of held) seen.add(block);
  }
  return slots.length;
}
