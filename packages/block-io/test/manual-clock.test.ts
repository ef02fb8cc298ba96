/** The clock that tests move by hand. */
import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import { every, sleep } from "../src/index.ts";
import { ManualClock, manualEnvironment } from "../src/testing/index.ts";

describe("a clock moved by hand", () => {
  it("fires timers in the order of their times, those of one time as they were set, and new ones on the way", () => {
    const clock = new ManualClock();
    const fired: string[] = [];
    const note = (name: string) => (): void => void fired.push(`${name} at ${clock.now()}`);
    clock.after(30, note("late"));
    clock.after(10, () => {
      note("first")();
      clock.after(5, note("set on the way"));
    });
    clock.after(10, note("second"));
    clock.after(20, note("cancelled")).cancel();
    clock.after(31, note("too late"));
    clock.advance(30);
    expect(fired).toEqual(["first at 10", "second at 10", "set on the way at 15", "late at 30"]);
    expect(clock.pending).toBe(1);
    expect(clock.now()).toBe(30);
    clock.advance(0.5);
    expect(clock.wallTime()).toBe(30.5);
    expect(clock.pending).toBe(1);
  });

  it("lets what a timer sets off come to rest before the next one", async () => {
    const clock = new ManualClock();
    const seen: string[] = [];
    clock.after(1, () => {
      setImmediate(() => setImmediate(() => seen.push("set off")));
    });
    clock.after(2, () => void seen.push("next"));
    await clock.pass(2);
    expect(seen).toEqual(["set off", "next"]);
  });

  it("comes with an environment that is the same each time", () => {
    const draw = (seed: number): number[] => {
      const { random, clock } = manualEnvironment(seed);
      return [random.next(), random.next(), clock.now()];
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });
});

describe("what waits for a clock", () => {
  it("sleeps until the time is over or a signal aborts, and leaves nothing behind", async () => {
    const clock = new ManualClock();
    const [one, other] = [new AbortController(), new AbortController()];
    const slept = sleep(clock, 10, one.signal, undefined, other.signal);
    clock.advance(10);
    await slept;
    for (const { signal } of [one, other]) expect(getEventListeners(signal, "abort")).toEqual([]);
    const woken = sleep(clock, 10, one.signal, other.signal);
    other.abort();
    await woken;
    expect(getEventListeners(one.signal, "abort")).toEqual([]);
    await sleep(clock, 10, other.signal);
    expect([clock.now(), clock.pending]).toEqual([10, 0]);
  });

  it("does something every so often until it is cancelled, by itself as well", () => {
    const clock = new ManualClock();
    let count = 0;
    const timer = every(clock, 5, () => (count += 1));
    const once = every(clock, 5, () => once.cancel());
    clock.advance(16);
    expect([count, clock.pending]).toEqual([3, 1]);
    timer.cancel();
    expect(clock.pending).toBe(0);
  });
});
