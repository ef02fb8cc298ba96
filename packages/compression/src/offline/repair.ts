/**
 * `repair`: carries out the fixes that need no guess. Each is safe to be interrupted and to be done again: copies
 * come from what stays as it is, and the journal is only given up when everything it says is stable in place.
 *
 * Contents that are gone (`bad`) are kept as they are unless told otherwise: somebody may still want to look. What the
 * journal has, and its place does not take, is not gone.
 */
import {
  type BlockDevice,
  type ImageProblem,
  type ImageRepair,
  type ImageRepairSettings,
  type OfflineWork,
  type SettingsTable,
  isGiven,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { COPY } from "../device/v2/store.ts";
import { type Finding, newReport, plainWork } from "./inspect/findings.ts";
import { inspect } from "./check.ts";
import { type Gone, quarantine } from "./quarantine.ts";

const repairSettings: SettingsTable<ImageRepairSettings> = {
  bad: setting.choice("keep", "unreadable", "zero"),
};

/** Throws `EFORMAT` if it is no such device, and the errors of the device. */
export async function repair(
  device: BlockDevice,
  work: OfflineWork = plainWork,
  settings: ImageRepairSettings = {},
): Promise<ImageRepair> {
  const { bad = "keep" } = checkSettings(repairSettings, settings);
  const repaired = await fix(device, work);
  let left = await all(device, work);
  if (bad === "keep") return { repaired, left: left.map(asLeft) };
  const gone = left.flatMap((finding): Gone[] => (finding.gone === undefined ? [] : [finding.gone]));
  if (gone.length > 0 && (await quarantine(device, gone, bad))) {
    repaired.push(
      ...left.filter(isGone).map(({ problem }) => ({ ...problem, repair: marks[bad], advice: undefined })),
    );
    // What the journal kept since metadata could not be read has a place now.
    repaired.push(...(await fix(device, work)));
    left = await all(device, { ...work, progress: undefined });
  }
  return { repaired, left: left.map(asLeft) };
}

/** What needs no guess, and is stable then. */
async function fix(device: BlockDevice, work: OfflineWork): Promise<ImageProblem[]> {
  const repaired: ImageProblem[] = [];
  for await (const finding of inspect(device, { ...work, progress: undefined }, newReport())) {
    if (finding.fix === undefined) continue;
    // What cannot be written there is left, and the rest is repaired.
    if (!(await isGiven(finding.fix(device)))) continue;
    repaired.push(finding.problem);
  }
  if (repaired.length > 0) await device.flush();
  return repaired;
}

/** What could be put right and was not, since its place takes no write. */
function asLeft({ problem, fix }: Finding): ImageProblem {
  return fix === undefined ? problem : { ...problem, advice: problem.advice ?? COPY };
}

const marks = { unreadable: "mark the blocks as lost", zero: "make the blocks read as zeroes" } as const;

function isGone({ gone }: Finding): boolean {
  return gone !== undefined;
}

async function all(device: BlockDevice, work: OfflineWork): Promise<Finding[]> {
  const found: Finding[] = [];
  for await (const finding of inspect(device, work, newReport())) found.push(finding);
  return found;
}
