/**
 * Crash simulation of every policy, the fault sweep, and the mutants. `npm run sim` goes on for as long as one
 * likes: `npm run sim -- --cycles 12500` makes 50,000 crash/recover cycles.
 */
import { type SimTarget, exhaust, isDeep, runSim, sweepFaults } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { cacheMutants, readErrorMutants, writeErrorMutants } from "../src/testing/sim-mutants.ts";
import { simTargets, writeBack, writeThrough } from "../src/testing/sim-targets.ts";

const MINUTES = 5 * 60_000;
const named = (targets: readonly SimTarget[]): (readonly [string, SimTarget])[] =>
  targets.map((target) => [target.name, target] as const);

describe("simulation", () => {
  it.each(named(simTargets))(
    "%s: no crash and no fault breaks a promise",
    async (_, target) => {
      const wanted = isDeep ? 120 : 60;
      const { failures, cycles } = await runSim(target, { cycles: wanted });
      expect(failures).toEqual([]);
      expect(cycles).toBeGreaterThanOrEqual(wanted);
    },
    MINUTES,
  );

  it.each(named([writeBack, writeThrough]))(
    isDeep
      ? "%s: every request of a workload fails, once and for ever"
      : "%s: one request in three of a workload fails, once and for ever",
    async (_, target) => {
      const every = isDeep ? 1 : 3;
      const { failures, sites } = await sweepFaults(target, { workloads: 1, operations: 3, every });
      expect(failures).toEqual([]);
      expect(sites.size).toBeGreaterThanOrEqual(8);
    },
    MINUTES,
  );

  it(
    "every single operation, crashed everywhere",
    async () => {
      const { failures } = await exhaust(writeBack, { length: 1, dirty: 4 });
      expect(failures).toEqual([]);
    },
    MINUTES,
  );
});

describe("mutants", () => {
  const caught: number[] = [];

  it.each(named(cacheMutants))(
    "%s is caught",
    async (_, target) => {
      const { failures, runs } = await runSim(target, { seeds: 2000, shrink: false, twice: 0 });
      expect(failures).toHaveLength(1);
      caught.push(runs);
    },
    MINUTES,
  );

  it.each([
    ...named(writeErrorMutants).map((one) => [...one, "write-error"] as const),
    ...named(readErrorMutants).map((one) => [...one, "read-error"] as const),
  ])(
    "%s is caught",
    async (_, target, fault) => {
      const options = { seeds: 2000, shrink: false, twice: 0, faults: [fault] } as const;
      const { failures, runs } = await runSim(target, options);
      expect(failures).toHaveLength(1);
      caught.push(runs);
    },
    MINUTES,
  );

  it("half of them within 100 runs", () => {
    const median = caught.sort((a, b) => a - b)[Math.floor(caught.length / 2)];
    expect(median).toBeLessThanOrEqual(100);
  });
});
