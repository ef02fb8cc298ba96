/** `DMKIT_SIM_CYCLES` sets the crash/recover cycles of each target; the script `sim` does the many of them. */
import { runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { mutants } from "../src/testing/mutants.ts";
import { simTargets } from "../src/testing/sim-targets.ts";

const cycles = Number(process.env["DMKIT_SIM_CYCLES"] ?? 60);
const MINUTES = 10 * 60_000;

describe("under crashes and faults", () => {
  it.each(simTargets)(
    "$name: $summary",
    async (target) => {
      const { failures } = await runSim(target, { cycles });
      expect(failures.map(({ command, violations }) => [command, violations])).toEqual([]);
    },
    MINUTES,
  );
});

describe("mutants", () => {
  it.each(mutants)(
    "$name is caught",
    async (target) => {
      const { failures } = await runSim(target, { firstSeed: 20_001, seeds: 200, shrink: false, twice: 0 });
      expect(failures.length).toBeGreaterThan(0);
    },
    MINUTES,
  );
});
