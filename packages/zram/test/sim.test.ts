/** The RAM disk under the simulation, and faults put into it: each must be found. */
import { readFileSync } from "node:fs";
import { isDeep, runSim, runsUntilFound } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { zramMutants } from "../src/testing/sim-mutants.ts";
import { simTargets } from "../src/testing/sim-targets.ts";

const MINUTES = 5 * 60_000;
const seeds = Number(process.env["DMKIT_SIM_CYCLES"] ?? 60);

describe("under the simulation", () => {
  it.each(simTargets)(
    "$name: $summary",
    async (target) => {
      const { failures } = await runSim(target, { seeds });
      expect(failures.map(({ command, violations }) => [command, violations])).toEqual([]);
    },
    MINUTES,
  );
});

describe("mutants", () => {
  it.each(zramMutants)(
    "$name is caught",
    async (target) => {
      expect(await runsUntilFound(target)).toBeLessThanOrEqual(isDeep ? 100 : 300);
    },
    MINUTES,
  );

  it("are those of FAULTS.md", () => {
    const table = readFileSync(new URL("FAULTS.md", import.meta.url), "utf8");
    const rows = table.split("\n").filter((line) => line.startsWith("| ") && !line.includes("invariant |"));
    const named = rows.flatMap((row) => [...row.matchAll(/`([a-z]+(?:-[a-z]+)+)`/g)].map(([, name]) => name));
    expect(new Set(named)).toEqual(new Set(zramMutants.map(({ name }) => name.split("!")[1])));
  });
});
