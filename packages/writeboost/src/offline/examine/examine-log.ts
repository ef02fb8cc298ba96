/** Findings of the log itself: damage, rot, slots outside of it, and the superblock record. */
import type { Finding, Fix } from "./findings.ts";
import { type Geometry, slotStart } from "../../format/geometry.ts";
import { RECORD, RECORD_START } from "../../format/superblock.ts";
import { cleanLoss } from "./clean-loss.ts";
import type { ScannedPlog } from "../../open/plog/plog-scan.ts";
import type { ScannedLog } from "../../open/scan.ts";

/** The log as a whole, and checksums inside of it that opening does not look at. */
export function checkLog(found: ScannedLog, blocked: string | undefined, findings: Finding[]): void {
  const { damage, rotten, ids, geometry, first, last, record, unreadable } = found;
  const loss = blocked === undefined ? cleanLoss(found) : undefined;
  const fix: Fix | undefined =
    loss === undefined ? undefined : { step: "empty", from: loss.from, to: loss.to };
  if (damage !== undefined) {
    findings.push({
      problem: {
        kind: "damage",
        severity: "error",
        role: "cache",
        location: "log",
        text: `Opening is refused: ${damage}.`,
        repair:
          fix &&
          `What is missing (segments ${fix.from} … ${fix.to}) is on the backing device: empty segments take its place.`,
        advice: fix ? undefined : (blocked ?? "Save both devices as they are; a view may show what is left."),
      },
      fix,
    });
  }
  for (const slot of rotten) {
    const id = ids[slot] as number;
    if (id < first || id > last) continue;
    const dirty = id > record || typeof found.identity !== "object";
    const mends = fix !== undefined && damage === undefined && id <= fix.to;
    const what = unreadable.has(slot) ? "It cannot be read" : "The checksum does not match";
    findings.push({
      problem: {
        kind: "rot",
        severity: "error",
        role: "cache",
        ...place(geometry, slot, id),
        text: dirty
          ? `${what}: data that is not on the backing device is damaged, somewhere in the segment.`
          : `${what}; everything in the segment is on the backing device.`,
        repair: mends ? "It and all older ones are emptied: reads go to the backing device." : undefined,
        advice: mends
          ? undefined
          : (blocked ?? "Writeback refuses it. Writing its blocks anew over the device supersedes it."),
      },
      fix: mends ? fix : undefined,
    });
  }
}

export function checkSlots(found: ScannedLog, refused: boolean, findings: Finding[]): void {
  const { problems, stale, ids, geometry, first, last } = found;
  const goes = new Set(stale);
  const fix: Fix | undefined = refused ? undefined : { step: "invalidate" };
  const waiting = "It is dealt with when nothing worse is wrong.";
  for (const { slot, id, problem } of problems) {
    const torn = problem === "checksum";
    const lost = problem === "unreadable";
    const mends = fix !== undefined && goes.has(slot);
    findings.push({
      problem: {
        kind: torn ? "torn" : lost ? "unreadable" : "metadata",
        // A write that was torn explains a checksum where recovery looks for one; nothing explains bad metadata.
        severity: torn ? "info" : "warning",
        role: "cache",
        ...place(geometry, slot, id),
        text: torn
          ? "The checksum does not match."
          : lost
            ? "The device does not give it."
            : `The ${problem} cannot be right.`,
        repair: mends ? "The slot is invalidated, as opening would." : undefined,
        advice: mends
          ? undefined
          : refused
            ? waiting
            : lost
              ? "Nothing of the log is there. Take another device before the log gets there."
              : "Nobody believes it; the next segment there replaces it.",
      },
      fix: mends ? fix : undefined,
    });
    goes.delete(slot);
  }
  for (const slot of goes) {
    findings.push({
      problem: {
        kind: "stale",
        severity: "info",
        role: "cache",
        ...place(geometry, slot, ids[slot] as number),
        text: `A whole segment outside of the log (${first} … ${last}).`,
        repair: fix && "The slot is invalidated, as opening would.",
        advice: fix ? undefined : waiting,
      },
      fix,
    });
  }
}

export function checkRecord(
  found: ScannedLog,
  plog: ScannedPlog | undefined,
  refused: boolean,
  findings: Finding[],
): void {
  const { record, recordOnDevice, identity, damage } = found;
  // Where opening is refused, who knows where the log ends.
  if (damage !== undefined) return;
  const last = plog?.rebuilt.at(-1)?.id ?? found.last;
  const copy = typeof identity === "object" ? identity.recordedId : recordOnDevice;
  const beyond = record > last;
  if (!beyond && copy === recordOnDevice) return;
  const id = Math.min(record, last);
  // Nothing vouches for a record of old drivers: to make it the end of the log would declare everything clean.
  const fix: Fix | undefined = refused || typeof identity !== "object" ? undefined : { step: "record", id };
  findings.push({
    problem: {
      kind: beyond ? "record" : "record-copy",
      severity: beyond ? "warning" : "info",
      role: "cache",
      location: "superblock record (sector 2047)",
      offset: RECORD_START + RECORD,
      length: 512,
      text: beyond
        ? `last_writeback_segment_id is ${record}, the log ends at ${last}.`
        : `last_writeback_segment_id is ${recordOnDevice}, its copy in the identity record ${copy}; the smaller one counts.`,
      repair: fix && `Both become ${id}.`,
      advice: fix
        ? undefined
        : refused
          ? "It is dealt with when nothing worse is wrong."
          : "Opening takes everything for written back then. If that may be wrong, restore a dump with a smaller record.",
    },
    fix,
  });
}

/** Where a slot is, for a problem. */
function place(
  geometry: Geometry,
  slot: number,
  id: number,
): { location: string; offset: number; length: number } {
  const name = Number.isNaN(id) ? "?" : String(id);
  return {
    location: `slot ${slot} (segment ${name})`,
    offset: slotStart(geometry, slot),
    length: geometry.slotSize,
  };
}
