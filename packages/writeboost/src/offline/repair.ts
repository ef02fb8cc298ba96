/**
 * Offline: puts right what needs no guess; see examine.ts for what that is.
 *
 * Invariants: steps are carried out in the order below, each durable before the next begins; every step is one
 * that opening would take, or writes single sectors each of which leaves an image that is no worse. So a crash
 * anywhere leaves an image that a second repair completes, and a second repair finds nothing to do.
 *
 *      header → identity record → clean segments emptied → (examined again) →
 *      slots outside of the log invalidated → plog applied and zeroed → superblock record
 */
import { type BlockDevice, isOfPlace } from "@dmkit/block-io";
import { type Examined, type ExamineOptions, examine } from "./examine/examine.ts";
import type { Fix, Image, Problem } from "./examine/findings.ts";
import { BLOCK, slotOf, slotStart } from "../format/geometry.ts";
import { IDENTITY_START, NO_UUID, encodeIdentity } from "../format/identity.ts";
import { emptySegment } from "../format/segment.ts";
import { HEADER_START, RECORD_START, encodeHeader, encodeRecord } from "../format/superblock.ts";
import { completeRebuilt } from "../open/plog/plog-complete.ts";
import { rules } from "../core/rules.ts";
import { invalidate, rebuild, zeroPlog } from "../open/recovery.ts";
import type { ScannedLog } from "../open/scan.ts";

/** What a repair did: the problems that are mended, and those that it cannot mend. */
export interface RepairSummary {
  readonly repaired: readonly Problem[];
  readonly left: readonly Problem[];
}

type Step = Fix["step"];

// Header, identity record, emptying, the rest: then nothing is left. More would be a fault of ours; it ends.
const MOST_ROUNDS = 5;

// What changes so much that everything has to be looked at again.
const first: readonly Step[] = ["header", "identity", "empty"];
const second: readonly Step[] = ["invalidate", "plog", "record"];

/** Throws what devices throw, and the signal's reason. Can be run again after anything. */
export async function repair(image: Image, options: ExamineOptions): Promise<RepairSummary> {
  const repaired: Problem[] = [];
  for (let rounds = 0; ; rounds += 1) {
    const examined = await examine(image, options);
    const round = stepsOf(examined);
    if (round.length === 0 || rounds === MOST_ROUNDS)
      return { repaired, left: examined.findings.map(({ problem }) => problem) };
    for (const step of round) {
      options.signal?.throwIfAborted();
      const findings = examined.findings.filter(({ fix }) => fix?.step === step);
      await carryOut(image, examined, findings[0]?.fix as Fix);
      repaired.push(...findings.map(({ problem }) => problem));
    }
  }
}

/** The steps of this round: one of those that change everything, or all the others. */
function stepsOf({ findings }: Examined): readonly Step[] {
  const wanted = new Set(findings.map(({ fix }) => fix?.step));
  const [early] = first.filter((step) => wanted.has(step));
  return early === undefined ? second.filter((step) => wanted.has(step)) : [early];
}

async function carryOut({ cache, plog }: Image, { found, plog: scanned }: Examined, fix: Fix): Promise<void> {
  switch (fix.step) {
    case "header":
      // All of sectors 0 … 7 belong to the header; only sector 0 is anything but zero.
      await cache.write(HEADER_START, encodeHeader(fix.order));
      return cache.flush();
    case "identity":
      await cache.write(IDENTITY_START, encodeIdentity(fix.identity));
      return cache.flush();
    case "empty":
      return emptySegments(cache, found as ScannedLog, fix.from, fix.to);
    case "invalidate":
      return invalidate(cache, found as ScannedLog);
    case "plog": {
      const log = found as ScannedLog;
      if (plog === undefined || scanned === undefined) return;
      await completeRebuilt(cache, log, scanned.rebuilt, rules);
      await rebuild(cache, log, scanned.rebuilt);
      return zeroPlog(plog, log.geometry.order, scanned);
    }
    case "record":
      return correctRecord(cache, found as ScannedLog, fix.id);
  }
}

/**
 * Makes segments empty, the oldest first, one durable before the next: a newer one emptied alone would bring
 * older copies of its blocks to light. Of each, one sector changes; its metablocks stay and do not count. An archive
 * that lacked one of them would take it for empty: so the cache has none from then on.
 */
async function emptySegments(cache: BlockDevice, found: ScannedLog, from: number, to: number): Promise<void> {
  const { geometry, dialect, identity } = found;
  if (typeof identity === "object" && identity.archive !== NO_UUID) {
    await cache.write(IDENTITY_START, encodeIdentity({ ...identity, archive: NO_UUID }));
    await cache.flush();
  }
  const head = Buffer.alloc(BLOCK);
  for (let id = from; id <= to; id += 1) {
    const start = slotStart(geometry, slotOf(geometry, id));
    await cache.read(start, head).catch((error: unknown) => {
      // What is put in its place need not have the metablocks.
      if (!isOfPlace(error)) throw error;
      head.fill(0);
    });
    emptySegment(dialect, head, id);
    await cache.write(start, head, { fua: true });
  }
}

/** The smaller one counts, so the two may become durable in any order, and the record need not be taken by the device. */
async function correctRecord(cache: BlockDevice, { identity }: ScannedLog, id: number): Promise<void> {
  const hasCopy = typeof identity === "object";
  await cache.write(RECORD_START, encodeRecord(id)).catch((error: unknown) => {
    if (!hasCopy || !isOfPlace(error)) throw error;
  });
  if (hasCopy) await cache.write(IDENTITY_START, encodeIdentity({ ...identity, recordedId: id }));
  await cache.flush();
}
