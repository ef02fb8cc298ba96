/** `DMKIT_SIM_CYCLES` sets the crash/recover cycles of each target; the script `sim` does the many. */
import { runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { simTargets } from "../src/testing/sim-targets.ts";

const cycles = Number(process.env["DMKIT_SIM_CYCLES"] ?? 2000);
const MINUTES = 10 * 60_000;

describe("under crashes and faults", () => {
  it.each(simTargets)(
    "$name: $summary",
    async (target) => {
      const limits = target.survives === "close" ? { seeds: cycles / 5 } : { cycles };
      const { failures } = await runSim(target, limits);
      expect(failures.map(({ command, violations }) => [command, violations])).toEqual([]);
    },
    MINUTES,
  );
});
