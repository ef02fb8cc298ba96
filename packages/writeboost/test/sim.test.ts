/** A share of what `npm run sim` does: every configuration, honest faults, crashes during recovery, the mutants. */
import {
  type FaultMode,
  type SimTarget,
  exhaust,
  isDeep,
  runSim,
  sweepFaults,
} from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { mutants } from "../src/testing/mutants.ts";
import { simTargets, targetNamed } from "../src/testing/sim-targets.ts";

const explained = (failures: readonly { command: string }[]): string[] =>
  failures.map(({ command }) => command);

describe("random runs keep every promise", () => {
  it.each(simTargets.map((target) => [target.name, target] as const))("%s", async (_name, target) => {
    const summary = await runSim(target, { cycles: isDeep ? 50 : 25 });
    expect(explained(summary.failures)).toEqual([]);
    expect(summary.inRecovery).toBeGreaterThan(0);
  });
});

describe(isDeep ? "one request after the other fails" : "one request in three fails", () => {
  it.each(["writeboost-0", "writeboost-1"])("%s", async (name) => {
    const summary = await sweepFaults(targetNamed(name), {
      workloads: 1,
      operations: 4,
      kinds: ["write-error", "flush-lossy"],
      every: isDeep ? 1 : 3,
    });
    expect(explained(summary.failures)).toEqual([]);
    expect(summary.runs).toBeGreaterThan(10);
  });
});

it("every crash of every single operation", async () => {
  const summary = await exhaust(targetNamed("writeboost-0"), { length: 1, dirty: 0 });
  expect(summary.failures).toEqual([]);
});

/** Where a fault shows only beside another one. */
const beside: Readonly<Record<string, FaultMode>> = {
  "ignores-flush-errors": ["flush-lossy"],
  "ignores-writeback-errors": ["write-error"],
};

describe("finds every fault put back in", () => {
  const seeds: number[] = [];

  it.each(mutants.map((target) => [target.name, target] as const))("%s", async (name, target: SimTarget) => {
    const faults = beside[name.slice(name.indexOf("!") + 1)] ?? "none";
    const summary = await runSim(target, { seeds: 1500, shrink: false, twice: 0, faults });
    expect(summary.failures).toHaveLength(1);
    seeds.push(summary.runs);
  });

  it("within 100 seeds, as a median", () => {
    const sorted = seeds.toSorted((a, b) => a - b);
    expect(sorted[Math.floor(sorted.length / 2)]).toBeLessThanOrEqual(100);
  });
});
