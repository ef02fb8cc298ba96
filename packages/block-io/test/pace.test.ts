/** The pace of background work, by a clock moved by hand. */
import { describe, expect, it } from "vitest";
import { Pace } from "../src/index.ts";
import { ManualClock } from "../src/testing/index.ts";

function made(): { clock: ManualClock; pace: Pace; clients: { inFlight: number; settledCount: number } } {
  const clock = new ManualClock();
  const clients = { inFlight: 0, settledCount: 0 };
  return { clock, clients, pace: new Pace(clock, () => clients) };
}

describe("a pace", () => {
  it("lets everything go on by default", () => {
    const { pace, clients } = made();
    pace.did(2 ** 40);
    clients.inFlight = 1;
    expect(pace.wait).toBe(0);
  });

  it("has each piece of work paid for before the next, and saves nothing up", () => {
    const { pace, clock } = made();
    pace.tune(1000, 0);
    expect(pace.wait).toBe(0);
    pace.did(500);
    expect(pace.wait).toBe(500);
    pace.did(500);
    expect(pace.wait).toBe(1000);
    clock.advance(999);
    expect(pace.wait).toBe(1);
    clock.advance(60_000);
    expect(pace.wait).toBe(0);
    pace.did(2000);
    expect(pace.wait).toBe(2000);
    pace.tune(1_000_000, 0);
    expect(pace.wait).toBe(0);
  });

  it("waits for a pause of clients, which is seen in time", () => {
    const { pace, clock, clients } = made();
    pace.tune(0, 1000);
    expect(pace.wait).toBe(1000);
    clock.advance(600);
    clients.settledCount += 1;
    clock.advance(400);
    // Something came since the last look.
    expect(pace.wait).toBe(1000);
    clock.advance(1000);
    expect(pace.wait).toBe(0);
    expect(pace.wait).toBe(0);
    clients.inFlight = 1;
    expect(pace.wait).toBe(1000);
    clock.advance(5000);
    expect(pace.wait).toBe(1000);
    clients.inFlight = 0;
    clock.advance(1000);
    expect(pace.wait).toBe(0);
  });
});
