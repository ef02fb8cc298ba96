/** Offline: what is wrong with a cache device that nobody is serving. Writes nothing. */
import type { BlockDevice } from "@dmkit/block-io";
import { logRules } from "./core/log.ts";
import type { Dialect } from "./format/checksum.ts";
import { plogSegmentSize } from "./format/geometry.ts";
import { scanPlog } from "./plog-scan.ts";
import { type ScannedLog, adoptLog, scan } from "./scan.ts";

export type ProblemKind = "damage" | "torn" | "stale" | "metadata" | "record" | "split" | "identity" | "plog";

/** A finding. `repair` says what {@link repair} or the next opening would do about it. */
export interface Problem {
  readonly kind: ProblemKind;
  /** `info`: a crash explains it and opening deals with it. `error`: opening is refused, or data is lost. */
  readonly severity: "info" | "warning" | "error";
  /** In words: `slot 7 (segment 1000)`. */
  readonly location: string;
  readonly message: string;
  readonly repair: string;
}

export interface CheckOptions {
  /** segment_size_order it should have. */
  readonly order?: number | undefined;
  readonly dialect?: Dialect | undefined;
  readonly plog?: BlockDevice | undefined;
  readonly progress?: ((slots: number, of: number) => void) | undefined;
}

/** What a check saw, whether or not there are problems. */
export interface CheckSummary {
  readonly dialect: Dialect;
  readonly order: number;
  readonly slots: number;
  readonly firstId: number;
  readonly lastId: number;
  readonly lastWritebackId: number;
  readonly record: number;
  readonly segments: number;
  readonly dirtyBlocks: number;
}

/** Checksums every segment. Throws `EFORMAT` where there is no cache to check. */
export async function check(
  cache: BlockDevice,
  backing: BlockDevice,
  options: CheckOptions = {},
): Promise<{ readonly problems: readonly Problem[]; readonly summary: CheckSummary }> {
  const { order, dialect, progress } = options;
  const found = await scan(cache, backing.size, { order, dialect, progress, thorough: true });
  const problems = problemsOf(found, backing.size);
  if (options.plog !== undefined) problems.push(...(await checkPlog(options.plog, found, backing.size)));
  const split = adoptLog(found, found.first, found.last, found.lastWriteback);
  for (const { block, copies } of split) {
    problems.push({
      kind: "split",
      severity: "info",
      location: `backing block ${block}`,
      message: `${copies.length} older copies have dirty sectors that the newest one lacks`,
      repair: "opening the device merges them",
    });
  }
  return {
    problems,
    summary: {
      dialect: found.dialect,
      order: found.geometry.order,
      slots: found.geometry.slots,
      firstId: found.first,
      lastId: found.last,
      lastWritebackId: found.lastWriteback,
      record: found.record,
      segments: Math.max(0, found.last - found.first + 1),
      dirtyBlocks: found.map.dirtyBlocks,
    },
  };
}

function problemsOf(found: ScannedLog, backingSize: number): Problem[] {
  const { problems: slots, first, last, stale, damage, identity, record, ids, geometry } = found;
  const problems: Problem[] = [];
  const highest = ids.reduce((max, id) => Math.max(max, id), 0);
  const covered = typeof identity === "object" ? identity.coveredId : 0;
  if (damage !== undefined) {
    problems.push({
      kind: "damage",
      severity: "error",
      location: "log",
      message: damage,
      repair: "none without losing data: opening is refused",
    });
  }
  for (const { slot, id, problem } of slots) {
    const location = `slot ${slot} (segment ${Number.isNaN(id) ? "?" : id})`;
    // A torn write explains a bad checksum where recovery looks for one; nothing explains bad metadata.
    const { slots: count, tail } = geometry;
    const inside = !logRules.needsChecksum(id, highest, Math.max(record, covered), count, tail);
    problems.push({
      kind: problem === "checksum" ? "torn" : "metadata",
      severity: problem !== "checksum" || inside ? "warning" : "info",
      location,
      message: problem === "checksum" ? "the checksum does not match" : `the ${problem} cannot be right`,
      repair: inside
        ? "none: opening does not look at it, writeback refuses it"
        : "the slot is invalidated when the device is opened",
    });
  }
  const known = new Set(slots.map(({ slot }) => slot));
  for (const slot of stale) {
    if (known.has(slot)) continue;
    problems.push({
      kind: "stale",
      severity: "info",
      location: `slot ${slot} (segment ${ids[slot]})`,
      message: `a whole segment outside of the log (${first} … ${last})`,
      repair: "the slot is invalidated when the device is opened",
    });
  }
  if (record > last) {
    problems.push({
      kind: "record",
      severity: "warning",
      location: "superblock record",
      message: `last_writeback_segment_id is ${record}, the log ends at ${last}`,
      repair: "it is corrected when the device is opened",
    });
  }
  if (typeof identity === "object" && identity.backingSize !== backingSize) {
    problems.push({
      kind: "identity",
      severity: "error",
      location: "identity record",
      message: `the cache belongs to a backing device of ${identity.backingSize} bytes, not ${backingSize}`,
      repair: "give the right backing device",
    });
  }
  return problems;
}

async function checkPlog(plog: BlockDevice, found: ScannedLog, backingSize: number): Promise<Problem[]> {
  const { order } = found.geometry;
  const { ids, rebuilt } = await scanPlog(plog, order, found.last, backingSize);
  const follows = new Set(rebuilt.map(({ id }) => id));
  const problems: Problem[] = [];
  for (const [segment, id] of ids.entries()) {
    if (id === 0) continue;
    const location = `plog segment ${segment} (byte ${segment * plogSegmentSize(order)}, segment ${id})`;
    if (follows.has(id)) {
      problems.push({
        kind: "plog",
        severity: "info",
        location,
        message: "goes on where the log ends",
        repair: "it is written to its slot when the device is opened",
      });
    } else if (id > found.last) {
      problems.push({
        kind: "plog",
        severity: "warning",
        location,
        message: "is later than the log, but does not follow it",
        repair: "it is zeroed when the device is opened",
      });
    }
  }
  return problems;
}
