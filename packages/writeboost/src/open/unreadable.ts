/**
 * Slots that the device does not give: whether what they may hold matters.
 *
 * A slot whose head cannot be read holds any segment of its residue, or none. No crash explains it, as one explains a
 * segment that is torn; so the log neither ends nor begins at one, unless an orderly close or the record says that
 * nothing is missing there.
 */
import { type BlockDevice, refuse } from "@dmkit/block-io";
import { type Geometry, slotOf, slotStart } from "../format/geometry.ts";
import type { StoredIdentity } from "../format/identity.ts";
import type { Log } from "../core/log.ts";
import type { SlotScanner } from "./slot-scanner.ts";

/**
 * Segments before the first of the log, one of which at least cannot be read: they may not have been written back. Or the
 * slot of that one was about to be used again; then all of them are on the backing device.
 */
export interface Gap {
  readonly from: number;
  /** Slots of those that cannot be read. */
  readonly doubtful: ReadonlySet<number>;
  /** Whether their heads can be read: then it is known which blocks are concerned. */
  readonly isKnown: boolean;
}

/** A log, and what it may lack at its beginning. */
export interface LogWithGap extends Log {
  readonly gap?: Gap | undefined;
}

/**
 * The log, damaged if a slot that cannot be read may hold what belongs to it. Slots outside of it that may hold
 * something which could be believed one day are stale; those never used are let alone.
 */
export function withUnreadable(
  log: Log,
  { ids, valid, unreadable }: Pick<SlotScanner, "ids" | "valid" | "unreadable">,
  geometry: Geometry,
  record: number,
  identity: StoredIdentity,
): LogWithGap {
  if (unreadable.size === 0) return log;
  const { first, last } = log;
  const mayHold = (id: number): boolean => {
    const slot = slotOf(geometry, id);
    return unreadable.has(slot) && (ids[slot] === 0 || ids[slot] === id);
  };
  const isClosed = typeof identity === "object" && identity.clean && last >= identity.lastId;
  const doubtful = new Set<number>();
  let from = first;
  for (let id = first - 1; id > Math.max(0, record, last - geometry.slots); id -= 1) {
    const slot = slotOf(geometry, id);
    if (mayHold(id)) doubtful.add(slot);
    else if (ids[slot] !== id || valid[slot] !== 1) break;
    from = id;
  }
  const isGap = doubtful.has(slotOf(geometry, first - 1));
  const missing = !isClosed && mayHold(last + 1) ? last + 1 : isGap ? first - 1 : undefined;
  if (missing !== undefined) {
    const slot = slotOf(geometry, missing);
    const damage = `slot ${slot} at byte ${slotStart(geometry, slot)} cannot be read, and may hold segment ${missing}`;
    const isKnown = [...doubtful].every((one) => ids[one] !== 0);
    return { ...log, damage, gap: isGap ? { from, doubtful, isKnown } : undefined };
  }
  const stale = [...log.stale];
  for (const slot of unreadable) {
    if (ids[slot] !== 0) continue;
    // The next segment that belongs there.
    const next = last + 1 + ((((slot - last) % geometry.slots) + geometry.slots) % geometry.slots);
    const isUnused = next <= geometry.slots && (isClosed || next > last + geometry.tail);
    if (!isUnused) stale.push(slot);
  }
  return { ...log, stale };
}

/** Throws `EIO` where nobody knows which blocks would be shown as they were before. */
export function requireKnown(cache: BlockDevice, { gap, first }: LogWithGap): void {
  if (gap?.isKnown !== false) return;
  const reason = `a slot that cannot be read may hold a segment before ${first}: nobody knows which blocks would be shown as they were before it`;
  throw refuse(cache.name, "EIO", reason, "Check the cache device offline: that names the slot.");
}

/** How what came before can be had, where the end of the log cannot be read: a sentence of a hint, or nothing. */
export function wayOut({
  last,
  lastWriteback,
  gap,
}: {
  readonly last: number;
  readonly lastWriteback: number;
  readonly gap?: Gap | undefined;
}): string {
  if (last <= lastWriteback || gap?.isKnown === false) return "";
  const but =
    gap === undefined
      ? ""
      : " Blocks of which the newest contents cannot be read fail there, and are left as they are.";
  return ` What came before can be read as it was at segment ${last} (--at ${last}), and be written back (replay --until ${last}).${but}`;
}
