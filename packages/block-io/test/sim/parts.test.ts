/** The small parts: random numbers, stamps, the virtual clock, plans on a command line. */
import { describe, expect, it } from "vitest";
import {
  FOREIGN,
  GARBAGE,
  INITIAL,
  Prng,
  World,
  ZERO,
  demandOf,
  identify,
  stamp,
} from "../../src/testing/sim/index.ts";
import { parseReduction, planToArguments } from "../../src/testing/sim/run/plan.ts";
import { Trace } from "../../src/testing/sim/trace.ts";

describe("random numbers", () => {
  it("are the same everywhere", () => {
    const random = new Prng(42, 3);
    expect(Array.from({ length: 4 }, () => random.u32())).toMatchInlineSnapshot(`
      [
        2885917610,
        3913403324,
        2733803230,
        3123130055,
      ]
    `);
  });

  it("differ between seeds, streams and the high half of a seed", () => {
    const first = [new Prng(1), new Prng(2), new Prng(1, 1), new Prng(1 + 2 ** 32)].map((random) =>
      random.u32(),
    );
    expect(new Set(first).size).toBe(4);
  });

  it("stay in their ranges", () => {
    const random = new Prng(7);
    for (let n = 0; n < 1000; n += 1) {
      expect(random.below(3)).toBeLessThan(3);
      expect([4, 5, 6]).toContain(random.between(4, 6));
      expect(random.next()).toBeLessThan(1);
    }
    expect(random.weighted([0, 1, 0])).toBe(1);
    expect(random.chance(0)).toBe(false);
    expect(random.chance(1)).toBe(true);
  });
});

describe("stamps", () => {
  it("come back as what they were", () => {
    const bytes = Buffer.alloc(1024);
    for (const version of [1, 2, 3, 4, 5000, INITIAL, ZERO]) {
      for (const sector of [0, 1, 77, 2 ** 31]) {
        stamp(bytes, 512, version, sector);
        expect(identify(bytes, 512, sector)).toBe(version);
      }
    }
  });

  it("notice another sector, and every changed byte", () => {
    const bytes = Buffer.alloc(512);
    stamp(bytes, 0, 9, 4);
    expect(identify(bytes, 0, 5)).toBe(FOREIGN);
    for (let at = 0; at < 512; at += 1) {
      bytes[at] = (bytes[at] as number) ^ 1;
      expect(identify(bytes, 0, 4)).toBe(GARBAGE);
      bytes[at] = (bytes[at] as number) ^ 1;
    }
    bytes.fill(0);
    bytes[300] = 1;
    expect(identify(bytes, 0, 4)).toBe(GARBAGE);
  });

  it("notice a mixture of two versions, wherever it is torn", () => {
    const one = Buffer.alloc(512);
    const two = Buffer.alloc(512);
    for (const [first, second] of [
      [4, 8],
      [3, 7],
      [2, 6],
      [3, 1],
    ] as const) {
      stamp(one, 0, first, 4);
      stamp(two, 0, second, 4);
      for (let at = 8; at < 512; at += 8) {
        expect(identify(Buffer.concat([one.subarray(0, at), two.subarray(at)]), 0, 4)).toBe(GARBAGE);
      }
    }
  });
});

describe("virtual clock", () => {
  it("fires timers in order of time, then of setting, and only when told to", () => {
    const world = new World(new Trace());
    const { clock, scheduler } = world.environment(1);
    const fired: string[] = [];
    clock.after(20, () => fired.push("late"));
    clock.after(10, () => fired.push("first"));
    clock.after(10, () => fired.push("second"));
    const gone = clock.after(5, () => fired.push("cancelled"));
    scheduler.defer(() => fired.push("deferred"));
    gone.cancel();
    expect(fired).toEqual([]);
    world.fireTimer();
    expect(clock.now()).toBe(10);
    world.runDeferred();
    world.fireTimer();
    world.fireTimer();
    expect(fired).toEqual(["first", "deferred", "second", "late"]);
    expect(clock.wallTime()).toBeGreaterThan(Date.UTC(2020, 0, 1));
  });

  it("forgets everything at a crash, and takes nothing from the dead", () => {
    const world = new World(new Trace());
    const { clock, scheduler } = world.environment(1);
    clock.after(1, () => {});
    world.crash();
    clock.after(1, () => {});
    scheduler.defer(() => {});
    expect([world.timers, world.deferred]).toEqual([0, 0]);
  });

  it("catches what timers throw", () => {
    const world = new World(new Trace());
    world.environment(1).clock.after(1, () => {
      throw new Error("no");
    });
    world.fireTimer();
    expect(world.escaped).toHaveLength(1);
  });
});

describe("what can be demanded", () => {
  const spec = (kind: Parameters<typeof demandOf>[1][number]) => ({ kind, ordinal: 1, persistent: false });

  it("is everything under faults that are reported", () => {
    expect(demandOf([spec("write-error"), spec("hang"), spec("flush-lossy")], [])).toBe("legal");
  });

  it("is what the target can detect when the disk lies", () => {
    expect(demandOf([spec("rot")], [])).toBe("alive");
    expect(demandOf([spec("rot")], ["rot"])).toBe("legal-or-error");
    expect(demandOf([spec("rot"), spec("ignored-flush")], ["rot", "ignored-flush"])).toBe("known-or-error");
    expect(demandOf([spec("misdirected"), spec("rot")], ["rot"])).toBe("alive");
  });
});

describe("plans on a command line", () => {
  it("come back as they were", () => {
    const reduction = {
      keep: [1, 2, 3, 7, 2001],
      generations: 3,
      crashes: { 0: { step: 4, survivors: "none" }, 2: { step: 9, survivors: { lost: [0, 1, 5] } } },
      faults: {
        1: [
          { kind: "short", ordinal: 3, persistent: true },
          { kind: "rot", ordinal: 1, persistent: false, disk: 1 },
        ],
      },
      calmCreate: true,
      inOrder: true,
    } as const;
    const words = planToArguments({ seed: 5, faults: "none", reduction });
    const value = (option: string): string | undefined => words[words.indexOf(option) + 1];
    expect(words.slice(0, 4)).toEqual(["--seed", "5", "--faults", "none"]);
    expect(
      parseReduction({
        keep: value("--keep"),
        generations: value("--generations"),
        crash: value("--crash"),
        inject: value("--inject"),
        "calm-create": words.includes("--calm-create"),
        "in-order": words.includes("--in-order"),
      }),
    ).toEqual(reduction);
  });

  it.each([
    { keep: "3-1" },
    { keep: "x" },
    { crash: "0@1" },
    { crash: "0@1:sideways" },
    { inject: "0@fire:1" },
  ])("refuse %o", (options) => {
    expect(() => parseReduction(options)).toThrow(TypeError);
  });
});
