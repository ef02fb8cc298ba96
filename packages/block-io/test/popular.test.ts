/** Which blocks a cache takes in. */
import { expect, it } from "vitest";
import { Popular } from "../src/index.ts";

it("takes in at once, or never, where nothing is counted", () => {
  const popular = new Popular(8);
  expect([popular.missed(1), popular.missed(1)]).toEqual([true, true]);
  popular.after = 0;
  expect([popular.missed(1), popular.missed(1)]).toEqual([false, false]);
});

it("takes a block in when it was missed so many times, and then begins anew", () => {
  const popular = new Popular(8);
  popular.after = 3;
  expect([1, 1, 2, 1, 2, 1, 2].map((block) => popular.missed(block))).toEqual([
    false,
    false,
    false,
    true,
    false,
    false,
    true,
  ]);
});

it("forgets what has not been missed for long, and counts no more than it is given", () => {
  const popular = new Popular(8);
  popular.after = 2;
  popular.missed(0);
  for (let block = 1; block <= 7; block += 1) popular.missed(block);
  expect([popular.missed(0), popular.missed(7)]).toEqual([true, true]);
  popular.missed(0);
  for (let block = 1; block <= 8; block += 1) popular.missed(100 + block);
  expect(popular.missed(0)).toBe(false);
});
