/**
 * The fault sweep: a fixed workload, run once for each request it makes of its disks, with that request
 * failing; for every kind of fault, once and persistent; at work and during the recovery after a crash. It
 * goes on (the 1st, 2nd, 3rd … request) until the run ends before the fault strikes.
 *
 * Demanded in each: no hang, no unhandled rejection, no false acknowledgement, and whole recovery afterwards.
 */
import { type FaultKind, faultKinds } from "../disk/faults.ts";
import type { Violation } from "./load.ts";
import type { Plan } from "./plan.ts";
import { IDS_PER_GENERATION, runPlan } from "./run.ts";
import { commandFor } from "./simulate.ts";
import type { SimTarget } from "../target.ts";

export interface SweepOptions {
  /** The first workload is the one of this seed; 1 unless told otherwise. */
  readonly seed?: number | undefined;
  /** Workloads; 3 unless told otherwise. */
  readonly workloads?: number | undefined;
  /** Operations of a workload, in each of two generations; 10 unless told otherwise. */
  readonly operations?: number | undefined;
  /** All unless told otherwise. */
  readonly kinds?: readonly FaultKind[] | undefined;
  /** One in so many requests fails, the first of them always; 1 unless told otherwise. */
  readonly every?: number | undefined;
  /** Requests after which to give up on a kind; 500 unless told otherwise. */
  readonly most?: number | undefined;
  readonly onProgress?: ((summary: SweepSummary) => void) | undefined;
}

export interface SweepSummary {
  readonly target: string;
  runs: number;
  /** Requests that suffered, by kind of fault; once, persistent, at work and in recovery together. */
  readonly sites: Map<FaultKind, number>;
  readonly failures: { readonly violation: Violation; readonly command: string }[];
}

export async function sweepFaults(target: SimTarget, options: SweepOptions = {}): Promise<SweepSummary> {
  const summary: SweepSummary = { target: target.name, runs: 0, sites: new Map(), failures: [] };
  const { seed = 1, workloads = 3, kinds = Object.keys(faultKinds) as FaultKind[] } = options;
  for (let workload = 0; workload < workloads; workload += 1) {
    for (const kind of kinds) {
      if (target.excludes?.includes(kind)) continue;
      for (const persistent of [false, true]) {
        for (const generation of [0, 1]) {
          await sweepOne(target, { seed: seed + workload, kind, persistent, generation }, options, summary);
          if (summary.failures.length > 0) return summary;
        }
      }
    }
  }
  return summary;
}

interface Sweep {
  readonly seed: number;
  readonly kind: FaultKind;
  readonly persistent: boolean;
  readonly generation: number;
}

async function sweepOne(
  target: SimTarget,
  { seed, kind, persistent, generation }: Sweep,
  options: SweepOptions,
  summary: SweepSummary,
): Promise<void> {
  // The first operations of both generations: enough to reach every place in the code, and not for ever.
  const keep = [0, 1].flatMap((index) =>
    Array.from({ length: options.operations ?? 10 }, (_, n) => index * IDS_PER_GENERATION + n + 1),
  );
  const { most = 500, every = 1 } = options;
  for (let ordinal = 1; ordinal <= most; ordinal += every) {
    const plan: Plan = {
      seed,
      faults: "none",
      reduction: {
        generations: generation + 1,
        keep,
        crashes: { 0: { step: 1_000_000, survivors: "uniform" } },
        faults: { [generation]: [{ kind, ordinal, persistent }] },
      },
    };
    const result = await runPlan(target, plan);
    summary.runs += 1;
    options.onProgress?.(summary);
    const [violation] = result.violations;
    if (violation !== undefined) {
      summary.failures.push({ violation, command: commandFor(target, plan) });
      return;
    }
    if (result.faults.size === 0) return;
    summary.sites.set(kind, (summary.sites.get(kind) ?? 0) + 1);
  }
}
