/**
 * The fault sweep: a fixed workload, run once for each request it makes of its disks, with that request
 * failing; for every kind of fault, once and persistent; at work and during the recovery after a crash. It
 * goes on (the 1st, 2nd, 3rd … request) until the run ends before the fault strikes.
 *
 * Demanded in each: no hang, no unhandled rejection, no false acknowledgement, and whole recovery afterwards.
 */
import { type FaultKind, faultKinds } from "./faults.ts";
import type { Violation } from "./load.ts";
import type { Plan } from "./plan.ts";
import { IDS_PER_GENERATION, runPlan } from "./run.ts";
import { commandFor } from "./simulate.ts";
import type { SimTarget } from "./target.ts";

export interface SweepOptions {
  /** The workload is the one of this seed; 1 unless told otherwise. */
  readonly seed?: number | undefined;
  /** Operations of the workload, in each of two generations; 12 unless told otherwise. */
  readonly operations?: number | undefined;
  /** All unless told otherwise. */
  readonly kinds?: readonly FaultKind[] | undefined;
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
  // The first operations of both generations: enough to reach every place in the code, and not for ever.
  const keep = [0, 1].flatMap((generation) =>
    Array.from(
      { length: options.operations ?? 12 },
      (_, index) => generation * IDS_PER_GENERATION + index + 1,
    ),
  );
  const kinds = options.kinds ?? (Object.keys(faultKinds) as FaultKind[]);
  for (const kind of kinds) {
    if (target.excludes?.includes(kind)) continue;
    for (const persistent of [false, true]) {
      for (const generation of [0, 1]) {
        for (let ordinal = 1; ordinal <= (options.most ?? 500); ordinal += 1) {
          const plan: Plan = {
            seed: options.seed ?? 1,
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
            return summary;
          }
          if (result.faults.size === 0) break;
          summary.sites.set(kind, (summary.sites.get(kind) ?? 0) + 1);
        }
      }
    }
  }
  return summary;
}
