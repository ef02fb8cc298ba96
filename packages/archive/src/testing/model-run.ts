/** Many schedules of the model, and the faults that must show in some of them. */
import { isBefore } from "../format/keys.ts";
import { type ModelSettings, runSchedule } from "./model.ts";

/** What must be found. */
export const mutants: Readonly<Record<string, ModelSettings>> = {
  "fences are collected": {
    rules: { mayRemove: (position, _size, needed) => !isBefore(needed, position) },
  },
  "no second look at the checkpoints": { rules: { sawAll: () => true } },
  "a store that ignores conditions": { ignoresConditions: true },
};

/** What many schedules came to. */
export interface Schedules {
  readonly schedules: number;
  readonly takeovers: number;
  readonly acknowledged: number;
  readonly replaced: number;
  /** Seed and what did not hold. */
  readonly violations: readonly string[];
}

/** @param most violations after which it ends. */
export async function runSchedules(
  count: number,
  {
    settings = {},
    first = 1,
    most = 10,
  }: { readonly settings?: ModelSettings; readonly first?: number; readonly most?: number } = {},
): Promise<Schedules> {
  const sum = { schedules: 0, takeovers: 0, acknowledged: 0, replaced: 0 };
  const violations: string[] = [];
  // Most of the errors are of the store, and are expected: their stacks take longer than all the rest.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  for (let seed = first; seed < first + count && violations.length < most; seed += 1) {
    const outcome = await runSchedule(seed, settings);
    sum.schedules += 1;
    sum.takeovers += outcome.takeovers;
    sum.acknowledged += outcome.acknowledged;
    sum.replaced += outcome.replaced;
    if (outcome.violation !== undefined) violations.push(`seed ${seed}: ${outcome.violation}`);
  }
  Error.stackTraceLimit = stackTraceLimit;
  return { ...sum, violations };
}
