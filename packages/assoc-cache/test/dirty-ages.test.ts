/** For how long the oldest of what is dirty has been so. */
import { describe, expect, it } from "vitest";
import { DirtyAges } from "../src/core/dirty-ages.ts";

describe("the age of the oldest dirty frame", () => {
  it("is to ten seconds that of a list", () => {
    const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
    let state = seed >>> 0;
    const random = (below: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    let now = 5;
    const ages = new DirtyAges(50, () => now);
    const since = new Map<number, number>();
    for (let step = 0; step < 3000; step += 1) {
      now += random(20_000);
      const frame = random(50);
      if (since.has(frame)) since.delete(frame);
      else since.set(frame, now);
      ages.changed(frame, since.has(frame));
      const oldest = since.size === 0 ? 0 : (now - Math.min(...since.values())) / 1000;
      const told = ages.oldest(now);
      expect(told >= oldest && told <= oldest + 10, `seed ${seed}, step ${step}: ${told} for ${oldest}`).toBe(
        true,
      );
    }
  });

  it("is never too low, however long something stays dirty", () => {
    let now = 0;
    const ages = new DirtyAges(3, () => now);
    ages.changed(0, true);
    now = 100 * 3_600_000;
    ages.changed(1, true);
    expect(ages.oldest(now)).toBe(360_000);
    ages.changed(0, false);
    // It counts as from the last span there was room for.
    expect(ages.oldest(now)).toBeGreaterThanOrEqual(0);
    ages.changed(1, false);
    expect(ages.oldest(now)).toBe(0);
    ages.changed(2, true);
    now += 60_000;
    expect(ages.oldest(now)).toBeGreaterThanOrEqual(60);
    expect(ages.oldest(now)).toBeLessThan(70);
  });
});
