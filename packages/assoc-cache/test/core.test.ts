/** The pure decisions: sets, frame table, streams, runs, cleaning plan. */
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { CleaningPlan } from "../src/core/cleaning-plan.ts";
import { FrameTable, NONE, facts, states } from "../src/core/frame-table.ts";
import { runsOf } from "../src/core/runs.ts";
import { Sets } from "../src/core/sets.ts";
import { STREAMS, Streams } from "@dmkit/block-io";
import type { Geometry } from "../src/format/geometry.ts";

/** The definition, word for word, in arbitrary precision. */
function setByDefinition(sector: bigint, { frames, blockSectors, ways }: Geometry): number {
  const log2 = (value: number): bigint => BigInt(Math.log2(value));
  const v = sector >> (log2(blockSectors) + log2(Math.min(ways, 512)));
  const hash = (v * 0x9e37fffffffc0001n) % 2n ** 64n;
  return Number((hash >> (64n - log2(frames))) / BigInt(ways));
}

describe("sets", () => {
  const large: Geometry = { frames: 65_536, blockSectors: 8, ways: 1024 };

  it.each([
    [4095, 0],
    [4096, 39],
    [8192, 15],
    [40_960, 11],
    [123_456_789, 50],
    [2 ** 32, 63],
    [2 ** 40 + 12_345, 54],
  ])("sector %d is in set %d", (sector, set) => {
    expect(new Sets(large).of(Math.floor(sector / 8))).toBe(set);
  });

  it("of a cache of small sets", () => {
    expect(new Sets({ frames: 1024, blockSectors: 64, ways: 8 }).of(Math.floor(123_456_789 / 64))).toBe(127);
  });

  it("is one for a cache of one block", () => {
    const one = new Sets({ frames: 1, blockSectors: 8, ways: 1 });
    for (const block of [0, 1, 2 ** 40]) expect(one.of(block)).toBe(0);
  });

  it("equals the definition for 120,000 sectors of all geometries", () => {
    const random = new SeededRandom(20_261_120);
    for (let round = 0; round < 1200; round += 1) {
      const frames = 2 ** random.below(29);
      const ways = 2 ** random.below(Math.log2(frames) + 1);
      const geometry = { frames, ways, blockSectors: 2 ** random.below(12) };
      const sets = new Sets(geometry);
      const top = 2 ** (8 + random.below(37));
      for (let index = 0; index < 100; index += 1) {
        const sector = Math.floor((random.below(2 ** 30) / 2 ** 30) * top) + random.below(512);
        const set = sets.of(Math.floor(sector / geometry.blockSectors));
        if (set !== setByDefinition(BigInt(sector), geometry)) {
          throw new Error(`sector ${sector}, ${JSON.stringify(geometry)}: set ${set}`);
        }
      }
    }
  });
});

describe("frame table", () => {
  it.each([1, 2, 8, 64])("keeps its invariants under random changes, %d ways", (ways) => {
    const geometry = { frames: 64, blockSectors: 8, ways };
    const table = new FrameTable(geometry);
    const random = new SeededRandom(ways);
    const model = new Map<number, number>();
    /** Blocks of clean, unheld frames, the least recently used first. */
    let order: number[] = [];
    for (let step = 0; step < 4000; step += 1) {
      const block = random.below(300);
      const frame = table.find(block);
      expect(frame).toBe(model.get(block) ?? NONE);
      if (frame === NONE) {
        let place = table.freeFrame(block);
        if (place === NONE) {
          const victim = table.oldestEvictable(block);
          const set = table.sets.of(block);
          const oldest = order.find((candidate) => table.sets.of(candidate) === set);
          expect(victim).toBe(oldest === undefined ? NONE : model.get(oldest));
          if (victim === NONE) continue;
          model.delete(table.blockOf(victim));
          order = order.filter((one) => one !== oldest);
          table.release(victim);
          place = table.freeFrame(block);
          expect(place).toBe(victim);
        }
        expect(Math.floor(place / ways)).toBe(table.sets.of(block));
        table.bind(place, block);
        model.set(block, place);
        table.setState(place, states.clean);
        order.push(block);
      } else if (table.stateOf(frame) === states.clean) {
        if (random.chance(0.1)) {
          table.release(frame);
          model.delete(block);
        } else if (random.chance(0.2)) table.setState(frame, states.dirty);
        else table.use(frame);
        order = order.filter((one) => one !== block);
        if (model.has(block) && !table.isDirty(frame)) order.push(block);
      } else {
        table.setState(frame, random.chance(0.5) ? states.written : states.dirty);
        if (random.chance(0.3)) {
          table.setState(frame, states.clean);
          order.push(block);
        }
      }
      const dirty = [...model.values()].filter((one) => table.isDirty(one));
      expect(table.dirty).toBe(dirty.length);
      expect(table.dirtyFrames.count()).toBe(dirty.length);
      expect(table.bound).toBe(model.size);
    }
  });

  it("does not let a held frame go", () => {
    const table = new FrameTable({ frames: 1, blockSectors: 8, ways: 1 });
    table.bind(0, 5);
    table.addFacts(0, facts.held);
    table.setState(0, states.clean);
    expect(table.oldestEvictable(0)).toBe(NONE);
    expect(() => table.release(0)).toThrow();
    table.removeFacts(0, facts.held);
    expect(table.oldestEvictable(0)).toBe(0);
  });

  it("needs at most 32 bytes a frame", () => {
    const frames = 2 ** 18;
    for (const ways of [1, 1024, frames]) {
      const before = process.memoryUsage().arrayBuffers;
      const table = new FrameTable({ frames, blockSectors: 8, ways });
      const used = process.memoryUsage().arrayBuffers - before;
      expect(used / frames).toBeLessThanOrEqual(32);
      expect(table.bound).toBe(0);
    }
  });
});

describe("streams", () => {
  it("finds sequential requests among others, and only from the cutoff on", () => {
    const streams = new Streams(64);
    const found: boolean[] = [];
    for (let step = 0; step < 8; step += 1) {
      found.push(streams.bypasses(step * 16, 16));
      for (let other = 0; other < 100; other += 1) {
        expect(streams.bypasses(1_000_000 + step * 100_000 + other * 64, 16)).toBe(false);
      }
    }
    expect(found).toEqual([false, false, false, true, true, true, true, true]);
  });

  it("forgets the oldest of more than it can remember, and nothing is bypassed at cutoff 0", () => {
    const streams = new Streams(32);
    streams.bypasses(0, 16);
    for (let other = 0; other < STREAMS; other += 1) streams.bypasses(1000 + other * 100, 16);
    expect(streams.bypasses(16, 16)).toBe(false);
    streams.cutoff = 0;
    for (let at = 0; at < 1000; at += 16) expect(streams.bypasses(at, 16)).toBe(false);
  });
});

describe("runs", () => {
  it("joins neighbours in frames and out of frames", () => {
    expect(runsOf(10, [4, 5, 6, -1, -1, -2, 9, 3])).toEqual([
      { block: 10, frame: 4, count: 3 },
      { block: 13, frame: -1, count: 2 },
      { block: 15, frame: -2, count: 1 },
      { block: 16, frame: 9, count: 1 },
      { block: 17, frame: 3, count: 1 },
    ]);
    expect(runsOf(0, [-1, -1, -1], 2).map(({ count }) => count)).toEqual([2, 1]);
  });
});

describe("cleaning plan", () => {
  function tableWith(dirty: readonly number[]): FrameTable {
    const table = new FrameTable({ frames: 16, blockSectors: 8, ways: 16 });
    for (const block of dirty) {
      const frame = table.freeFrame(block);
      table.bind(frame, block);
      table.setState(frame, states.dirty);
    }
    return table;
  }

  it("starts above the high watermark and stops at the low one", () => {
    const table = tableWith([0, 1, 2, 3, 4, 5]);
    const plan = new CleaningPlan(table, { high: 6, low: 2 });
    expect(plan.next(16).frames).toEqual([]);
    plan.watermarks = { high: 5, low: 2 };
    const { frames } = plan.next(3);
    expect(frames).toHaveLength(3);
    for (const frame of frames) table.setState(frame, states.clean);
    expect(plan.next(16).frames).toHaveLength(1);
  });

  it("takes urgent frames first, then those that are due, each once", () => {
    const table = tableWith([0, 1, 2, 3]);
    const plan = new CleaningPlan(table, { high: 16, low: 0 });
    plan.allDue();
    plan.urgent(table.find(2));
    expect(plan.next(4)).toEqual({ frames: [table.find(2)], urgent: true });
    expect(plan.next(2).frames).toHaveLength(2);
    expect(plan.next(8).frames).toHaveLength(2);
    expect(plan.next(8).frames).toEqual([]);
    expect(plan.wanted).toBe(false);
  });
});
