/** `dmkit measure`: what a device holds, and what it would take compressed, in a layer, or as an image in a store. */
import { type AnyTarget, SECTOR, describeSize, didYouMean, printable } from "@dmkit/block-io";
import type { Command } from "commander";
import { withReading } from "../../devices.ts";
import { type Measured, type Way, measure } from "../../measure/measure.ts";
import { interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";
import { exitCodes } from "../../ui/terminal.ts";
import { usage } from "../../ui/usage.ts";
import type { Finish, Known } from "../command.ts";
import { repeated, size } from "../values.ts";

interface MeasureFlags {
  readonly algorithm: readonly string[];
  readonly sample: number;
  readonly json: boolean;
  readonly quiet: boolean;
}

const MIB = 2 ** 20;

const examples = `
All that is no hole is read once. Blocks of 4 KiB are equal by their SHA-256; from a million different ones on, some of
them are counted for all (16 MiB of memory whatever the size). Compression is tried on pieces that are evenly spread.
What is printed for a target is the data, compressed, with what the target adds for a device of this size.

Examples:
  dmkit measure disk.img
  dmkit measure --json 'nbd+unix:///vm?socket=/run/vm.sock'
  dmkit measure disk.img --algorithm zstd:19 --algorithm lz4 --sample 256M
`;

export function addMeasure(program: Command, finish: Finish, known: Known): void {
  program
    .command("measure")
    .summary("tell what a device holds, and what it would take compressed")
    .description(
      "Reads a device or image and tells its holes, zeroes and equal blocks, and what its data would take in each target that stores data otherwise.",
    )
    .argument("<device>", "path or URI; opened read-only")
    .option("--algorithm <name[:level]>", "try this one only; may be given again", repeated, [])
    .option("--sample <size>", "data that are compressed, at the most", size(MIB, MIB, 1024 * MIB), 32 * MIB)
    .option("--json", "print JSON", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", examples)
    .action(async (device: string, flags: MeasureFlags) => {
      const ways = await waysOf((await known()).list(), flags.algorithm);
      const done = await interruptible("measure", flags.quiet || flags.json, (work) =>
        withReading(device, commandEnvironment, (opened) => measure(opened, ways, flags.sample, work)),
      );
      if (done === "cancelled") {
        finish(tellCancelled("measure"));
        return;
      }
      if (flags.json) printJson(done.value);
      else report(device, done.value);
      finish(exitCodes.ok);
    });
}

/** Throws `EPARSE` for an algorithm or level that no target has. */
async function waysOf(targets: readonly AnyTarget[], chosen: readonly string[]): Promise<Way[]> {
  const loaded = targets.map(async ({ name: target, footprint: load }) => {
    const footprint = await load?.();
    return footprint?.algorithms.map((algorithm) => ({ target, footprint, algorithm })) ?? [];
  });
  const all = (await Promise.all(loaded)).flat();
  const every = all.map(({ target, footprint, algorithm: { name } }) => ({
    target,
    footprint,
    algorithm: name,
    level: undefined,
  }));
  if (chosen.length === 0) return every;
  return chosen.flatMap((word) => {
    const [name = "", text] = word.split(":", 2);
    const level = text === undefined ? undefined : Number(text);
    const named = all.filter(({ algorithm }) => algorithm.name === name);
    if (named.length === 0) {
      const names = [...new Set(all.map(({ algorithm }) => algorithm.name))];
      throw usage(
        `there is no algorithm ${JSON.stringify(name)}`,
        `${didYouMean(name, names)}There are: ${names.join(", ")}.`,
      );
    }
    const fitting = named.filter(
      ({ algorithm: { levels } }) =>
        level === undefined ||
        (levels !== undefined && Number.isInteger(level) && level >= levels.min && level <= levels.max),
    );
    if (fitting.length === 0) {
      const { levels } = named.find(({ algorithm }) => algorithm.levels !== undefined)?.algorithm ?? {};
      throw usage(
        `${name} has no level ${JSON.stringify(text)}`,
        levels === undefined ? `Write ${name}.` : `Its levels are ${levels.min} … ${levels.max}.`,
      );
    }
    return fitting.map(({ target, footprint }) => ({ target, footprint, algorithm: name, level }));
  });
}

function report(reference: string, found: Measured): void {
  const { size: all, holes, zeroes, data, equal, exact, sampled, stored } = found;
  print(`${printable(reference)}: ${describeSize(all)} (${all / SECTOR} sectors)\n`);
  print(`  holes   ${describeSize(holes)}\n`);
  print(`  zeroes  ${describeSize(zeroes)}\n`);
  print(`  data    ${describeSize(data)}\n`);
  print(`  equal   ${exact ? "" : "about "}${describeSize(equal)} of the data, in blocks of 4 KiB\n`);
  print(`stored (from ${describeSize(sampled)} of the data):\n`);
  for (const { target, algorithm, level, bytes, ratio } of stored) {
    const name = level === undefined ? algorithm : `${algorithm}:${level}`;
    const text =
      bytes === undefined || ratio === undefined
        ? "not installed"
        : `${describeSize(bytes).padStart(10)}   ${ratio.toFixed(2)} : 1`;
    print(`  ${target.padEnd(12)} ${name.padEnd(8)} ${text}\n`);
  }
}
