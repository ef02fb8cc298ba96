/** What steers a cache while it runs; time is moved by hand. */
import { BlockIoError, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { ManualClock, contentsOf, manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it, vi } from "vitest";
import type { AssocCacheDevice } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { block, readSectors, rig, settled } from "./support/rig.ts";

interface Steered {
  readonly clock: ManualClock;
  readonly device: AssocCacheDevice;
  readonly writtenBack: () => number;
}

/** A cache that writes back, over devices in memory. */
async function steered(options: Readonly<Record<string, unknown>> = {}): Promise<Steered> {
  const clock = new ManualClock();
  const { open } = rig({ policy: "write-back", ...options }, 2000, manualEnvironment(1, clock));
  const device = await open();
  return { clock, device, writtenBack: () => device.state.statistics.writtenBack };
}

/** All that is dirty is to be written back, at once. */
const eager = { high_watermark: 0, low_watermark: 0 };

/** Makes the blocks dirty. */
async function dirty({ device }: Steered, first: number, count: number): Promise<void> {
  for (let at = first; at < first + count; at += 1) await device.write(at * 4096, block(at + 1));
}

describe("the pace of the background", () => {
  it("writeback_rate is what it writes in a second, and not a batch a second", async () => {
    const rig = await steered({ ...eager, associativity: 64, writeback_rate: 4 * 4096 });
    await dirty(rig, 0, 40);
    for (let second = 0; second < 10; second += 1) {
      await rig.clock.pass(1000);
      const allowed = 4 * (second + 2); // what was begun at the ends included
      expect(rig.writtenBack()).toBeLessThanOrEqual(allowed);
      expect(rig.writtenBack()).toBeGreaterThanOrEqual(Math.min(40, allowed - 7));
    }
    await rig.clock.pass(2000);
    expect(rig.writtenBack()).toBe(40);
    await rig.device.close();
  });

  it("writeback_rate holds nobody up who waits, and can be taken away", async () => {
    const rig = await steered({ ...eager, writeback_rate: 1 });
    await dirty(rig, 0, 12);
    await rig.clock.pass(10_000);
    expect(rig.writtenBack()).toBe(1);
    await rig.device.message(["clean"]);
    expect(rig.writtenBack()).toBe(12);
    await dirty(rig, 0, 12);
    await rig.clock.pass(10_000);
    expect(rig.writtenBack()).toBe(12);
    await rig.device.message(["writeback_rate", "0"]);
    await rig.clock.pass(0);
    expect(rig.writtenBack()).toBe(24);
    await dirty(rig, 0, 1);
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it("writeback_pause waits until clients have asked for nothing for so long", async () => {
    const rig = await steered({ ...eager, writeback_pause: 1000 });
    for (let at = 0; at < 20; at += 1) {
      await dirty(rig, at, 1);
      await rig.clock.pass(500);
    }
    expect(rig.writtenBack()).toBe(0);
    // Reads are requests, too.
    const into = block(0);
    for (let at = 0; at < 20; at += 1) {
      await rig.device.read(0, into);
      await rig.clock.pass(900);
    }
    expect(rig.writtenBack()).toBe(0);
    await rig.clock.pass(1100);
    expect(rig.writtenBack()).toBe(20);
    await rig.device.close();
  });

  it("writeback_pause does not keep a full set from being emptied", async () => {
    const rig = await steered({ high_watermark: 100, writeback_pause: 3_600_000 });
    // 16 frames are a set, and neighbours share one: more blocks than there are frames.
    await dirty(rig, 0, 200);
    await rig.clock.pass(0);
    expect(rig.writtenBack()).toBeGreaterThan(0);
    await rig.device.close();
  });
});

describe("what is put into the cache", () => {
  /** Reads the block; whether it was in the cache. */
  async function reads({ device }: Steered, at: number): Promise<boolean> {
    const before = device.state.statistics.readHits;
    const into = block(0);
    await device.read(at * 4096, into);
    await settled();
    return device.state.statistics.readHits > before;
  }

  it("promote_after is for which miss a block is put there; 0: writes alone do that", async () => {
    const rig = await steered({ promote_after: 3 });
    const seen: boolean[] = [];
    for (let round = 0; round < 5; round += 1) seen.push(await reads(rig, 7));
    expect(seen).toEqual([false, false, false, true, true]);
    await rig.device.message(["promote_after", "0"]);
    seen.length = 0;
    for (let round = 0; round < 5; round += 1) seen.push(await reads(rig, 8));
    expect(seen).toEqual([false, false, false, false, false]);
    // It is no stream that went past the cache, and what is written is there.
    expect(rig.device.state.statistics.bypassed).toBe(0);
    await dirty(rig, 9, 1);
    expect([await reads(rig, 9), await reads(rig, 7)]).toEqual([true, true]);
    await rig.device.message(["promote_after", "1"]);
    expect([await reads(rig, 8), await reads(rig, 8)]).toEqual([false, true]);
    await rig.device.close();
  });

  it("read_sequential_cutoff is for reads alone; without it they have that of writes", async () => {
    const rig = await steered({ sequential_cutoff: 4096 });
    const all = async (first: number): Promise<number> => {
      const before = rig.device.state.frames.bound;
      for (let at = first; at < first + 4; at += 1) await reads(rig, at);
      return rig.device.state.frames.bound - before;
    };
    expect(await all(0)).toBe(0);
    expect(rig.device.facts()).toMatchObject({ read_sequential_cutoff: 4096 });
    expect(rig.device.settings()).toMatchObject({ read_sequential_cutoff: undefined });
    await rig.device.message(["read_sequential_cutoff", "0"]);
    expect(await all(20)).toBe(4);
    expect(rig.device.settings()).toMatchObject({ read_sequential_cutoff: 0, sequential_cutoff: 4096 });
    await dirty(rig, 40, 4);
    expect(rig.device.state.frames.dirty).toBe(0);
    await rig.device.message(["read_sequential_cutoff", "4096"]);
    await rig.device.message(["sequential_cutoff", "0"]);
    expect(await all(60)).toBe(0);
    await dirty(rig, 80, 4);
    expect(rig.device.state.frames.dirty).toBe(4);
    await rig.device.close();
  });
});

describe("discard_cache", () => {
  it("gives back frames that are emptied for good, once nothing refers to them, and no others", async () => {
    const { source, cache, open } = rig({ policy: "write-back" });
    const device = await open();
    const asked: number[] = [];
    const left: { source: Buffer; cache: Buffer }[] = [];
    const discard = vi.spyOn(cache.lower, "discard").mockImplementation(async (_offset, length) => {
      asked.push(length);
      left.push({ source: await contentsOf(source.lower), cache: await contentsOf(cache.lower) });
    });
    await device.write(0, block(5, 16));
    await device.flush();
    await device.discard(0, 4096);
    expect(asked).toEqual([]);
    await device.message(["discard_cache", "1"]);
    // Written over, not gone.
    await device.write(4096, block(6));
    await device.flush();
    await device.message(["invalidate", "0", "2000"]);
    expect(asked).toEqual([4096]);
    // What is on the devices at that moment needs nothing of the frame.
    const [images] = left as [{ source: Buffer; cache: Buffer }];
    const [below, fast] = [new MemoryDevice(images.source.length), new MemoryDevice(images.cache.length)];
    await below.write(0, images.source);
    await fast.write(0, images.cache);
    const crashed = await openOn(below, fast, { persistence: 1 }, realEnvironment);
    expect(crashed.state.frames.dirty).toBe(0);
    expect(await readSectors(crashed, 8)).toEqual(block(6));
    await crashed.close();
    // A device that fails it is not the worse for it.
    discard.mockRejectedValue(new BlockIoError("no", { code: "EIO" }));
    await device.write(4096, block(7));
    await device.discard(4096, 4096);
    await device.close();
  });
});

describe("discard_cache on a device that takes no discards", () => {
  it("is refused as a message, and told of when a table has it", async () => {
    const source = new MemoryDevice(2 ** 20);
    const cache = new MemoryDevice(2 ** 20);
    const { limits } = cache;
    const deaf = { ...limits, capabilities: { ...limits.capabilities, discard: "none" as const } };
    Object.defineProperty(cache, "limits", { value: deaf });
    const told: string[] = [];
    const log = (level: string, message: string): void => void (level === "warn" && told.push(message));
    const logger = { log };
    const device = await openOn(
      source,
      cache,
      { cache_size: 16, associativity: 4 },
      { ...realEnvironment, logger },
    );
    await expect(device.message(["discard_cache", "1"])).rejects.toMatchObject({ code: "ENOTSUP" });
    expect(device.settings()).toMatchObject({ discard_cache: 0 });
    await device.close();
    expect(told).toEqual([]);
    const again = await openOn(
      source,
      cache,
      { persistence: 1, discard_cache: 1 },
      { ...realEnvironment, logger },
    );
    expect(told).toEqual(["frames that become free are not discarded"]);
    await again.close();
  });
});

describe("messages", () => {
  it("clean stop ends a clean, and what was written back stays so", async () => {
    const { source, open } = rig({ policy: "write-back" });
    const device = await open();
    for (let at = 0; at < 8; at += 1) await device.write(at * 3 * 4096, block(at + 1));
    let go!: () => void;
    source.hold = new Promise((resolve) => (go = resolve));
    const cleaning = device.message(["clean"]);
    await device.message(["clean", "stop"]);
    await expect(cleaning).rejects.toMatchObject({ code: "ESHUTDOWN" });
    source.hold = undefined;
    go();
    await device.message(["clean"]);
    expect(device.state.frames.dirty).toBe(0);
    await device.close();
  });

  it("clear_stats zeroes what counts requests, and what is told of the last minutes", async () => {
    const { device, clock } = await steered({ write_hit: "update" });
    const into = block(0);
    await device.write(0, block(1));
    await device.read(0, into);
    await device.clean();
    await clock.pass(60_000);
    expect(device.facts()).toMatchObject({ reads: 1, writes: 1, hits_5min: 1, written_back: 1 });
    await device.message(["clear_stats"]);
    expect(device.facts()).toMatchObject({
      reads: 0,
      writes: 0,
      read_hits: 0,
      write_hits: 0,
      blocks_5min: 0,
      hits_5min: 0,
      written_back: 1,
    });
    const { total } = JSON.parse(await device.message(["stats"])) as { total: { read_latency: number[] } };
    expect(total.read_latency.every((count) => count === 0)).toBe(true);
    await device.read(0, into);
    await clock.pass(400_000);
    expect(device.facts()).toMatchObject({ reads: 1, blocks_5min: 0 });
    await device.close();
  });
});
