/** What of a stack file runs, and what it is that does not, when a reload has been carried out as far as it could be. */
import { isDeepStrictEqual } from "node:util";
import { type TargetRegistry, refuse } from "@dmkit/block-io";
import { type PlanDiff, type PlanStep, renamedPlan } from "./diff.ts";
import { standsOn } from "./order.ts";
import type { StackPlan } from "./plan.ts";

/** The new plan, with what was before where that could not be changed. */
export function whatRuns(
  old: StackPlan,
  wanted: StackPlan,
  { restart, steps }: PlanDiff,
  failed: readonly PlanStep[],
): StackPlan {
  const before = renamedPlan(old, renamesOf(steps, failed));
  const names = (kind: "create" | "reload"): Set<string> =>
    new Set(failed.flatMap((step) => (step.do === kind ? [step.device.name] : [])));
  const stays = new Set([...names("reload"), ...restart.flatMap(({ device }) => device ?? [])]);
  const missing = names("create");
  const kept = failed.flatMap((step) => (step.do === "remove" ? [step.name] : []));
  const withdrawn = failed.flatMap((step) => (step.do === "unexport" ? [step.name] : []));
  const absent = failed.flatMap((step) => (step.do === "export" ? [step.export.name] : []));
  const isOf = (list: readonly string[], name: string): boolean => list.includes(name);
  return {
    ...wanted,
    devices: [
      ...before.devices.filter(
        ({ name }) =>
          isOf(kept, name) || (stays.has(name) && !wanted.devices.some((device) => device.name === name)),
      ),
      ...wanted.devices
        .filter(({ name }) => !missing.has(name))
        .map((device) =>
          stays.has(device.name)
            ? (before.devices.find(({ name }) => name === device.name) ?? device)
            : device,
        ),
    ],
    exports: [
      ...before.exports.filter(({ name }) => isOf(withdrawn, name)),
      ...wanted.exports.filter(({ name }) => !isOf(absent, name) && !isOf(withdrawn, name)),
    ],
    listen: [
      ...failed.flatMap((step) => (step.do === "unlisten" ? [step.listener] : [])),
      ...wanted.listen.filter(
        (one) => !failed.some((step) => step.do === "listen" && isDeepStrictEqual(step.listener, one)),
      ),
    ],
    // What is settled at the start stays what it was then, and is reported every time.
    control: old.control,
    pidfile: old.pidfile,
    log: old.log,
    shutdownTimeout: old.shutdownTimeout,
    metrics: old.metrics,
  };
}

/** Old names of devices to new ones, as far as it came to that. */
export function renamesOf(
  steps: readonly PlanStep[],
  failed: readonly PlanStep[],
): ReadonlyMap<string, string> {
  return new Map(
    steps.flatMap((step) =>
      step.do === "rename" && !failed.includes(step) ? [[step.from, step.to] as const] : [],
    ),
  );
}

/** Throws `ENOENT` for a device that is not, or does not stand on, what the file says: that failed before. */
export function requireAsWanted(
  name: string,
  { devices }: StackPlan,
  failed: readonly PlanStep[],
  targets: TargetRegistry,
): void {
  const others = new Set(
    failed.flatMap((step) => (step.do === "create" || step.do === "reload" ? [step.device.name] : [])),
  );
  if (others.size === 0) return;
  // What a device stands on comes before it.
  for (const device of devices) {
    if ([...standsOn(device, targets)].some((below) => others.has(below))) others.add(device.name);
  }
  if (!others.has(name)) return;
  throw refuse(
    name,
    "ENOENT",
    "there is no device yet that is what the file says",
    "Mend what failed before, and read the file again.",
    "open",
  );
}
