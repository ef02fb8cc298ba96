/** The random tier: right devices survive it, wrong ones do not, and both always in the same way. */
import { describe, expect, it } from "vitest";
import { blockIoTargets, isDeep, runPlan, runSim, toyLog, toys, wrongToys } from "../../src/testing/index.ts";
import { parseReduction } from "../../src/testing/sim/run/plan.ts";
import { broken, only, PassThrough, right, targetOf } from "./broken.ts";

const MINUTES = 5 * 60_000;

/** The first runs of the deep tier. */
const CYCLES = isDeep ? 8000 : 2000;
const RUNS = isDeep ? 600 : 150;

/** The options of the command a failure prints, as a plan. */
function planOf(command: string): { seed: number; reduction: ReturnType<typeof parseReduction> } {
  const words = command.split(" ");
  const value = (option: string): string | undefined =>
    words.includes(option) ? words[words.indexOf(option) + 1] : undefined;
  return {
    seed: Number(value("--seed")),
    reduction: parseReduction({
      keep: value("--keep"),
      generations: value("--generations"),
      crash: value("--crash"),
      inject: value("--inject"),
      "calm-create": words.includes("--calm-create"),
      "in-order": words.includes("--in-order"),
    }),
  };
}

describe("what is right survives", () => {
  it.each(toys.map((target) => [target.name, target] as const))(
    "%s: thousands of cycles",
    async (_, target) => {
      const summary = await runSim(target, { cycles: CYCLES });
      expect(summary.failures).toEqual([]);
      expect(summary.cycles).toBeGreaterThanOrEqual(CYCLES);
      expect(summary.inRecovery).toBeGreaterThan(100);
      // Every kind of fault that a disk reports has struck.
      expect(summary.faults.size).toBe(8);
    },
    MINUTES,
  );

  it.each(blockIoTargets.map((target) => [target.name, target] as const))(
    "%s: many runs",
    async (_, target) => {
      const summary = await runSim(target, { seeds: target.real ? RUNS / 15 : RUNS });
      expect(summary.failures).toEqual([]);
    },
    MINUTES,
  );

  it.each(toys.map((target) => [target.name, target] as const))(
    "%s: stays alive on disks that lie",
    async (_, target) => {
      const lies = await runSim(target, { seeds: 150, faults: ["rot", "misdirected", "ignored-flush"] });
      expect(lies.failures).toEqual([]);
      expect(lies.faults.size).toBe(3);
    },
    MINUTES,
  );
});

describe("what is wrong is caught", () => {
  it.each(wrongToys.map((target) => [target.name, target] as const))(
    "%s: within 100 seeds, shrunk, and reproduced by the printed command",
    async (_, target) => {
      for (const firstSeed of isDeep ? [1, 1001, 2001] : [1]) {
        const { failures } = await runSim(target, { firstSeed, seeds: 100 });
        const [failure] = failures;
        if (failure === undefined) throw new Error(`not caught from seed ${firstSeed} on`);
        expect(failure.operations, failure.command).toBeLessThanOrEqual(10);
        expect(failure.crashes).toBeLessThanOrEqual(2);
        const { seed, reduction } = planOf(failure.command);
        const again = await runPlan(target, { seed, faults: "honest", reduction });
        expect(again.violations).toEqual(failure.violations);
      }
    },
    MINUTES,
  );

  it("leaves nothing of the fault behind", async () => {
    for (const target of toys) expect((await runSim(target, { seeds: 20 })).failures).toEqual([]);
  });

  it.each(broken.map(([target, rule]) => [target.name, rule, target] as const))(
    "%s: %s",
    async (_, rule, target) => {
      const { failures } = await runSim(target, { seeds: 100, faults: "none", shrink: false });
      expect(failures[0]?.violations.map((violation) => violation.rule)).toContain(rule);
    },
    MINUTES,
  );

  it("a rejection nobody handles", async () => {
    // The test runner has an opinion on those of its own.
    const others = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    try {
      const target = targetOf("unhandled", (disks) => {
        const device = only(disks);
        return new (class extends PassThrough {
          // The second failure comes while the first is being waited for: nobody listens.
          protected override async doWrite(offset: number, from: Buffer): Promise<void> {
            const first = this.disk.write(offset, from);
            const second = this.disk.write(offset, from);
            await first;
            await second;
          }
        })(device);
      });
      const { failures } = await runSim(target, { seeds: 100, faults: ["write-error"], shrink: false });
      expect(failures[0]?.violations.map(({ rule }) => rule)).toContain("unhandled");
    } finally {
      for (const listener of others) process.on("unhandledRejection", listener);
    }
  });

  it("what comes from outside of the simulation", async () => {
    let outside = 0;
    const target = targetOf("impure", (disks, env) => {
      outside += 1;
      env.clock.after(outside % 7, () => {});
      return new PassThrough(only(disks));
    });
    const { failures } = await runSim(target, { seeds: 30, twice: 1, faults: "none" });
    expect(failures[0]?.violations[0]?.rule).toBe("determinism");
  });
});

describe("same seed, same run", () => {
  const all = [...toys, ...blockIoTargets].filter(({ real }) => real !== true);

  it.each(all.map((target) => [target.name, target] as const))("%s", async (_, target) => {
    for (const seed of [1, 2, 3, 12345, 2 ** 40]) {
      const plan = { seed, faults: "all", reduction: {} } as const;
      const [first, second] = [await runPlan(target, plan), await runPlan(target, plan)];
      expect(second.hash).toBe(first.hash);
      expect(second.steps).toBe(first.steps);
    }
  });

  it("on every machine: the hash is the one it was when this test was written", async () => {
    // If the toy log, the workload or the scheduler changed on purpose, so does this hash.
    const { hash } = await runSim(toyLog, { seeds: 50, faults: "honest" });
    expect(hash).toMatchInlineSnapshot(`"76357b0ea81ffa12"`);
  });

  it("another seed, another run", async () => {
    const runs = await Promise.all(
      [1, 2].map((seed) => runPlan(right, { seed, faults: "none", reduction: {} })),
    );
    expect(runs[0]?.hash).not.toBe(runs[1]?.hash);
  });
});
