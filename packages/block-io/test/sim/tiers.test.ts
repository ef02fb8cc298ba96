/** The exhaustive tier, the fault sweep, and the command line. */
import { describe, expect, it } from "vitest";
import {
  type SimTarget,
  blockIoTargets,
  exhaust,
  isDeep,
  sweepFaults,
  toys,
  wrongToys,
} from "../../src/testing/index.ts";
import { simMain } from "../../src/testing/sim/cli.ts";
import { only, PassThrough, targetOf } from "./broken.ts";

const MINUTES = 5 * 60_000;

const durable = [...toys, ...blockIoTargets].filter(({ survives }) => survives === undefined);
const named = (targets: readonly SimTarget[]): (readonly [string, SimTarget])[] =>
  targets.map((target) => [target.name, target] as const);

describe("exhaustive tier", () => {
  it.each(named(durable))(
    "%s: every sequence of one and two operations",
    async (_, target) => {
      const summary = await exhaust(target, { length: 2, seed: 2, dirty: 6 });
      expect(summary.failures).toEqual([]);
      expect(summary.sequences).toBe(7 + 49);
      expect(summary.cycles).toBeGreaterThan(2000);
    },
    MINUTES,
  );

  it("finds a forgotten flush with one operation", async () => {
    const withoutFlush = wrongToys.filter(({ name }) => name === "toy-log!no-flush");
    for (const target of withoutFlush) {
      const summary = await exhaust(target, { length: 1 });
      expect(summary.failures.map(({ violation }) => violation.rule)).toEqual(["illegal"]);
    }
    expect(withoutFlush).toHaveLength(1);
  });

  it("finds a recovery that is not durable before it answers", async () => {
    // Sixteen sectors twice: a log, and a home for what replay finds there. Replay does not flush, and then
    // erases the log: a second crash may lose both.
    const target = targetOf("forgetful-recovery", async (disks) => {
      const lower = only(disks);
      const half = lower.size / 2;
      const log = Buffer.alloc(half);
      await lower.read(half, log);
      for (let at = 0; at < half; at += 512) {
        if (log.subarray(at, at + 512).some((byte) => byte !== 0))
          await lower.write(at, log.subarray(at, at + 512));
      }
      await lower.writeZeroes(half, half);
      return new (class extends PassThrough {
        override readonly size = half;
        protected override async doRead(offset: number, into: Buffer): Promise<void> {
          const newer = Buffer.alloc(into.length);
          await Promise.all([this.disk.read(offset, into), this.disk.read(offset + half, newer)]);
          for (let at = 0; at < into.length; at += 512) {
            if (newer.subarray(at, at + 512).some((byte) => byte !== 0)) newer.copy(into, at, at, at + 512);
          }
        }
        protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
          return this.disk.write(offset + half, from, { fua });
        }
      })(lower);
    });
    const { failures } = await exhaust(target, { length: 1 });
    expect(failures[0]?.sequence).toContain("fua");
    expect(failures[0]?.violation.rule).toBe("illegal");
  });
});

describe("fault sweep", () => {
  it.each(named(durable))(
    "%s: every request fails once, and from then on",
    async (_, target) => {
      const summary = await sweepFaults(target, { workloads: isDeep ? 2 : 1, operations: isDeep ? 6 : 4 });
      expect(summary.failures).toEqual([]);
      expect(summary.sites.size).toBe(11 - (target.excludes?.length ?? 0));
    },
    MINUTES,
  );

  it("finds a device that forgets an error", async () => {
    const target = targetOf("optimist", (disks) => {
      const lower = only(disks);
      return new (class extends PassThrough {
        protected override async doFlush(): Promise<void> {
          await this.disk.flush().catch(() => {});
        }
      })(lower);
    });
    const { failures } = await sweepFaults(target, { kinds: ["flush-error"] });
    expect(failures[0]?.violation.rule).toBe("illegal");
    expect(failures[0]?.command).toContain("--inject");
  });
});

describe("command line", () => {
  async function sim(...argv: string[]): Promise<{ code: number; text: string }> {
    let text = "";
    const output = { write: (more: string) => void (text += more), terminal: false };
    const code = await simMain([...toys, ...blockIoTargets], argv, output, wrongToys);
    return { code, text };
  }

  it("lists targets", async () => {
    const { code, text } = await sim("--list");
    expect(code).toBe(0);
    for (const { name } of [...toys, ...wrongToys]) expect(text).toContain(name);
  });

  it("runs seeds, and sums up by target and fault", async () => {
    const { code, text } = await sim("--target", "toy-log", "--target", "toy-cache", "--seeds", "60");
    expect(code).toBe(0);
    // A fifth as many with the fault that has runs of its own.
    expect(text).toMatch(/toy-cache +72 /);
    expect(text).toMatch(/faults .*write-error/);
  });

  it("exits with 1 on a violation, and the command it prints does so too", async () => {
    const { code, text } = await sim("--target", "toy-log!stale-future", "--seeds", "100");
    expect(code).toBe(1);
    const command = /npm run sim -- (.*)/.exec(text)?.[1]?.split(" ") ?? [];
    const again = await sim(...command);
    expect(again.code).toBe(1);
    expect(again.text).toContain("VIOLATION");
    expect(again.text).toContain("submit op");
  });

  it("runs the other tiers", async () => {
    expect((await sim("--target", "toy-log", "--exhaustive", "1")).code).toBe(0);
    expect((await sim("--target", "linear", "--sweep")).code).toBe(0);
    expect((await sim("--target", "toy-log!no-flush", "--exhaustive", "1")).code).toBe(1);
  });

  it("takes targets of other modules", async () => {
    const module = new URL("./more-targets.ts", import.meta.url).pathname;
    expect((await sim("--from", module, "--target", "from-elsewhere", "--seeds", "3")).code).toBe(0);
  });

  it.each([
    ["--target", "nobody"],
    ["--seeds", "many"],
    ["--faults", "fire"],
    ["--unknown"],
    ["--seed", "1", "--target", "toy-log", "--crash", "x"],
  ])("exits with 2 on %s %s", async (...argv) => {
    expect((await sim(...argv.filter((word) => word !== undefined))).code).toBe(2);
  });
});
