/**
 * Offline: reads everything that can be verified of an image and finds what is wrong with it. Writes nothing.
 *
 * A finding carries a fix only if nothing has to be guessed: what is written then is known from a second,
 * checksummed place, or is what the next opening would write, or replaces data that is durable elsewhere. Where
 * opening is refused, or a device that matters is missing, nothing that depends on it has a fix.
 */
import {
  type OfflineWork,
  type SettingsTable,
  checkSettings,
  settingOf,
  workSettings,
} from "@dmkit/block-io";
import { options as table } from "../../options.ts";
import type { Dialect } from "../../format/checksum.ts";
import { IDENTITY_START, NO_UUID } from "../../format/identity.ts";
import { checkLog, checkRecord, checkSlots } from "./examine-log.ts";
import { examinePlog } from "./examine-plog.ts";
import { readLog } from "./examine-superblock.ts";
import type { Finding, Image } from "./findings.ts";
import { type Mismatch, findMismatches, sentence } from "../../open/pairing.ts";
import type { ScannedPlog } from "../../open/plog/plog-scan.ts";
import { type ScannedLog, adoptLog } from "../../open/scan.ts";
import type { Split } from "../../device/recovered.ts";

export interface ExamineOptions extends OfflineWork {
  /** segment_size_order it should have. */
  readonly order?: number | undefined;
  readonly dialect?: Dialect | undefined;
}

const examineSettings: SettingsTable<ExamineOptions> = {
  ...workSettings,
  order: settingOf(table.segment_size_order),
  dialect: settingOf(table.dialect),
};

export interface Examined {
  readonly findings: readonly Finding[];
  /** Undefined where there is no log to be found: a finding says why. */
  readonly found: ScannedLog | undefined;
  readonly plog: ScannedPlog | undefined;
  readonly split: readonly Split[];
}

/** Throws what devices throw, and the signal's reason. */
export async function examine(image: Image, options: ExamineOptions): Promise<Examined> {
  checkSettings(examineSettings, options);
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

/** Whether the devices belong together. Returns why nothing may be written, if so. */
function reportPairing(
  { backing, plog }: Image,
  { identity }: ScannedLog,
  mismatches: readonly Mismatch[],
  findings: Finding[],
): string | undefined {
  if (identity === "unreadable") return "nobody knows what belongs to the cache";
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
