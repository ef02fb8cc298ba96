/** Crash simulation of every policy; `npm run sim` goes on for as long as one likes. */
import { type SimTarget, runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { simTargets } from "../src/testing/sim-targets.ts";

const MINUTES = 5 * 60_000;

describe("simulation", () => {
  it.each(simTargets.map((target) => [target.name, target] as const))(
    "%s: no crash, no fault breaks a promise",
    async (_, target: SimTarget) => {
      const { failures, cycles } = await runSim(target, { cycles: 300 });
      expect(failures).toEqual([]);
      expect(cycles).toBeGreaterThanOrEqual(300);
    },
    MINUTES,
  );
});
