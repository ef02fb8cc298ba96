/**
 * Crash simulation of every policy, the fault sweep, and the mutants. `pnpm sim` goes on for as long as one
 * likes: `pnpm sim --cycles 12500` makes 50,000 crash/recover cycles.
 */
import { type SimTarget, exhaust, runSim, sweepFaults } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { cacheMutants } from "../src/testing/sim-mutants.ts";
import { simTargets } from "../src/testing/sim-targets.ts";

const MINUTES = 5 * 60_000;
const named = (targets: readonly SimTarget[]): (readonly [string, SimTarget])[] =>
  targets.map((target) => [target.name, target] as const);

describe("simulation", () => {
  it.each(named(simTargets))(
    "%s: no crash and no fault breaks a promise",
    async (_, target) => {
      const { failures, cycles } = await runSim(target, { cycles: 800 });
      expect(failures).toEqual([]);
      expect(cycles).toBeGreaterThanOrEqual(800);
    },
    MINUTES,
  );

  it.each(named(simTargets.slice(0, 2)))(
    "%s: every request of a workload fails, once and for ever",
    async (_, target) => {
      const { failures, sites } = await sweepFaults(target, { workloads: 1, operations: 6 });
      expect(failures).toEqual([]);
      expect(sites.size).toBeGreaterThanOrEqual(9);
    },
    MINUTES,
  );

  it("every single operation, crashed everywhere", async () => {
    const { failures } = await exhaust(simTargets[0] as SimTarget, { length: 1, dirty: 6 });
    expect(failures).toEqual([]);
  });
});
