/** What is told of long work that is counted in units of its own: how far it is, how fast, and for how long. */
import { ManualClock } from "@dmkit/block-io/testing";
import { expect, it, vi } from "vitest";
import { Speed } from "../src/control/speed.ts";
import { startSteps } from "../src/ui/steps.ts";

it("is the rate since the first report, and the time that what is left takes at it", () => {
  const clock = new ManualClock();
  const speed = new Speed(clock);
  expect(speed.at(100, 1000)).toEqual({});
  clock.advance(999);
  expect(speed.at(300, 1000)).toEqual({});
  clock.advance(1);
  expect(speed.at(300, 1000)).toEqual({ rate: 200, left: 4 });
  clock.advance(8000);
  expect(speed.at(301, 1000)).toEqual({ rate: 22.3, left: 32 });
  expect(speed.at(1000, 1000)).toMatchObject({ left: 0 });
  expect(speed.at(50, 1000)).toEqual({});
});

it("is shown where it is known", () => {
  const write = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    const steps = startSteps("clean", false);
    steps.update({ done: 0, total: 900, unit: "blocks" });
    steps.update({ done: 300, total: 900, unit: "blocks", rate: 4.5, left: 134 });
    steps.stop();
    expect(write.mock.calls.map(([text]) => text)).toEqual([
      "clean: 0 % (0 of 900 blocks)\n",
      "clean: 33 % (300 of 900 blocks, 4.5/s, 2 min 14 s left)\n",
    ]);
  } finally {
    write.mockRestore();
  }
});
