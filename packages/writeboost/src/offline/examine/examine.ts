/**
 * Offline: reads everything that can be verified of an image and finds what is wrong with it. Writes nothing.
 *
 * A finding carries a fix only if nothing has to be guessed: what is written then is known from a second,
 * checksummed place, or is what the next opening would write, or replaces data that is durable elsewhere. Where
 * opening is refused, or a device that matters is missing, nothing that depends on it has a fix.
 */
import type { Finding, Fix } from "./findings.ts";
import { type BlockDevice, BlockIoError, type OfflineWork, codeOf } from "@dmkit/block-io";
import type { Dialect } from "../../format/checksum.ts";
import { type Geometry, SLOTS_START, slotStart } from "../../format/geometry.ts";
import { IDENTITY_START, type Identity, NO_UUID, decodeIdentity, uuidAt } from "../../format/identity.ts";
import {
  HEADER_START,
  type Header,
  RECORD_START,
  decodeHeader,
  isBareHeader,
} from "../../format/superblock.ts";
import { cleanLoss } from "./clean-loss.ts";
import { examinePlog } from "./examine-plog.ts";
import { type Mismatch, findMismatches, sentence } from "../../open/pairing.ts";
import { findPlogIdentity } from "../../device/log/plog-place.ts";
import type { ScannedPlog } from "../../open/plog/plog-scan.ts";
import { type ScannedLog, adoptLog, readBlock, scan } from "../../open/scan.ts";
import type { Split } from "../../device/recovered.ts";

/** The devices of an image; a backing device or plog that is not given makes findings less complete. */
export interface Image {
  readonly cache: BlockDevice;
  readonly backing?: BlockDevice | undefined;
  readonly plog?: BlockDevice | undefined;
}

export interface ExamineOptions extends OfflineWork {
  /** segment_size_order it should have. */
  readonly order?: number | undefined;
  readonly dialect?: Dialect | undefined;
}

export interface Examined {
  readonly findings: readonly Finding[];
  /** Undefined where there is no log to be found: a finding says why. */
  readonly found: ScannedLog | undefined;
  readonly plog: ScannedPlog | undefined;
  readonly split: readonly Split[];
}

/** Throws what devices throw, and the signal's reason. */
export async function examine(image: Image, options: ExamineOptions): Promise<Examined> {
  const findings: Finding[] = [];
  const found = await readLog(image, options, findings);
  if (found === undefined) return { findings, found, plog: undefined, split: [] };
  const mismatches = await findMismatches(found.identity, image);
  const unpaired = reportPairing(image, found, mismatches, findings);
  const plog = await examinePlog(image.plog, found, { mismatches, blocked: unpaired }, findings);
  // A plog that is none of this cache's: its own may have the end of the log.
  const strange = image.plog !== undefined && plog === undefined;
  const blocked = unpaired ?? (strange ? "give the plog device of this cache first" : undefined);
  const refused = found.damage !== undefined || blocked !== undefined;
  checkLog(found, blocked, findings);
  checkSlots(found, refused, findings);
  checkRecord(found, plog, refused, findings);
  const split = adoptLog(found, found.first, found.last, found.lastWriteback);
  for (const { block, copies } of split) {
    findings.push({
      problem: {
        kind: "split",
        severity: "info",
        role: "cache",
        location: `backing block ${block}`,
        text: `${copies.length} older copies have dirty sectors that the newest one lacks.`,
        advice: "Opening the device merges them.",
      },
    });
  }
  return { findings, found, plog, split };
}

/** Superblock and log. A header that has to be repaired first is looked past. */
async function readLog(
  image: Image,
  options: ExamineOptions,
  findings: Finding[],
): Promise<ScannedLog | undefined> {
  const { cache } = image;
  const failed = (kind: "superblock" | "geometry", text: string, advice: string | undefined): undefined => {
    const problem = { severity: "error", role: "cache", offset: HEADER_START, length: 512 } as const;
    findings.push({ problem: { ...problem, kind, location: "superblock header", text, advice } });
  };
  if (cache.size < SLOTS_START) {
    const advice = "It is another device, or was cut short: make it as long as it was.";
    return failed("geometry", `${cache.size} bytes are too few for a cache device.`, advice);
  }
  const header = decodeHeader(await readBlock(cache, HEADER_START));
  const identity = await readIdentity(image, findings);
  const known = typeof identity === "object" ? identity : undefined;
  const scanOptions = { ...options, thorough: true };
  if (header.kind === "writeboost" && !contradicts(header, known)) {
    return orRefusal(scan(cache, image.backing?.size, scanOptions), (error) =>
      failed("geometry", `${error.message}.`, error.hint),
    );
  }
  if (header.kind === "blank" && known === undefined) {
    const text = "Sector 0 is zero: the device is not formatted, or formatting was interrupted.";
    return failed("superblock", text, "Opening it formats it.");
  }
  if (header.kind === "restoring") {
    return failed("superblock", "A restore of a dump was interrupted.", "Restore the dump again.");
  }
  const text = describeHeader(header, known);
  const bare = isBareHeader(await readBlock(cache, HEADER_START));
  if (known === undefined || (header.kind === "foreign" && !bare)) {
    return failed("superblock", text, "Restore a dump, or give the device that is a cache.");
  }
  const assumed = await orRefusal(
    scan(cache, image.backing?.size, { ...scanOptions, assumeOrder: known.order }),
    () => undefined,
  );
  // An order that only the identity record knows must be borne out by segments: the record may be a leftover.
  const proved = assumed !== undefined && assumed.damage === undefined;
  if (!proved || (header.kind === "writeboost" && assumed.last === 0)) {
    return failed("superblock", text, "The log does not bear out the identity record: restore a dump.");
  }
  findings.push({
    problem: {
      kind: "superblock",
      severity: "error",
      role: "cache",
      location: "superblock header",
      offset: HEADER_START,
      length: 512,
      text,
      repair: `Sector 0 is written again with segment_size_order ${known.order}, as identity record and log have it.`,
    },
    fix: { step: "header", order: known.order },
  });
  return assumed;
}

function describeHeader(header: Header, known: Identity | undefined): string {
  if (header.kind === "blank") return "Sector 0 is zero, but the identity record says that this is a cache.";
  return header.kind === "foreign"
    ? `Sector 0 holds no writeboost superblock (magic 0x${header.magic.toString(16)}).`
    : `Sector 0 says segment_size_order ${header.kind === "writeboost" ? header.order : "?"}, the identity record ${known?.order}.`;
}

function contradicts(header: Header, identity: Identity | undefined): boolean {
  if (header.kind !== "writeboost" || identity === undefined || identity.dialect === "v2") return false;
  return header.order !== identity.order && header.order !== undefined;
}

async function orRefusal<T, U>(scanning: Promise<T>, refused: (error: BlockIoError) => U): Promise<T | U> {
  try {
    return await scanning;
  } catch (error) {
    // What a device throws is not ours to explain: ours are the refusals of scan().
    const isOurs = codeOf(error) === "EFORMAT" || codeOf(error) === "EINVAL";
    if (error instanceof BlockIoError && isOurs && error.op === "open") {
      return refused(error);
    }
    throw error;
  }
}

/** The identity record; one that is damaged can be had again from its copy on the plog device. */
async function readIdentity(
  { cache, plog }: Image,
  findings: Finding[],
): Promise<Identity | "blank" | "foreign"> {
  const block = await readBlock(cache, IDENTITY_START);
  const identity = decodeIdentity(block);
  if (identity !== "foreign") return identity;
  const copy = plog === undefined ? undefined : await findPlogIdentity(plog);
  const same = copy !== undefined && copy.cache === uuidAt(block) && copy.cache !== NO_UUID;
  findings.push({
    problem: {
      kind: "identity",
      severity: "warning",
      role: "cache",
      location: "identity record (sector 8)",
      offset: IDENTITY_START,
      length: 512,
      text: "Sector 8 is neither zero nor an identity record whose checksum is right.",
      repair: same ? "It is written again from its copy on the plog device." : undefined,
      advice: same
        ? undefined
        : "The cache can be opened without one; if the device is a type 1 cache, give its plog device too.",
    },
    // The copy is as old as the last opening: what it says was durable then, still is.
    fix: same ? { step: "identity", identity: { ...copy, clean: false } } : undefined,
  });
  return identity;
}

/** Whether the devices belong together. Returns why nothing may be written, if so. */
function reportPairing(
  { backing, plog }: Image,
  { identity }: ScannedLog,
  mismatches: readonly Mismatch[],
  findings: Finding[],
): string | undefined {
  if (typeof identity !== "object") {
    return backing === undefined ? "give the backing device as well, then it can be repaired" : undefined;
  }
  const wrong = mismatches.find(({ kind }) => kind === "backing");
  if (wrong !== undefined) {
    const { hint: advice } = wrong;
    const text = sentence(wrong);
    findings.push({
      problem: { kind: "backing", severity: "error", role: "backing", location: "device", text, advice },
    });
    return "give the right backing device first";
  }
  if (plog !== undefined || identity.plog === NO_UUID) return undefined;
  findings.push({
    problem: {
      kind: "plog-missing",
      severity: identity.clean ? "info" : "warning",
      role: "cache",
      location: "identity record (sector 8)",
      offset: IDENTITY_START,
      length: 512,
      text: "The cache was used with a plog: the end of the log may be there.",
      advice: "Give the plog device as well.",
    },
  });
  return "give the plog device as well, then it can be repaired";
}

/** The log as a whole, and checksums inside of it that opening does not look at. */
function checkLog(found: ScannedLog, blocked: string | undefined, findings: Finding[]): void {
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

function checkSlots(found: ScannedLog, refused: boolean, findings: Finding[]): void {
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

function checkRecord(
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
      offset: RECORD_START + 7 * 512,
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
export function place(
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
