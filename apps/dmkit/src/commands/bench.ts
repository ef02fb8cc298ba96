/** `dmkit bench peers`: our server beside nbdkit and qemu-nbd. */

import { dirname } from "node:path";
import { BlockIoError, asking, didYouMean, makeFolders } from "@dmkit/block-io";
import type { Command } from "commander";
import { runCopyBench } from "../bench/copy.ts";
import { groups } from "../bench/groups.ts";
import { DEVICE_SIZE } from "../bench/images.ts";
import { endClients } from "../bench/leftovers.ts";
import { printGroup, printVerdict } from "../bench/report.ts";
import { type BenchOptions, type BenchReport, runBench } from "../bench/run.ts";
import { type DeviceGroup, isInstalled } from "../bench/servers.ts";
import { type Work, works } from "../bench/work.ts";
import { tellCancelled } from "../offline/work.ts";
import { endedBySignal } from "../ui/interrupt.ts";
import { requireNewFile, writeWholeFile } from "../destination.ts";
import { exitCodes } from "../ui/terminal.ts";
import { integer, repeated, size } from "./values.ts";

interface BenchFlags {
  readonly device: readonly string[];
  readonly work: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  readonly span: number;
  readonly quick: boolean;
  readonly json?: string | true;
}

const examples = `
Examples:
  dmkit bench peers --quick                     the rows that matter most, in a few minutes
  dmkit bench peers --device memory --work "depth 32"
  dmkit bench peers --json results.json

Ratios within one run are what counts: absolute figures say more about the machine.
`;

export function addBench(program: Command, finish: (code: number) => void): void {
  program
    .command("bench")
    .summary("compare with nbdkit and qemu-nbd on this machine")
    .description("Starts our server and its peers, loads them in turns with fio, prints medians and ratios.")
    .argument("<what>", "peers")
    .option(
      "-d, --device <name>",
      `only this device; repeat it for more: ${[...groups.map(({ name }) => name), "copy"].join(", ")}`,
      repeated,
      [],
    )
    .option("-w, --work <text>", "only loads whose name contains this; repeat it for more", repeated, [])
    .option("--rounds <n>", "measurements of each", integer(1, 100), 3)
    .option("--seconds <s>", "time of each measurement", integer(1, 600), 4)
    .option("--span <size>", "bytes of the device to use", size(2 ** 20, 2 ** 20, DEVICE_SIZE), 256 * 2 ** 20)
    .option("--quick", "fewer loads, two seconds each", false)
    .option("--json [file]", "print the results as JSON; with a file: write them there as well")
    .addHelpText("after", examples)
    .action(async (what: string, flags: BenchFlags) => {
      if (what !== "peers") throw usage(`there is no benchmark "${what}"`, "Say: dmkit bench peers");
      finish(await bench(flags));
    });
}

async function bench(flags: BenchFlags): Promise<number> {
  const devices = [...groups.map(({ name }) => name), "copy"];
  const unknown = flags.device.find((name) => !devices.includes(name));
  if (unknown !== undefined)
    throw usage(
      `there is no device "${unknown}"`,
      `${didYouMean(unknown, devices)}Devices: ${devices.join(", ")}.`,
    );
  const chosen =
    flags.device.length === 0 ? groups : groups.filter(({ name }) => flags.device.includes(name));
  const isWanted = ({ name, quick }: Work): boolean =>
    (quick || !flags.quick) && (flags.work.length === 0 || flags.work.some((text) => name.includes(text)));
  const worksOf = ({ works: own = works }: DeviceGroup): Work[] => own.filter(isWanted);
  const copying = flags.work.length === 0 && (flags.device.length === 0 || flags.device.includes("copy"));
  if (!copying && chosen.every((group) => worksOf(group).length === 0))
    throw usage("nothing is left to measure", "See: dmkit bench --help");
  if (!isInstalled("fio")) {
    const hint = "Install it, e.g. with: apt-get install fio";
    throw new BlockIoError("fio is not installed", { code: "ENOENT", hint });
  }
  const path = flags.json === true ? undefined : flags.json;
  // It takes long, and is not to be lost at the end.
  if (path !== undefined) {
    asking({ device: path, op: "write" }, () => makeFolders(dirname(path)));
    requireNewFile(path, REPORT);
  }
  const report: BenchReport = { rows: [], idle: [], skipped: [] };
  // What was measured counts, and is shown, also when the rest is not.
  const show = (text: string): void => void (flags.json === true || process.stdout.write(text));
  const done = await endedBySignal("bench", (signal) => {
    signal.addEventListener("abort", endClients, { once: true });
    const finished = (group: string): void => show(printGroup(report, group));
    return measure(flags, { groups: chosen, worksOf, signal, finished }, copying, report);
  });
  show(printVerdict(report));
  const text = `${JSON.stringify(report, undefined, 2)}\n`;
  if (flags.json === true) process.stdout.write(text);
  if (path !== undefined) writeWholeFile(path, text, REPORT);
  return done === "cancelled" ? tellCancelled("bench") : exitCodes.ok;
}

/** One of before may be replaced, and nothing else that is there. */
const REPORT = { replaces: (head: string): boolean => /^\{\s*"rows"/.test(head), mode: 0o666 } as const;

async function measure(
  flags: BenchFlags,
  what: Pick<BenchOptions, "groups" | "worksOf" | "signal" | "finished">,
  copying: boolean,
  report: BenchReport,
): Promise<void> {
  const progress = (text: string): void => void process.stderr.write(`${text}\n`);
  const seconds = flags.quick ? Math.min(2, flags.seconds) : flags.seconds;
  await runBench({ ...what, rounds: flags.rounds, seconds, span: flags.span, progress }, report);
  if (!copying) return;
  progress("copy");
  const rows = await runCopyBench(flags.rounds, progress);
  if (typeof rows === "string") report.skipped.push(rows);
  else report.rows.push(...rows);
  what.finished("copy");
}

function usage(reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint });
}
