/**
 * Slots that the device does not give: whether what they may hold matters.
 *
 * A slot whose head cannot be read holds any segment of its residue, or none. No crash explains it, as one explains a
 * segment that is torn; so the log neither ends nor begins at one, unless an orderly close or the record says that
 * nothing is missing there.
 */
import { type Geometry, slotOf, slotStart } from "../format/geometry.ts";
import type { StoredIdentity } from "../format/identity.ts";
import type { Log } from "../core/log.ts";
import type { SlotScanner } from "./slot-scanner.ts";

/**
 * The log, damaged if a slot that cannot be read may hold what belongs to it. Slots outside of it that may hold
 * something which could be believed one day are stale; those never used are let alone.
 */
export function withUnreadable(
  log: Log,
  { ids, unreadable }: Pick<SlotScanner, "ids" | "unreadable">,
  geometry: Geometry,
  record: number,
  identity: StoredIdentity,
): Log {
  if (unreadable.size === 0) return log;
  const { first, last } = log;
  const mayHold = (id: number): boolean => {
    const slot = slotOf(geometry, id);
    return unreadable.has(slot) && (ids[slot] === 0 || ids[slot] === id);
  };
  const isClosed = typeof identity === "object" && identity.clean && last >= identity.lastId;
  const before = first - 1;
  const missing =
    !isClosed && mayHold(last + 1)
      ? last + 1
      : before > Math.max(0, record, last - geometry.slots) && mayHold(before)
        ? before
        : undefined;
  if (missing !== undefined) {
    const slot = slotOf(geometry, missing);
    const damage = `slot ${slot} at byte ${slotStart(geometry, slot)} cannot be read, and may hold segment ${missing}`;
    return { ...log, damage };
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

/** How what came before can be had, where the end of the log cannot be read: a sentence of a hint, or nothing. */
export function wayOut({
  last,
  lastWriteback,
}: {
  readonly last: number;
  readonly lastWriteback: number;
}): string {
  if (last <= lastWriteback) return "";
  return ` What came before can be read as it was at segment ${last} (--at ${last}), and be written back (replay --until ${last}).`;
}
