/** The takeover, over thousands of schedules; and the faults that these must find. */
import { describe, expect, it } from "vitest";
import { mutants, runSchedules } from "../src/testing/model-run.ts";

it("what was acknowledged is what every later taker finds", async () => {
  const { violations, takeovers, replaced } = await runSchedules(200);
  expect(violations).toEqual([]);
  expect(takeovers).toBeGreaterThan(200);
  expect(replaced).toBeGreaterThan(0);
});

describe("finds every fault put in", () => {
  it.each(Object.entries(mutants))("%s", async (_name, settings) => {
    const { violations } = await runSchedules(2000, { settings, most: 1 });
    expect(violations).toHaveLength(1);
  });
});
