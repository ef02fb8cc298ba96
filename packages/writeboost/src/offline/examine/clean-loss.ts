/**
 * Damage that costs nothing: segments that are lost or rotten, all of whose contents are durable on the backing
 * device. They can be replaced by empty segments, so that the log is whole again.
 *
 * A segment may be emptied only together with all that are older: an older copy of one of its blocks would be
 * found instead, and read as if it were the newest. So the answer is always a range from the oldest on.
 *
 * Only where an identity record vouches for the superblock record (which has no checksum) is anything emptied, and
 * damage of the chain only where nothing at all is found beyond the run that would be the log.
 */
import { slotOf } from "../../format/geometry.ts";
import type { ScannedLog } from "../../open/scan.ts";

/** Segments to replace by empty ones; both inclusive. */
export interface CleanLoss {
  readonly from: number;
  readonly to: number;
}

export function cleanLoss(found: ScannedLog): CleanLoss | undefined {
  if (typeof found.identity !== "object") return undefined;
  return found.damage === undefined ? rottenPrefix(found) : brokenChain(found, found.identity.coveredId);
}

/** The oldest segments of the log up to the newest clean one that is rotten. */
function rottenPrefix({ rotten, ids, first, last, record }: ScannedLog): CleanLoss | undefined {
  let to = 0;
  for (const slot of rotten) {
    const id = ids[slot] as number;
    if (id >= first && id <= last && id <= record) to = Math.max(to, id);
  }
  return to === 0 ? undefined : { from: first, to };
}

/** What lies before the highest run of segments, if all of it is clean and the run is all there is. */
function brokenChain(
  { ids, valid, problems, geometry, record, unreadable, identity }: ScannedLog,
  covered: number,
): CleanLoss | undefined {
  const { slots } = geometry;
  const present = ids.filter((id, slot) => id > 0 && valid[slot] === 1).sort();
  const last = present.at(-1);
  if (last === undefined) return undefined;
  let at = present.length - 1;
  while (at > 0 && present[at - 1] === (present[at] as number) - 1) at -= 1;
  const first = present[at] as number;
  if (first > record + 1 || last < Math.max(record, covered)) return undefined;
  // Nor may more of the log be where nothing can be read.
  const isClosed = typeof identity === "object" && identity.clean && last >= identity.lastId;
  if (!isClosed && unreadable.has(slotOf(geometry, last + 1))) return undefined;
  // Every slot that does not say what it is must be one of those that are clean.
  const explained = problems.every(({ slot }) => {
    const id = last - ((((last - 1 - slot) % slots) + slots) % slots);
    return id < first;
  });
  const beyond = ids.some((id) => id > last);
  // The whole ring: what is left of older segments must not be found either.
  const from = Math.max(1, last - slots + 1);
  return explained && !beyond && from < first ? { from, to: first - 1 } : undefined;
}
