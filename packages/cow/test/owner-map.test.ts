import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { OwnerMap } from "../src/core/owner-map.ts";

/** Bytes of dense bitmaps for some pages, with the given sectors set. */
function bitmap(pages: number, ...runs: readonly (readonly [from: number, to: number])[]): Buffer {
  const bytes = Buffer.alloc(pages * 512);
  for (const [from, to] of runs) {
    for (let bit = from; bit < to; bit += 1) bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (1 << (bit & 7));
  }
  return bytes;
}

function runs(map: OwnerMap, from = 0, end: number = map.sectors): [owner: number, length: number][] {
  const found: [number, number][] = [];
  for (let at = from; at < end; ) {
    const stop = map.runEnd(at, end);
    found.push([map.owner(at), stop - at]);
    at = stop;
  }
  return found;
}

describe("the owner map", () => {
  it("takes each sector from the topmost layer whose bit is set, else from the base", () => {
    const map = new OwnerMap(3 * 4096, 3);
    expect(map.isKnown(0, 1)).toBe(false);
    map.merge(0, 3, [
      bitmap(3, [0, 16], [4096, 8192]),
      bitmap(3, [8, 24], [100, 101]),
      bitmap(3, [4096, 4104], [12_287, 12_288]),
    ]);
    expect(map.isKnown(0, map.sectors)).toBe(true);
    expect(runs(map)).toEqual([
      [1, 8],
      [2, 16],
      [0, 76],
      [2, 1],
      [0, 3995],
      [3, 8],
      [1, 4088],
      [0, 4095],
      [3, 1],
    ]);
    expect([1, 2, 3].map((layer) => map.allocated(layer))).toEqual([16 + 4096, 17, 9]);
  });

  it("sets all bits of a write, whatever its first one was", () => {
    const map = new OwnerMap(4096, 1);
    map.merge(0, 1, [bitmap(1)]);
    expect(map.markWritten(0, 1)).toBe(true);
    expect(map.markWritten(0, 4)).toBe(true);
    expect(map.markWritten(0, 4)).toBe(false);
    const image = Buffer.alloc(512);
    map.image(0, image, 0);
    expect(image[0]).toBe(0x0f);
    expect(map.allocated(1)).toBe(4);
  });

  it("knows what is stable: only what was in an image that has been committed", () => {
    const map = new OwnerMap(3 * 4096, 1);
    map.merge(0, 3, [bitmap(3)]);
    map.markWritten(4090, 10);
    expect(map.isStable(4090, 10)).toBe(false);
    const pages = map.takeDirty();
    expect(pages).toEqual([0, 1]);
    expect(map.hasDirty).toBe(false);
    map.markWritten(5000, 1);
    map.committed(pages);
    expect(map.isStable(4090, 6)).toBe(true);
    expect(map.isStable(4096, 4)).toBe(false);
    expect(map.takeDirty()).toEqual([1]);
    map.committed([1]);
    expect(map.isStable(4090, 10)).toBe(true);
    expect(map.isStable(4089, 10)).toBe(false);
  });

  it("leaves what is known alone when it is merged again", () => {
    const map = new OwnerMap(4096, 1);
    map.merge(0, 1, [bitmap(1)]);
    map.markWritten(5, 1);
    map.merge(0, 1, [bitmap(1)]);
    expect(map.owner(5)).toBe(1);
  });

  it("goes on with a new layer on top", () => {
    const map = new OwnerMap(2 * 4096, 1);
    map.merge(0, 2, [bitmap(2)]);
    map.markWritten(0, 4096 + 8);
    expect(() => map.push()).toThrow(/cannot be frozen/);
    map.committed(map.takeDirty());
    expect(map.push()).toBe(2);
    expect(map.markWritten(8, 8)).toBe(true);
    expect(runs(map)).toEqual([
      [1, 8],
      [2, 8],
      [1, 4088],
      [0, 4088],
    ]);
    const image = Buffer.alloc(512);
    map.image(0, image, 0);
    expect([...image.subarray(0, 3)]).toEqual([0, 0xff, 0]);
  });

  it("answers like a plain array under random writes", () => {
    const seed = 1 + (process.pid % 100_000);
    const random = new SeededRandom(seed);
    const sectors = 3 * 4096 + 77;
    const map = new OwnerMap(sectors, 2);
    const lower = Array.from({ length: 40 }, () => {
      const from = random.below(sectors);
      return [from, Math.min(sectors, from + 1 + random.below(random.chance(0.5) ? 9 : 2000))] as const;
    });
    const model = new Uint8Array(sectors);
    for (const [from, to] of lower) model.fill(1, from, to);
    map.merge(0, 4, [bitmap(4, ...lower), bitmap(4)]);
    for (let step = 0; step < 400; step += 1) {
      const from = random.below(sectors);
      const grain = random.chance(0.5) ? 8 : 1;
      const start = Math.floor(from / grain) * grain;
      const count = Math.min(sectors - start, grain * (1 + random.below(random.chance(0.1) ? 5000 : 20)));
      map.markWritten(start, count);
      model.fill(2, start, start + count);
      for (let look = 0; look < 5; look += 1) {
        const at = random.below(sectors);
        const end = at + 1 + random.below(sectors - at);
        let stop = at;
        while (stop < end && model[stop] === model[at]) stop += 1;
        expect([map.owner(at), map.runEnd(at, end)], `seed ${seed} step ${step}`).toEqual([model[at], stop]);
      }
    }
    expect(map.allocated(2)).toBe(model.filter((owner) => owner === 2).length);
    const image = Buffer.alloc(4 * 512);
    for (let page = 0; page < 4; page += 1) map.image(page, image, page * 512);
    for (let at = 0; at < 4 * 4096; at += 1) {
      expect(((image[at >> 3] ?? 0) >> (at & 7)) & 1, `seed ${seed} sector ${at}`).toBe(
        model[at] === 2 ? 1 : 0,
      );
    }
  });
});
