/**
 * `fsck`: checks, repairs if it is told to, and says so in text, in JSON (OFFLINE.md has the schema) and by exit
 * code.
 *
 * Invariants: without `--repair` everything is open read-only; what is clean is not opened for writing either.
 */
import { basename } from "node:path";
import {
  BlockIoError,
  type ImageFormat,
  type ImageProblem,
  type OfflineWork,
  codeOf,
  printable,
} from "@dmkit/block-io";
import { exitCodeOf, fsckCodes, printError } from "../ui/terminal.ts";
import { type ImageWords, type OpenImage, type OpenOptions, withImage } from "./image.ts";
import { withImageUndo } from "./undo/session.ts";
import { interruptible, print, printJson } from "./work.ts";
import { usage } from "../ui/usage.ts";
import { commandEnvironment } from "../ui/command-environment.ts";

export interface FsckFlags {
  readonly repair: boolean;
  /** What a repair makes of contents that are gone; default: it leaves them as they are. */
  readonly bad?: "unreadable" | "zero" | undefined;
  readonly undo?: string | undefined;
  readonly json: boolean;
  readonly quiet: boolean;
}

type Outcome = "found" | "repaired" | "left";

interface Finding extends ImageProblem {
  /** `found`: nobody has tried to repair it. */
  readonly outcome: Outcome;
}

interface Report {
  /** Undefined while it is not known. */
  image?: Pick<OpenImage, "format" | "certainty" | "text" | "references">;
  findings: Finding[];
  /** Problems that are not in the list, because it is long enough. */
  more: number;
  checked: boolean;
  cancelled: boolean;
  error?: unknown;
}

// More would fill memory and be read by nobody.
const MOST = 100_000;

/** Checks one image; the exit code. Nothing is thrown. */
export async function fsck(
  words: ImageWords,
  flags: FsckFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const report: Report = { findings: [], more: 0, checked: false, cancelled: false };
  try {
    await checkAndRepair(words, flags, { formats, environment: commandEnvironment }, report);
  } catch (error) {
    report.error = error;
  }
  const code = exitCode(report);
  if (flags.json) printJson(toJson(report, code));
  else printReport(report, flags);
  if (report.error !== undefined) printError(report.error);
  if (report.cancelled) process.stderr.write("dmkit: fsck interrupted; it can be run again\n");
  return code;
}

async function checkAndRepair(
  words: ImageWords,
  flags: FsckFlags,
  options: OpenOptions,
  report: Report,
): Promise<void> {
  const quiet = flags.quiet || flags.json;
  const { bad } = flags;
  const needless = (["bad", "undo"] as const).find((name) => flags[name] !== undefined);
  if (needless !== undefined && !flags.repair) {
    throw usage(`--${needless} goes with --repair`, "Without --repair nothing is written.");
  }
  await withImage(words, options, async (image) => {
    report.image = image;
    if (bad !== undefined && image.format.marksBad !== true) {
      const able = options.formats.filter(({ marksBad }) => marksBad === true).map(({ name }) => name);
      throw usage(`--bad is not for ${image.format.name}`, `It is for: ${able.join(", ")}.`);
    }
    const checked = await interruptible(
      "fsck",
      quiet,
      (work) => check(image, work, report),
      fsckCodes.cancelled,
    );
    if (checked === "cancelled") report.cancelled = true;
    else report.checked = true;
  });
  const worthIt = report.findings.some(
    (finding) => finding.repair !== undefined || (bad !== undefined && matters(finding)),
  );
  if (!flags.repair || report.cancelled || !worthIt) return;
  if (report.image?.format.repair === undefined) return;
  await withImage(words, { ...options, writes: () => true }, async (image) => {
    const result = await interruptible(
      "repair",
      quiet,
      (work) => repair(image, flags, work),
      fsckCodes.cancelled,
    );
    if (result === "cancelled") {
      report.cancelled = true;
      return;
    }
    const { repaired, left } = result.value;
    report.findings = [
      ...repaired.map((problem) => ({ ...problem, outcome: "repaired" as const })),
      ...left.map((problem) => ({ ...problem, outcome: "left" as const })),
    ];
    report.more = 0;
  });
}

async function check({ format, devices }: OpenImage, work: OfflineWork, report: Report): Promise<void> {
  for await (const problem of format.check(devices, work)) {
    work.signal?.throwIfAborted();
    if (report.findings.length < MOST) report.findings.push({ ...problem, outcome: "found" });
    else report.more += 1;
  }
}

async function repair(
  image: OpenImage,
  { undo, bad }: FsckFlags,
  work: OfflineWork,
): Promise<{ repaired: readonly ImageProblem[]; left: readonly ImageProblem[] }> {
  const { format, devices } = image;
  return withImageUndo(
    undo,
    "fsck --repair",
    image,
    Object.keys(devices),
    work.environment,
    async (given) => {
      return (await format.repair?.(given, work, { bad })) ?? { repaired: [], left: [] };
    },
  );
}

/** Notes do not make an image unclean: a crash explains them, and the next opening deals with them. */
function matters({ severity }: ImageProblem): boolean {
  return severity !== "info";
}

function exitCode({ findings, checked, cancelled, error }: Report): number {
  let code = 0;
  if (findings.some((finding) => matters(finding) && finding.outcome === "repaired"))
    code |= fsckCodes.corrected;
  if (findings.some((finding) => matters(finding) && finding.outcome !== "repaired")) code |= fsckCodes.left;
  if (cancelled) code |= fsckCodes.cancelled;
  if (error !== undefined) {
    code |= checked ? fsckCodes.operational : exitCodeOf(error, "fsck");
  }
  return code;
}

function printReport(report: Report, { quiet }: FsckFlags): void {
  for (const finding of report.findings) print(`${lineOf(finding)}\n`);
  if (report.more > 0) print(`… and ${report.more} more\n`);
  if (!quiet && report.image !== undefined) print(`${summaryOf(report)}\n`);
}

/** Severity, place, what is wrong, and what becomes of it. */
export function lineOf({ severity, role, location, text, repair, advice, outcome }: Finding): string {
  const what = outcome === "repaired" ? `repaired ${severity}` : severity;
  const done = outcome === "repaired" ? undefined : repair === undefined ? undefined : `repair: ${repair}`;
  const rest = [done, advice === undefined ? undefined : `advice: ${advice}`].filter(
    (part) => part !== undefined,
  );
  const line = `${what}: ${role}:${location}: ${text}${rest.length > 0 ? ` (${rest.join("; ")})` : ""}`;
  return printable(line);
}

function summaryOf({ image, findings, more, checked, cancelled }: Report): string {
  const name = Object.values(image?.references ?? {})
    .map((path) => basename(path))
    .join(", ");
  const where = printable(`${image?.format.name} on ${name}`);
  if (cancelled) return `${where}: not finished`;
  if (!checked) return `${where}: could not be checked to the end`;
  const counts = countsOf(findings);
  const parts = [
    ...(["error", "warning", "info"] as const)
      .filter((severity) => counts[severity] > 0)
      .map((severity) =>
        plural(counts[severity], { error: "error", warning: "warning", info: "note" }[severity]),
      ),
    ...(counts.repaired > 0 ? [`${counts.repaired} repaired`] : []),
    ...(counts.left > 0 ? [`${counts.left} left`] : []),
    ...(more > 0 ? [`${more} not listed`] : []),
  ];
  const open = findings.some((finding) => matters(finding) && finding.outcome !== "repaired");
  return `${where}: ${open ? "NOT CLEAN" : "clean"}${parts.length > 0 ? `, ${parts.join(", ")}` : ""}`;
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function countsOf(
  findings: readonly Finding[],
): Record<"error" | "warning" | "info" | "repaired" | "left", number> {
  const counts = { error: 0, warning: 0, info: 0, repaired: 0, left: 0 };
  for (const { severity, outcome } of findings) {
    counts[severity] += 1;
    if (outcome === "repaired") counts.repaired += 1;
    else if (severity !== "info") counts.left += 1;
  }
  return counts;
}

function toJson(report: Report, exit: number): Record<string, unknown> {
  const { image, findings, more, cancelled, error } = report;
  return {
    schema: "dmkit-fsck-1",
    format: image?.format.name ?? null,
    certainty: image?.certainty ?? null,
    description: image?.text ?? null,
    devices: image?.references ?? {},
    clean: report.checked && !cancelled && error === undefined && (exit & fsckCodes.left) === 0,
    cancelled,
    problems: findings.map(fieldsOf),
    unlisted: more,
    counts: countsOf(findings),
    ...(error === undefined ? {} : { error: errorFacts(error) }),
    exit,
  };
}

/** What the schema has; a format's own fields are for programs that use its functions. */
function fieldsOf(finding: Finding): Finding {
  const { kind, severity, role, location, offset, length, text, repair, advice, outcome } = finding;
  return { kind, severity, role, location, offset, length, text, repair, advice, outcome };
}

function errorFacts(error: unknown): Record<string, unknown> {
  const message = error instanceof Error ? error.message : String(error);
  return {
    code: codeOf(error),
    message,
    ...(error instanceof BlockIoError && error.hint !== undefined ? { hint: error.hint } : {}),
  };
}
