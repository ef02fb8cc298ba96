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
import type { BlockMap } from "../core/block-map.ts";
import type { SlotScanner } from "./slot-scanner.ts";

/** Segments before the first of the log that may not have been written back, one of which cannot be read. */
export interface Gap {
  readonly from: number;
  /** Whether all of their heads can be read: then it is known which blocks are concerned. */
  readonly isKnown: boolean;
}

/** A log, and what it lacks at its beginning. */
export interface LogWithGap extends Log {
  readonly gap?: Gap | undefined;
}

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
): LogWithGap {
  if (unreadable.size === 0) return log;
  const { first, last } = log;
  const mayHold = (id: number): boolean => {
    const slot = slotOf(geometry, id);
    return unreadable.has(slot) && (ids[slot] === 0 || ids[slot] === id);
  };
  const isClosed = typeof identity === "object" && identity.clean && last >= identity.lastId;
  const before = first - 1;
  const from = Math.max(0, record, last - geometry.slots) + 1;
  const isGap = before >= from && mayHold(before);
  const missing = !isClosed && mayHold(last + 1) ? last + 1 : isGap ? before : undefined;
  if (missing !== undefined) {
    const slot = slotOf(geometry, missing);
    const damage = `slot ${slot} at byte ${slotStart(geometry, slot)} cannot be read, and may hold segment ${missing}`;
    let isKnown = true;
    for (let id = from; id < first; id += 1) isKnown &&= !mayHold(id) || ids[slotOf(geometry, id)] === id;
    return { ...log, damage, gap: isGap ? { from, isKnown } : undefined };
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

/**
 * For a view, before anything is adopted: what is in the gap counts as well, so that nothing older is shown in its place.
 * Of segments that cannot be read all is lost. Throws `EIO` where nobody knows which blocks that would be.
 */
export function loseGap(
  cache: BlockDevice,
  { from, isKnown }: Gap,
  {
    first,
    ids,
    valid,
    unreadable,
    map,
    geometry,
  }: Pick<SlotScanner, "ids" | "valid"> & {
    readonly first: number;
    readonly unreadable: ReadonlySet<number>;
    readonly map: BlockMap;
    readonly geometry: Geometry;
  },
): void {
  if (!isKnown) {
    const reason = `a slot that cannot be read may hold a segment before ${first}: nobody knows which blocks would be shown as they were before it`;
    throw refuse(cache.name, "EIO", reason, "Check the cache device offline: that names the slot.");
  }
  for (let id = from; id < first; id += 1) {
    const slot = slotOf(geometry, id);
    if (ids[slot] !== id || valid[slot] === 1) continue;
    // Torn: its slot was used again after it had been written back.
    if (!unreadable.has(slot)) map.leaveOut(slot);
    const start = slot * map.blocks;
    for (let index = start; index < start + (map.lengths[slot] as number); index += 1)
      map.lose(index, map.dirty[index] as number);
  }
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
