/** A log adopted at once is the same as one adopted block by block. */
import { SeededRandom } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { BlockMap } from "../src/core/block-map.ts";

it.each([
  ["narrow keys, one part", 40, 31, 2000, 1000],
  ["narrow keys, many parts", 1200, 127, 500_000, 2 ** 30],
  ["the table as full as it gets", 2000, 127, 2 ** 31, 2 ** 31],
  ["wide keys", 2000, 127, 100_000, 2 ** 33],
])("%s", (_name, slots, blocks, keys, backing) => {
  const seed = slots + keys;
  const random = new SeededRandom(seed);
  const one = new BlockMap(slots, blocks, backing);
  const all = new BlockMap(slots, blocks, backing);
  for (const map of [one, all]) {
    const same = new SeededRandom(seed);
    for (let slot = 0; slot < slots; slot += 1) map.lengths[slot] = same.below(blocks + 1);
    for (let index = 0; index < map.keys.length; index += 1) {
      map.keys[index] = same.below(keys) + (backing > 2 ** 32 ? 2 ** 32 : 0);
      map.dirty[index] = same.below(2) * 0xff;
    }
  }
  const from = random.below(slots);
  const order = Float64Array.from({ length: slots }, (_, at) => (from + at) % slots);
  const pairs: [number, number][] = [];
  for (const slot of order) {
    for (let index = slot * blocks; index < slot * blocks + (one.lengths[slot] ?? 0); index += 1) {
      const previous = one.find(one.keys[index] ?? 0);
      one.adopt(index, previous);
      if (previous >= 0) pairs.push([index, previous]);
    }
  }
  const seen: [number, number][] = [];
  all.adoptAll(order, (index, previous) => void seen.push([index, previous]));
  expect(all.dirtyBlocks).toBe(one.dirtyBlocks);
  const sorted = (list: [number, number][]): [number, number][] => list.toSorted((a, b) => a[0] - b[0]);
  expect(sorted(seen)).toEqual(sorted(pairs));
  for (let index = 0; index < one.keys.length; index += 7)
    expect(all.find(all.keys[index] ?? 0)).toBe(one.find(one.keys[index] ?? 0));
});
