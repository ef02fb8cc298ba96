/**
 * `DMKIT_SIM_CYCLES` sets the crash/recover cycles of each target. The script `sim` does the many of them, and,
 * with `--exhaustive N` and `--sweep`, the tiers that take minutes.
 */
import { type FaultMode, isDeep, runSim, runsUntilFound } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { simTargets } from "../src/testing/sim-targets.ts";
import { mutants } from "../src/testing/mutants.ts";

const cycles = Number(process.env["DMKIT_SIM_CYCLES"] ?? 50);
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
      const faults: FaultMode = target.name.endsWith("!forgets-lossless-failure")
        ? ["flush-lossless"]
        : "honest";
      expect(await runsUntilFound(target, { faults })).toBeLessThanOrEqual(isDeep ? 100 : 300);
    },
    MINUTES,
  );
});
