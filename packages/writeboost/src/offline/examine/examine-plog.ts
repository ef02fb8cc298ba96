/**
 * What is wrong with a plog, and whether it belongs to the cache. Only where both identity records name each other
 * is anything done to it: what looks like leftovers may be the flushed data of another cache.
 */
import { type BlockDevice, BlockIoError, given } from "@dmkit/block-io";
import type { Finding, Fix, Problem } from "./findings.ts";
import { plogSegmentSize } from "../../format/geometry.ts";
import { NO_UUID } from "../../format/identity.ts";
import { type Mismatch, sentence } from "../../open/pairing.ts";
import { plogBytes, readPlogIdentity } from "../../device/log/plog-place.ts";
import { type ScannedPlog, scanPlog } from "../../open/plog/plog-scan.ts";
import type { ScannedLog } from "../../open/scan.ts";

/** @param pairing `blocked`: why nothing may be written, if so. */
export async function examinePlog(
  plog: BlockDevice | undefined,
  found: ScannedLog,
  pairing: { readonly mismatches: readonly Mismatch[]; readonly blocked: string | undefined },
  findings: Finding[],
): Promise<ScannedPlog | undefined> {
  if (plog === undefined) return undefined;
  const mismatch = pairing.mismatches.find(({ kind }) => kind === "plog-foreign");
  if (mismatch !== undefined) {
    findings.push({
      problem: {
        kind: "plog-foreign",
        severity: "error",
        role: "plog",
        location: "device",
        text: sentence(mismatch),
        advice: mismatch.hint,
      },
    });
    return undefined;
  }
  const scanned = await scanOrExplain(plog, found, findings);
  if (scanned === undefined) return undefined;
  const sound = pairing.blocked === undefined && found.damage === undefined;
  report(found, scanned, sound && (await isPaired(plog, found)), findings);
  return scanned;
}

/** Whether both identity records name each other. */
async function isPaired(plog: BlockDevice, { identity, geometry }: ScannedLog): Promise<boolean> {
  if (typeof identity !== "object" || identity.plog === NO_UUID) return false;
  const own = await given(readPlogIdentity(plog, geometry.order, await plogBytes(plog, identity)));
  return own?.cache === identity.cache && own.plog === identity.plog;
}

async function scanOrExplain(
  plog: BlockDevice,
  found: ScannedLog,
  findings: Finding[],
): Promise<ScannedPlog | undefined> {
  try {
    return await scanPlog(plog, found, found.backingSize ?? Number.MAX_SAFE_INTEGER);
  } catch (error) {
    if (!(error instanceof BlockIoError) || error.code !== "EINVAL" || error.op !== "open") throw error;
    const problem = { kind: "plog-size", severity: "error", role: "plog", location: "device" } as const;
    findings.push({ problem: { ...problem, text: `${error.message}.`, advice: error.hint } });
    return undefined;
  }
}

function report(
  found: ScannedLog,
  { ids, rebuilt, used, missing, unreadable }: ScannedPlog,
  sound: boolean,
  findings: Finding[],
): void {
  const size = plogSegmentSize(found.geometry.order);
  const follows = new Set(rebuilt.map(({ id }) => id));
  // A barrier may write two segments at once; a crash may keep the second of them and not the first.
  const torn = found.last + rebuilt.length + 2;
  const isLost = (id: number): boolean => id > found.last && !follows.has(id) && id !== torn;
  const gap = ids.some(isLost);
  const fix: Fix | undefined = sound && !gap && missing === undefined ? { step: "plog" } : undefined;
  const add = (
    kind: Problem["kind"],
    severity: Problem["severity"],
    segment: number,
    text: string,
    repair: string | undefined,
    advice: string | undefined,
  ): void => {
    const id = ids[segment] ?? 0;
    const location = `plog segment ${segment}${id > 0 ? ` (segment ${id})` : ""}`;
    const where = { role: "plog", location, offset: segment * size, length: size } as const;
    findings.push({
      problem: { ...where, kind, severity, text, repair, advice },
      fix: repair ? fix : undefined,
    });
  };
  if (missing !== undefined) {
    const text = `Opening is refused: ${missing}.`;
    const advice = "Save the devices as they are; a view shows what is not in the plog.";
    const where = { role: "plog", location: "device" } as const;
    findings.push({ problem: { ...where, kind: "damage", severity: "error", text, advice } });
  }
  for (const segment of unreadable) {
    const repair = fix && "It is zeroed, as opening would.";
    const advice = fix ? undefined : "Opening zeroes it, if nothing of the log may be there.";
    add("unreadable", "warning", segment, "The device does not give all of it.", repair, advice);
  }
  for (const segment of used) {
    if (unreadable.includes(segment)) continue;
    const id = ids[segment] ?? 0;
    if (follows.has(id)) {
      const repair = fix && "It is written to its slot, and the plog is zeroed, as opening would.";
      const advice = fix ? undefined : "Opening writes it to its slot, if it is the cache's plog.";
      add("plog-ahead", "info", segment, "It goes on where the log ends.", repair, advice);
    } else if (isLost(id)) {
      const text = `It is later than the log, which ends at ${found.last}, but does not follow it.`;
      const advice = "It is another cache's plog, or segments are lost. Opening zeroes it: save it first.";
      add("plog-gap", "warning", segment, text, undefined, advice);
    } else {
      const repair = fix && "It is zeroed, as opening would.";
      const advice = fix ? undefined : "Opening zeroes it, if it is the cache's plog.";
      add(
        "plog-leftover",
        "info",
        segment,
        "What it holds is in the log already, or was torn.",
        repair,
        advice,
      );
    }
  }
}
