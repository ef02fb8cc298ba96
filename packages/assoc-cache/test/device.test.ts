/** The running cache, feature by feature. */
import { realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { states } from "../src/core/frame-table.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { block, figures, readSectors, rig, settled } from "./support/rig.ts";

const WB = { policy: "write-back" };

describe("reads", () => {
  it("fetches the whole block, then reads from the cache", async () => {
    const { source, cache, open } = rig({ block_size: 64, cache_size: 16, associativity: 16 });
    const device = await open();
    await source.lower.write(0, block(7, 64));
    expect(await readSectors(device, 3, 1)).toEqual(block(7, 1));
    await settled();
    expect(source.counts.read).toBe(1);
    const before = cache.counts.read;
    expect(await readSectors(device, 40, 20)).toEqual(block(7, 20));
    expect(source.counts.read).toBe(1);
    expect(cache.counts.read).toBe(before + 1);
    await device.close();
  });

  it("reads the short last block, and caches it", async () => {
    const { source, open } = rig({}, 2003);
    const device = await open();
    await source.lower.write(2000 * 512, block(9, 3));
    expect(await readSectors(device, 2000, 3)).toEqual(block(9, 3));
    await settled();
    expect(await readSectors(device, 2002, 1)).toEqual(block(9, 1));
    expect(source.counts.read).toBe(1);
    await device.close();
  });

  it("waits for a block that is being filled, and counts a hit", async () => {
    const { source, cache, open } = rig();
    const device = await open();
    let go!: () => void;
    cache.hold = new Promise((resolve) => (go = resolve));
    await readSectors(device, 0);
    const second = readSectors(device, 0);
    await settled();
    cache.hold = undefined;
    go();
    await second;
    expect(source.counts.read).toBe(1);
    expect(device.status()).toMatch(
      /^stats: reads\(2\), writes\(0\), cache hits\(1, 0\.50\),replacement\(0\)/,
    );
    await device.close();
  });

  it("goes past the cache with a sequential stream", async () => {
    const { open } = rig({ sequential_cutoff: 16_384 });
    const device = await open();
    for (let at = 0; at < 2000; at += 8) await readSectors(device, at);
    await settled();
    expect(Number(figures(device)["used"])).toBeLessThanOrEqual(4);
    await device.close();
  });

  it.each([
    ["with", 16_384],
    ["without", 0],
  ])("%s bypass, a scan larger than the cache and the hit rate of the hot set", async (how, cutoff) => {
    const { open } = rig({ sequential_cutoff: cutoff, cache_size: 64, associativity: 64 });
    const device = await open();
    const hot = Array.from({ length: 40 }, (_, index) => ((index * 17) % 200) * 8);
    /** Share of the hot set that is read from the cache, in %, as the device counts it. */
    const hitRate = async (): Promise<number> => {
      const before = Number(figures(device)["read_hits"]);
      for (const sector of hot) await readSectors(device, sector);
      await settled();
      return ((Number(figures(device)["read_hits"]) - before) * 100) / hot.length;
    };
    await hitRate();
    const before = await hitRate();
    expect(before).toBe(100);
    for (let at = 0; at < 2000; at += 8) await readSectors(device, at);
    await settled();
    const after = await hitRate();
    if (how === "with") expect(after).toBeGreaterThanOrEqual(before - 5);
    // Least recent use alone keeps the end of the scan.
    else expect(after).toBeLessThan(before - 5);
    await device.close();
  });

  it("reads without caching when all buffers are in use", async () => {
    const { cache, open } = rig({ pool: 131_072 });
    const device = await open();
    let go!: () => void;
    cache.hold = new Promise((resolve) => (go = resolve));
    for (let index = 0; index < 10; index += 1) await readSectors(device, index * 8);
    expect(device.state.pool.outstanding).toBe(2);
    cache.hold = undefined;
    go();
    await settled();
    expect(device.state.pool.outstanding).toBe(0);
    expect(Number(figures(device)["used"])).toBe(2);
    await device.close();
  });
});

describe("writes", () => {
  it("write-through: invalidates, or updates, the cached block", async () => {
    for (const write_hit of ["invalidate", "update"]) {
      const { source, open } = rig({ write_hit });
      const device = await open();
      await readSectors(device, 0);
      await settled();
      await device.write(512, block(5, 2));
      const before = source.counts.read;
      const expected = Buffer.concat([block(0, 1), block(5, 2), block(0, 5)]);
      expect(await readSectors(device, 0)).toEqual(expected);
      expect(source.counts.read - before).toBe(write_hit === "update" ? 0 : 1);
      expect(await readSectors(source.lower, 0)).toEqual(expected);
      await device.close();
    }
  });

  it("write-back: stays in the cache until close", async () => {
    const { source, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.write(8 * 512, block(2));
    await device.flush();
    expect(source.counts.write).toBe(0);
    expect(figures(device)["dirty"]).toBe("2");
    await device.close();
    // Neighbours in source and cache go in one piece.
    expect(source.counts.write).toBe(1);
    expect(await readSectors(source.lower, 0, 16)).toEqual(Buffer.concat([block(1), block(2)]));
  });

  it("write-back: fetches only head and tail of a block it covers in part", async () => {
    const { source, open } = rig({ ...WB, block_size: 64, cache_size: 16, associativity: 16 });
    await source.lower.write(0, block(3, 128));
    const device = await open();
    await device.write(8 * 512, block(4, 8));
    expect(source.counts.read).toBe(2);
    await device.write(64 * 512, block(5, 8));
    expect(source.counts.read).toBe(3);
    expect(await readSectors(device, 0, 128)).toEqual(
      Buffer.concat([block(3, 8), block(4, 8), block(3, 48), block(5, 8), block(3, 56)]),
    );
    await device.close();
  });

  it("write-back: a set full of dirty blocks sends the write to the source and makes room", async () => {
    const { source, open } = rig({ ...WB, cache_size: 4, associativity: 4 });
    const device = await open();
    for (let index = 0; index < 5; index += 1) await device.write(index * 4096, block(index + 1));
    await settled();
    expect(device.status()).toContain("replaced dirty blocks(1)");
    expect(figures(device)["dirty"]).toBe("3");
    for (let index = 0; index < 5; index += 1) {
      expect(await readSectors(device, index * 8)).toEqual(block(index + 1));
    }
    expect(await readSectors(source.lower, 32)).toEqual(block(5));
    await device.close();
  });

  it("a flush costs at most two flushes of the cache device, and none when nothing was written", async () => {
    const { source, cache, open } = rig({ ...WB, associativity: 64 });
    const device = await open();
    const cost = async (): Promise<number> => {
      const before = cache.counts.flush;
      await device.flush();
      return cache.counts.flush - before;
    };
    expect(await cost()).toBe(0);
    for (let index = 0; index < 40; index += 1) await device.write(index * 4096, block(index));
    expect(await cost()).toBe(2);
    for (let index = 0; index < 40; index += 1) await device.write(index * 4096, block(index + 1));
    // Their entries are there already.
    expect(await cost()).toBe(1);
    expect(source.counts.flush).toBe(0);
    await device.close();
  });

  it("writes back above the high watermark, down to the low one", async () => {
    const { open } = rig({ ...WB, high_watermark: 50, low_watermark: 25, associativity: 64 });
    const device = await open();
    for (let index = 0; index < 33; index += 1) await device.write(index * 4096, block(index));
    await settled();
    expect(figures(device)["dirty"]).toBe("16");
    await device.close();
  });

  it("writes back what is too old", async () => {
    const { source, cache } = rig();
    let tick: () => void = () => {};
    const after = (_: number, callback: () => void): { cancel(): void } => {
      tick = callback;
      return { cancel() {} };
    };
    const environment = { ...realEnvironment, clock: { ...realEnvironment.clock, after } };
    const options = { cache_size: 64, associativity: 64, ...WB, age_limit: 1 };
    const device = await openOn(source, cache, options, environment);
    await device.write(0, block(1));
    tick();
    await settled();
    expect(figures(device)["dirty"]).toBe("0");
    await device.close();
  });

  it("keeps a dirty block whose writeback fails, and says so at close", async () => {
    const { source, open } = rig(WB);
    const device = await open();
    await device.write(0, block(8));
    source.failsWrites = true;
    await expect(device.message(["clean"])).rejects.toMatchObject({ code: "EIO" });
    expect(figures(device)).toMatchObject({ dirty: "1", writeback_errors: "1" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
    source.failsWrites = false;
    const again = await open({ persistence: 1 });
    expect(figures(again)["dirty"]).toBe("1");
    expect(await readSectors(again, 0)).toEqual(block(8));
    await again.close();
    expect(await readSectors(source.lower, 0)).toEqual(block(8));
  });
});

describe("errors", () => {
  it("a fill that fails leaves nothing reserved", async () => {
    const { cache, open } = rig();
    const device = await open();
    cache.failsWrites = true;
    await readSectors(device, 0);
    await settled();
    const { frames, lock } = device.state;
    for (let frame = 0; frame < 64; frame += 1) expect(frames.stateOf(frame)).toBe(states.free);
    expect(lock.pending).toBe(0);
    await device.close();
  });

  it("a source that fails while a block is completed leaves nothing reserved", async () => {
    const { source, open } = rig(WB);
    const device = await open();
    source.pulled = true;
    await expect(device.write(512, block(1, 1))).rejects.toMatchObject({ code: "EIO" });
    source.pulled = false;
    await device.write(512, block(2, 1));
    expect(await readSectors(device, 0, 2)).toEqual(Buffer.concat([block(0, 1), block(2, 1)]));
    expect(figures(device)).toMatchObject({ used: "1", dirty: "1" });
    await device.close();
  });

  it.each(["write-through", "write-around", "pass-through"])(
    "%s goes on without its cache device",
    async (policy) => {
      const { source, cache, open } = rig({ policy });
      const device = await open();
      await readSectors(device, 0);
      await settled();
      cache.pulled = true;
      await device.write(0, block(4));
      await device.write(80 * 512, block(5));
      expect(await readSectors(device, 0)).toEqual(block(4));
      expect(await readSectors(device, 80)).toEqual(block(5));
      await readSectors(device, 160);
      await device.flush();
      await settled();
      if (policy !== "pass-through") expect(figures(device)["health"]).toBe("cache-failed");
      await device.close();
      expect(await readSectors(source.lower, 0)).toEqual(block(4));
    },
  );

  it("write-back answers EIO for dirty blocks only", async () => {
    const { source, cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    await readSectors(device, 80);
    await settled();
    cache.pulled = true;
    await expect(readSectors(device, 0)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.write(0, block(2))).rejects.toMatchObject({ code: "EIO" });
    expect(await readSectors(device, 80)).toEqual(block(0));
    await device.write(80 * 512, block(3));
    await device.write(160 * 512, block(4));
    await device.write(240 * 512, block(5, 3));
    expect(await readSectors(device, 80)).toEqual(block(3));
    expect(await readSectors(device, 160)).toEqual(block(4));
    await expect(device.discard(0, 4096)).rejects.toMatchObject({ code: "EIO" });
    // All that was dirty had been flushed, so there is nothing a flush would have to lie about.
    await device.flush();
    expect(figures(device)).toMatchObject({ health: "cache-failed", dirty: "1" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
    cache.pulled = false;
    expect(await readSectors(source.lower, 160)).toEqual(block(4));
    const again = await open({ persistence: 1 });
    expect(await readSectors(again, 0)).toEqual(block(1));
    expect(await readSectors(again, 80)).toEqual(block(3));
    await again.close();
  });

  it("a write to a clean block that meets a dead cache goes to the source", async () => {
    const { source, cache, open } = rig(WB);
    const device = await open();
    await readSectors(device, 0);
    await settled();
    cache.pulled = true;
    await device.write(0, block(6));
    expect(await readSectors(device, 0)).toEqual(block(6));
    expect(await readSectors(source.lower, 0)).toEqual(block(6));
    await device.flush();
    await device.close();
  });

  it("a flush fails as long as acknowledged data is on a dead cache only", async () => {
    const { cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    cache.pulled = true;
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
  });

  it("a failed flush of the source fails the device", async () => {
    const { source, open } = rig();
    const device = await open();
    await device.write(0, block(1));
    source.pulled = true;
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    source.pulled = false;
    await expect(device.write(0, block(2))).rejects.toMatchObject({ code: "EIO" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
  });
});

describe("close", () => {
  it("waits for blocks that are being filled, and stores them as they are", async () => {
    const { source, cache, open } = rig();
    await source.lower.write(0, block(5));
    const device = await open();
    let go!: () => void;
    // The block alone; what close writes would pass.
    cache.holdsWritesOf = 4096;
    cache.hold = new Promise((resolve) => (go = resolve));
    await readSectors(device, 0);
    let closed = false;
    const closing = device.close().then(() => (closed = true));
    await settled();
    expect(closed).toBe(false);
    // Nothing was stored while the block was on its way.
    const table = Buffer.alloc(512);
    await cache.lower.read(8 * 512, table);
    expect(table.subarray(0, 504)).toEqual(Buffer.alloc(504));
    go();
    cache.hold = undefined;
    await closing;
    const again = await open({ persistence: 1 });
    source.counts.read = 0;
    expect(await readSectors(again, 0)).toEqual(block(5));
    expect(source.counts.read).toBe(0);
    await again.close();
  });
});

describe("messages", () => {
  it("switches the policy while requests go on", async () => {
    const { source, open } = rig(WB);
    const device = await open();
    for (let index = 0; index < 20; index += 1) await device.write(index * 4096, block(index));
    const during = device.write(0, block(99));
    await device.message(["policy", "write-through"]);
    await during;
    await device.message(["clean"]);
    expect(figures(device)).toMatchObject({ policy: "write-through", dirty: "0" });
    expect(await readSectors(source.lower, 0)).toEqual(block(99));
    expect(await readSectors(source.lower, 8)).toEqual(block(1));
    await device.write(0, block(7));
    expect(await readSectors(source.lower, 0)).toEqual(block(7));
    await device.message(["policy", "write-back"]);
    await device.write(0, block(8));
    expect(await readSectors(source.lower, 0)).toEqual(block(7));
    await device.close();
    expect((await open({ persistence: 1 })).policy).toBe("write-back");
  });

  it("invalidates a range, dirty blocks not lost", async () => {
    const { source, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await readSectors(device, 80);
    await settled();
    await device.message(["invalidate", "0", "2000"]);
    expect(figures(device)["used"]).toBe("0");
    expect(await readSectors(source.lower, 0)).toEqual(block(1));
    await expect(device.message(["invalidate", "1", "2000"])).rejects.toMatchObject({ code: "EINVAL" });
    await device.close();
  });

  it("says what it is in the historical words", async () => {
    const { open } = rig();
    const device = await open();
    expect(await device.message(["table"])).toBe(
      "conf: capacity(0M), associativity(16), block size(4K), write-through",
    );
    for (let index = 0; index < 20; index += 1) {
      await readSectors(device, (index % 19) * 8);
      await settled();
    }
    expect(device.status()).toMatch(
      /^stats: reads\(20\), writes\(0\), cache hits\(1, 0\.5\),replacement\(\d+\), replaced dirty blocks\(0\) policy /,
    );
    await expect(device.message(["nonsense"])).rejects.toMatchObject({ code: "EINVAL" });
    await expect(device.message(["policy", "nonsense"])).rejects.toMatchObject({ code: "EINVAL" });
    // Not below the low one.
    await expect(device.message(["set", "high_watermark", "10"])).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining("0 … 10"),
    });
    await device.message(["set", "low_watermark", "5"]);
    await device.message(["set", "high_watermark", "10"]);
    expect(device.tuning.high_watermark).toBe(10);
    await expect(device.message(["set", "high_watermark", "101"])).rejects.toMatchObject({ code: "EINVAL" });
    await expect(device.message(["set", "pool", "1M"])).rejects.toMatchObject({ code: "EINVAL" });
    await device.close();
  });
});
