/** How often long reads ask where the holes are. */
import { describe, expect, it } from "vitest";
import { HoleSense } from "../src/server/requests/sparse-read.ts";

const LONG = 128 * 1024;

/** How many of `turns` times `depth` reads ask, whose answers come when all of a turn are begun. */
function asked(sense: HoleSense, turns: number, depth: number, holes: boolean): number {
  let count = 0;
  for (let turn = 0; turn < turns; turn += 1) {
    const asking = Array.from({ length: depth }, () => sense.worthAsking(LONG)).filter(Boolean).length;
    for (let answer = 0; answer < asking; answer += 1) sense.learned(holes);
    count += asking;
  }
  return count;
}

describe("long reads", () => {
  it("seldom ask for holes where answers have shown none, also when many are under way", () => {
    const sense = new HoleSense(true);
    asked(sense, 10, 16, false);
    // Every 33rd, or fewer.
    expect(asked(sense, 33, 16, false)).toBeLessThanOrEqual(16);
  });

  it("all ask while answers show some", () => {
    const sense = new HoleSense(true);
    asked(sense, 10, 16, false);
    asked(sense, 3, 16, true);
    expect(asked(sense, 10, 16, true)).toBe(160);
  });

  it("do not ask where nobody could tell, nor short ones", () => {
    expect(new HoleSense(false).worthAsking(LONG)).toBe(false);
    expect(new HoleSense(true).worthAsking(4096)).toBe(false);
  });
});
