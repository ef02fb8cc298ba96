import { type Clock, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { Autocommit } from "../src/autocommit.ts";

/** Timers that fire when the test says so. */
class StoppedClock implements Clock {
  readonly #timers = new Set<() => void>();
  now(): number {
    return 0;
  }
  wallTime(): number {
    return 0;
  }
  after(_milliseconds: number, callback: () => void): { cancel: () => void } {
    this.#timers.add(callback);
    return { cancel: () => this.#timers.delete(callback) };
  }
  get pending(): number {
    return this.#timers.size;
  }
  fire(): void {
    const due = [...this.#timers];
    this.#timers.clear();
    for (const callback of due) callback();
  }
}

describe("autocommit", () => {
  function start(): { clock: StoppedClock; autocommit: Autocommit; commits: (() => void)[] } {
    const clock = new StoppedClock();
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
    clock.fire();
    expect(commits.length).toBe(0);
    autocommit.arm();
    autocommit.arm();
    expect(clock.pending).toBe(1);
    clock.fire();
    expect(commits.length).toBe(1);
  });

  it("begins to wait again when a commit is over, for what came during it", async () => {
    const { clock, autocommit, commits } = start();
    autocommit.arm();
    clock.fire();
    autocommit.arm();
    expect(clock.pending).toBe(0);
    commits[0]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(1);
    clock.fire();
    expect(commits.length).toBe(2);
    commits[1]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(0);
  });

  it("stays quiet once it is disarmed", async () => {
    const { clock, autocommit, commits } = start();
    autocommit.arm();
    clock.fire();
    autocommit.arm();
    autocommit.disarm();
    commits[0]?.();
    await new Promise(setImmediate);
    expect(clock.pending).toBe(0);
  });
});
