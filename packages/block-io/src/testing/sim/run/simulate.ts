/**
 * The random tier: many seeds, one run each. A failing seed is shrunk, and reported with the command that
 * reproduces it.
 */
import { realEnvironment } from "../../../contract/environment.ts";
import type { FaultKind } from "../disk/faults.ts";
import type { Violation } from "./load.ts";
import { type FaultMode, type Plan, planToArguments } from "./plan.ts";
import type { RunResult } from "../run-report.ts";
import { runPlan } from "./run.ts";
import { type Failing, shrink } from "./shrink.ts";
import type { SimTarget } from "../target.ts";

export interface SimOptions {
  /** Runs; 100 unless `cycles` or `seconds` is given. */
  readonly seeds?: number | undefined;
  /** Seed of the first run; 1 unless told otherwise. Later ones count up. */
  readonly firstSeed?: number | undefined;
  /** Stop after this many crash/recover cycles. */
  readonly cycles?: number | undefined;
  /** Stop after this many real seconds. */
  readonly seconds?: number | undefined;
  /** Unless told otherwise `honest`: in a part of the runs, faults the disk reports; then a fifth as many `flush-lossless`. */
  readonly faults?: FaultMode | undefined;
  /** Failing seeds after which to stop; 1 unless told otherwise. */
  readonly failures?: number | undefined;
  /** Whether to shrink failing runs. Default true. */
  readonly shrink?: boolean | undefined;
  /** Share of seeds that are run twice, to compare their hashes; 0.01 unless told otherwise. */
  readonly twice?: number | undefined;
  /** Called now and then. */
  readonly onProgress?: ((summary: SimSummary) => void) | undefined;
}

export interface SimFailure {
  readonly seed: number;
  /** The smallest plan that still fails; the original one if it was not shrunk. */
  readonly plan: Plan;
  readonly violations: readonly Violation[];
  /** Operations of the smallest plan. */
  readonly operations: number;
  /** Crashes of the smallest plan. */
  readonly crashes: number;
  /** What reproduces it. */
  readonly command: string;
}

export interface SimSummary {
  readonly target: string;
  runs: number;
  /** Crashes followed by a recovery. */
  cycles: number;
  /** Of those, crashes in the middle of a recovery or format. */
  inRecovery: number;
  operations: number;
  steps: number;
  /** Runs done twice. */
  repeated: number;
  /** How often each fault has struck. */
  readonly faults: Map<FaultKind, number>;
  readonly failures: SimFailure[];
  /** Of all runs: the same for the same options, on every machine. */
  hash: string;
  /** Real seconds. */
  seconds: number;
}

/**
 * What runs draw faults from unless told otherwise, and how many there are of each. A fault that comes in gets runs of its
 * own: what a seed did before it does still.
 */
const regularly: readonly (readonly [faults: FaultMode, share: number])[] = [
  ["honest", 1],
  [["flush-lossless"], 0.2],
];

/** Runs seeds until one of the limits is reached. Never throws for a violation: look at `failures`. */
export async function runSim(target: SimTarget, options: SimOptions = {}): Promise<SimSummary> {
  const summary = emptySummary(target.name);
  const modes = options.faults === undefined ? regularly : ([[options.faults, 1]] as const);
  for (const [faults, share] of modes) {
    await runMode(target, faults, limitsOf(options, share), options, summary);
    if (summary.failures.length >= (options.failures ?? 1)) break;
  }
  return summary;
}

interface RunLimits {
  readonly seeds: number;
  readonly cycles: number;
  readonly seconds: number;
}

function limitsOf({ seeds, cycles, seconds }: SimOptions, share: number): RunLimits {
  const bounded = cycles !== undefined || seconds !== undefined;
  return {
    seeds: share * (seeds ?? (bounded ? Infinity : 100)),
    cycles: share * (cycles ?? Infinity),
    seconds: share * (seconds ?? Infinity),
  };
}

async function runMode(
  target: SimTarget,
  faults: FaultMode,
  limits: RunLimits,
  { firstSeed = 1, twice = 0.01, ...options }: SimOptions,
  summary: SimSummary,
): Promise<void> {
  const { clock } = realEnvironment;
  const start = clock.now();
  const { cycles: before, seconds } = summary;
  let lastProgress = start;
  for (let index = 0; index < limits.seeds && summary.cycles - before < limits.cycles; index += 1) {
    const now = clock.now();
    summary.seconds = seconds + (now - start) / 1000;
    if (now - start >= limits.seconds * 1000) break;
    if (options.onProgress !== undefined && now - lastProgress > 200) {
      lastProgress = now;
      options.onProgress(summary);
    }
    const plan: Plan = { seed: firstSeed + index, faults, reduction: {} };
    const result = await runPlan(target, plan);
    add(summary, result);
    let violations = result.violations;
    if (violations.length === 0 && target.real !== true && repeats(plan.seed, twice)) {
      summary.repeated += 1;
      const again = await runPlan(target, plan);
      if (again.hash !== result.hash) violations = [unequal(result.hash, again.hash)];
    }
    if (violations.length === 0) continue;
    summary.failures.push(await explain(target, plan, violations, options.shrink !== false));
    if (summary.failures.length >= (options.failures ?? 1)) break;
  }
  summary.seconds = seconds + (clock.now() - start) / 1000;
}

/** The command that runs a plan again. */
export function commandFor(target: SimTarget, plan: Plan): string {
  return `npm run sim -- --target ${target.name} ${planToArguments(plan).join(" ")}`;
}

async function explain(
  target: SimTarget,
  plan: Plan,
  violations: readonly Violation[],
  shrinks: boolean,
): Promise<SimFailure> {
  const smallest =
    shrinks && violations[0]?.rule !== "determinism" ? await smallestNear(target, plan) : undefined;
  const last = smallest ?? { plan, result: await runPlan(target, plan) };
  return {
    seed: plan.seed,
    plan: last.plan,
    violations: last.result.violations.length > 0 ? last.result.violations : violations,
    operations: operationsOf(last.result),
    crashes: last.result.cycles,
    command: commandFor(target, last.plan),
  };
}

/** Operations below which a failure is small enough to be read. */
const HANDFUL = 8;
const NEIGHBOURS = 60;

/**
 * The plan shrunk; and if that leaves much, one of the next seeds that fails in the same way and shrinks to
 * less: a disk with a long ring needs many operations to wrap, one with a short ring does not.
 */
async function smallestNear(target: SimTarget, plan: Plan): Promise<Failing | undefined> {
  let best = await shrink(target, plan);
  const rule = best?.result.violations[0]?.rule;
  for (let next = 1; next <= NEIGHBOURS && best !== undefined; next += 1) {
    if (operationsOf(best.result) <= HANDFUL) break;
    const neighbour = { ...plan, seed: plan.seed + next };
    const { violations } = await runPlan(target, neighbour);
    if (violations[0]?.rule !== rule) continue;
    const other = await shrink(target, neighbour);
    if (other !== undefined && operationsOf(other.result) < operationsOf(best.result)) best = other;
  }
  return best;
}

function operationsOf({ generations }: RunResult): number {
  return generations.reduce((sum, { operations }) => sum + operations.length, 0);
}

function emptySummary(target: string): SimSummary {
  return {
    target,
    runs: 0,
    cycles: 0,
    inRecovery: 0,
    operations: 0,
    steps: 0,
    repeated: 0,
    faults: new Map(),
    failures: [],
    hash: "",
    seconds: 0,
  };
}

function add(summary: SimSummary, result: RunResult): void {
  summary.runs += 1;
  summary.cycles += result.cycles;
  summary.inRecovery += result.inRecovery;
  summary.operations += result.operations;
  summary.steps += result.steps;
  summary.hash = chain(summary.hash, result.hash);
  for (const [kind, count] of result.faults)
    summary.faults.set(kind, (summary.faults.get(kind) ?? 0) + count);
}

function chain(before: string, next: string): string {
  let low = 0x811c_9dc5;
  let high = 0x0100_0193;
  for (const char of before + next) {
    low = Math.imul(low ^ char.charCodeAt(0), 0x0100_0193);
    high = Math.imul(high + char.charCodeAt(0), 0x85eb_ca6b) ^ low;
  }
  return (high >>> 0).toString(16).padStart(8, "0") + (low >>> 0).toString(16).padStart(8, "0");
}

function repeats(seed: number, share: number): boolean {
  return share > 0 && seed % Math.max(1, Math.round(1 / share)) === 0;
}

function unequal(first: string, second: string): Violation {
  return {
    rule: "determinism",
    message: `the same seed gave the hashes ${first} and ${second}: something comes from outside of the simulation`,
  };
}
