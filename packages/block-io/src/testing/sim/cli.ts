/**
 * The command `sim`: runs the tiers over a list of targets, shows progress, and ends with a summary by target
 * and by kind of fault. Exit code 0: no violation; 1: violations; 2: usage.
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { exhaust } from "./run/exhaustive.ts";
import { type FaultKind, faultKinds } from "./disk/faults.ts";
import type { Violation } from "./run/load.ts";
import { type FaultMode, type Plan, parseReduction } from "./run/plan.ts";
import { faultTable, targetTable } from "./report.ts";
import { runPlan } from "./run/run.ts";
import { type SimSummary, commandFor, runSim } from "./run/simulate.ts";
import { sweepFaults } from "./run/sweep.ts";
import type { SimTarget } from "./target.ts";

const usage = `Usage: npm run sim -- [options]

Runs block devices on simulated disks, crashes them, and checks what they promised.

  --target NAME        only this target; may be repeated; default: all that are meant to be right
  --list               the targets, and what they are
  --seed N             the run of this seed only, or the first one with --seeds, --cycles or --seconds
  --seeds N            this many runs of each target; default 100
  --cycles N           until this many crash/recover cycles of each target
  --seconds N          for this long, each target
  --faults MODE        none, honest, all, or kinds separated by commas; default: honest, and then a fifth as
                       many runs with flush-lossless; with one seed, honest
  --failures N         stop a target after this many failing seeds; default 1
  --no-shrink          report failing seeds as they are
  --exhaustive N       instead: all sequences of up to N operations, all crashes
  --sweep              instead: fail the 1st, 2nd, 3rd … request of each kind
  --trace              print the decision log (with --seed)
  --from MODULE        take targets from this module's export simTargets; may be repeated

What a failure report prints, to reproduce a run that was shrunk:
  --keep LIST --generations N --crash LIST --inject LIST --calm-create --in-order
`;

/** Where the command writes; `terminal` tells whether lines can be rewritten. */
export interface SimOutput {
  readonly write: (text: string) => void;
  readonly terminal: boolean;
}

const options = {
  target: { type: "string", multiple: true },
  list: { type: "boolean" },
  seed: { type: "string" },
  seeds: { type: "string" },
  cycles: { type: "string" },
  seconds: { type: "string" },
  faults: { type: "string" },
  failures: { type: "string" },
  "no-shrink": { type: "boolean" },
  exhaustive: { type: "string" },
  sweep: { type: "boolean" },
  trace: { type: "boolean" },
  from: { type: "string", multiple: true },
  keep: { type: "string" },
  generations: { type: "string" },
  crash: { type: "string" },
  inject: { type: "string" },
  "calm-create": { type: "boolean" },
  "in-order": { type: "boolean" },
  help: { type: "boolean" },
} as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof options }>>["values"];

/**
 * The whole command. `hidden`: targets that are run only when named, such as those that are wrong on purpose.
 * Targets of other packages join by being in `targets`.
 */
export async function simMain(
  targets: readonly SimTarget[],
  argv: readonly string[],
  output: SimOutput = standardOutput,
  hidden: readonly SimTarget[] = [],
): Promise<number> {
  let values: Values;
  try {
    // pnpm hands on the separator as well.
    const args = argv.filter((word) => word !== "--");
    ({ values } = parseArgs({ args, options, strict: true, allowPositionals: false }));
    if (values.help) {
      output.write(usage);
      return 0;
    }
    const more = await loaded(values.from ?? []);
    if (values.list) {
      output.write(listing([...targets, ...more], hidden));
      return 0;
    }
    const chosen = choose(values.target, [...targets, ...more], hidden);
    return await new Command(values, chosen, output).run();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    output.write(`${error.message}\n\n${usage}`);
    return 2;
  }
}

const standardOutput: SimOutput = {
  write: (text) => void process.stdout.write(text),
  terminal: process.stdout.isTTY,
};

class Command {
  readonly #values: Values;
  readonly #targets: readonly SimTarget[];
  readonly #output: SimOutput;
  readonly #summaries: SimSummary[] = [];
  #failed = false;
  #lastPlainLine = 0;

  constructor(values: Values, targets: readonly SimTarget[], output: SimOutput) {
    this.#values = values;
    this.#targets = targets;
    this.#output = output;
  }

  async run(): Promise<number> {
    const { exhaustive, sweep, seed, seeds, cycles, seconds } = this.#values;
    const single = seed !== undefined && seeds === undefined && cycles === undefined && seconds === undefined;
    for (const target of this.#targets) {
      if (exhaustive !== undefined) await this.#exhaust(target, integer("--exhaustive", exhaustive));
      else if (sweep) await this.#sweep(target);
      else if (single) await this.#single(target, integer("--seed", seed));
      else await this.#random(target);
    }
    if (this.#summaries.length > 0) {
      this.#output.write(`\n${targetTable(this.#summaries)}\n${faultTable(this.#summaries)}`);
    }
    return this.#failed ? 1 : 0;
  }

  async #random(target: SimTarget): Promise<void> {
    const { seed, seeds, cycles, seconds, failures } = this.#values;
    const summary = await runSim(target, {
      firstSeed: optional("--seed", seed),
      seeds: optional("--seeds", seeds),
      cycles: optional("--cycles", cycles),
      seconds: optional("--seconds", seconds),
      failures: optional("--failures", failures),
      faults: this.#faults,
      shrink: this.#values["no-shrink"] !== true,
      onProgress: (so) => this.#progress(so),
    });
    this.#clearLine();
    this.#summaries.push(summary);
    for (const failure of summary.failures) {
      this.#fail(target, `seed ${failure.seed}`, failure.violations);
      const { operations, crashes } = failure;
      this.#output.write(`  shrunk to ${operations} operations and ${crashes} crashes; reproduce with\n`);
      this.#output.write(`  ${failure.command} --trace\n`);
    }
  }

  async #single(target: SimTarget, seed: number): Promise<void> {
    const plan: Plan = { seed, faults: this.#faults ?? "honest", reduction: parseReduction(this.#values) };
    const sink = this.#values.trace ? (line: string): void => this.#output.write(`${line}\n`) : undefined;
    const result = await runPlan(target, plan, sink);
    this.#output.write(
      `${target.name}: seed ${seed}, ${result.cycles} cycles, ${result.operations} operations, hash ${result.hash}\n`,
    );
    if (result.violations.length > 0) this.#fail(target, commandFor(target, plan), result.violations);
  }

  async #exhaust(target: SimTarget, length: number): Promise<void> {
    const summary = await exhaust(target, { length, seed: optional("--seed", this.#values.seed) });
    this.#output.write(
      `${target.name}: ${summary.sequences} sequences, ${summary.cycles} crashes, ${summary.inRecovery} in recovery\n`,
    );
    for (const { sequence, violation } of summary.failures) this.#fail(target, sequence, [violation]);
  }

  async #sweep(target: SimTarget): Promise<void> {
    const summary = await sweepFaults(target, { seed: optional("--seed", this.#values.seed) });
    const sites = Array.from(summary.sites, ([kind, count]) => `${kind} ${count}`).join(", ");
    this.#output.write(`${target.name}: ${summary.runs} runs; requests that suffered: ${sites}\n`);
    for (const { command, violation } of summary.failures) this.#fail(target, command, [violation]);
  }

  get #faults(): FaultMode | undefined {
    const { faults } = this.#values;
    if (faults === undefined || faults === "none" || faults === "honest" || faults === "all") return faults;
    return faults.split(",").map((kind) => {
      if (!Object.hasOwn(faultKinds, kind)) {
        throw new TypeError(`--faults ${kind}: expected one of ${Object.keys(faultKinds).join(", ")}`);
      }
      return kind as FaultKind;
    });
  }

  #fail(target: SimTarget, where: string, violations: readonly Violation[]): void {
    this.#failed = true;
    this.#output.write(`\nVIOLATION in ${target.name}: ${where}\n`);
    for (const { rule, message } of violations.slice(0, 5)) this.#output.write(`  ${rule}: ${message}\n`);
    if (violations.length > 5) this.#output.write(`  … and ${violations.length - 5} more\n`);
  }

  #progress({ target, runs, cycles, seconds, failures }: SimSummary): void {
    const rate = seconds > 0 ? Math.round(cycles / seconds) : 0;
    const line = `${target}: ${runs} runs, ${cycles} cycles, ${rate}/s, ${failures.length} failing`;
    if (this.#output.terminal) this.#output.write(`\r${line}\u001b[K`);
    else if (seconds - this.#lastPlainLine >= 10 || seconds < this.#lastPlainLine) {
      this.#lastPlainLine = seconds;
      this.#output.write(`${line}\n`);
    }
  }

  #clearLine(): void {
    if (this.#output.terminal) this.#output.write("\r\u001b[K");
  }
}

async function loaded(modules: readonly string[]): Promise<SimTarget[]> {
  const targets: SimTarget[] = [];
  for (const name of modules) {
    const module = (await import(pathToFileURL(resolve(name)).href)) as { simTargets?: readonly SimTarget[] };
    if (module.simTargets === undefined) throw new TypeError(`--from ${name}: it exports no simTargets`);
    targets.push(...module.simTargets);
  }
  return targets;
}

function choose(
  names: readonly string[] | undefined,
  targets: readonly SimTarget[],
  hidden: readonly SimTarget[],
): readonly SimTarget[] {
  if (names === undefined) return targets;
  return names.map((name) => {
    const found = [...targets, ...hidden].find((target) => target.name === name);
    if (found === undefined) throw new TypeError(`--target ${name}: there is no such target; see --list`);
    return found;
  });
}

function listing(targets: readonly SimTarget[], hidden: readonly SimTarget[]): string {
  const width = 2 + Math.max(...[...targets, ...hidden].map(({ name }) => name.length));
  const line = ({ name, summary }: SimTarget): string => `${name.padEnd(width)}${summary ?? ""}\n`;
  const wrong =
    hidden.length > 0 ? `\nWrong on purpose, run only when named:\n${hidden.map(line).join("")}` : "";
  return targets.map(line).join("") + wrong;
}

function optional(option: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : integer(option, text);
}

function integer(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new TypeError(`${option} ${text}: expected a number`);
  return value;
}
