import { realEnvironment } from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { Autocommit } from "../src/device/autocommit.ts";

describe("autocommit", () => {
  function start(): { clock: ManualClock; autocommit: Autocommit; commits: (() => void)[] } {
    const clock = new ManualClock();
    const commits: (() => void)[] = [];
    const autocommit = new Autocommit(
      { ...realEnvironment, clock },
      5000,
      "cow",
      () => new Promise((resolve) => commits.push(resolve)),
    );
    return { clock, autocommit, commits };
  }

  it("commits once for many writes, and not without any", () => {
    const { clock, autocommit, commits } = start();
    clock.advance(5000);
    expect(commits.length).toBe(0);
    autocommit.arm();
    autocommit.arm();
    expect(clock.pending).toBe(1);
    clock.advance(5000);
    expect(commits.length).toBe(1);
  });

  it("begins to wait again when a commit is over, for what came during it", async () => {
    const { clock, autocommit, commits } = start();
    autocommit.arm();
    clock.advance(5000);
    autocommit.arm();
    expect(clock.pending).toBe(0);
    commits[0]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(1);
    clock.advance(5000);
    expect(commits.length).toBe(2);
    commits[1]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(0);
  });

  it("stays quiet once it is disarmed", async () => {
    const { clock, autocommit, commits } = start();
    autocommit.arm();
    clock.advance(5000);
    autocommit.arm();
    autocommit.disarm();
    commits[0]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(0);
  });

  it("waits as long as it was told last", () => {
    const { clock, autocommit, commits } = start();
    autocommit.arm();
    clock.advance(1000);
    autocommit.pause = 2000;
    clock.advance(1999);
    expect(commits.length).toBe(0);
    clock.advance(1);
    expect(commits.length).toBe(1);
    const never = start();
    never.autocommit.arm();
    never.autocommit.pause = 0;
    expect(never.clock.pending).toBe(0);
  });
});
