/** Situations in which caches of this kind went wrong, one by one. */
import { type Logger, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { check, repair } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { type Rig, block, figures, readSectors, rig, settled } from "./support/rig.ts";

const WB = { policy: "write-back" };

/** Holds all requests to a device until the function that comes back is called. */
function held(device: Rig["cache"]): () => void {
  let go!: () => void;
  device.hold = new Promise((resolve) => (go = resolve));
  return () => {
    device.hold = undefined;
    go();
  };
}

/** Whether a promise has settled by now. */
function watched(promise: Promise<unknown>): { over: boolean } {
  const state = { over: false };
  const end = (): void => void (state.over = true);
  promise.then(end, end);
  return state;
}

describe("a block that is being filled", () => {
  it.each(["write-back", "write-through", "write-around"])("makes a write wait: %s", async (policy) => {
    const { source, cache, open } = rig({ policy });
    await source.lower.write(0, block(1));
    const device = await open();
    const release = held(cache);
    expect(await readSectors(device, 0)).toEqual(block(1));
    const writing = device.write(1024, block(2, 3));
    const state = watched(writing);
    await settled();
    expect(state.over).toBe(false);
    release();
    await writing;
    const expected = Buffer.concat([block(1, 2), block(2, 3), block(1, 3)]);
    expect(await readSectors(device, 0)).toEqual(expected);
    // The fill was there when the write came.
    expect(device.state.statistics.writeHits).toBe(1);
    await device.close();
    expect(await readSectors(source.lower, 0)).toEqual(expected);
  });

  it("sets free whoever waits for it when that fails, and closes", async () => {
    const { source, cache, open } = rig(WB);
    const device = await open();
    const release = held(cache);
    await readSectors(device, 0);
    const reading = readSectors(device, 0);
    const writing = device.write(0, block(3));
    await settled();
    cache.failsWrites = true;
    release();
    await reading;
    await writing;
    await settled();
    const { pool, lock } = device.state;
    expect([pool.outstanding, lock.pending]).toEqual([0, 0]);
    expect(await readSectors(device, 0)).toEqual(block(3));
    await device.close();
    expect(await readSectors(source.lower, 0)).toEqual(block(3));
  });
});

describe("a block that cannot be fetched", () => {
  it("is reported, leaves nothing behind, and can be fetched later", async () => {
    const { source, open } = rig();
    await source.lower.write(0, block(4));
    const device = await open();
    source.pulled = true;
    await expect(readSectors(device, 0)).rejects.toMatchObject({ code: "EIO" });
    const { pool, lock } = device.state;
    expect([pool.outstanding, lock.pending]).toEqual([0, 0]);
    source.pulled = false;
    await device.write(512, block(5, 1));
    expect(await readSectors(device, 0, 2)).toEqual(Buffer.concat([block(4, 1), block(5, 1)]));
    await device.close();
  });
});

describe("a block that is being written back", () => {
  it.each([
    ["of the whole block", 0, 8],
    ["of a part", 2, 3],
  ])("makes a write wait, and stays dirty after it: %s", async (_, sector, count) => {
    const { source, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    const release = held(source);
    const cleaning = device.message(["clean"]);
    await settled();
    const writing = device.write(sector * 512, block(2, count));
    const state = watched(writing);
    await settled();
    expect(state.over).toBe(false);
    release();
    await writing;
    await cleaning;
    const expected = block(1);
    block(2, count).copy(expected, sector * 512);
    expect(await readSectors(device, 0)).toEqual(expected);
    await device.close();
    expect(await readSectors(source.lower, 0)).toEqual(expected);
  });
});

describe("figures", () => {
  it("count write-through invalidations as hits", async () => {
    const { open } = rig();
    const device = await open();
    await readSectors(device, 0);
    await settled();
    await device.write(0, block(1));
    await device.write(0, block(2));
    expect(device.status()).toMatch(/^stats: reads\(1\), writes\(2\), cache hits\(1, 0\.33\),/);
    await device.close();
  });

  it("end with the dirty blocks that close has flushed", async () => {
    const { source, cache } = rig();
    const lines: string[] = [];
    const logger: Logger = { log: (_, message) => void lines.push(message) };
    const options = { ...WB, cache_size: 64, associativity: 64 };
    const device = await openOn(source, cache, options, { ...realEnvironment, logger });
    for (let index = 0; index < 3; index += 1) await device.write(index * 8192, block(index));
    await device.close();
    expect(lines.at(-1)).toBe(
      "cache: closed, stats: reads(0), writes(3), cache hits(0, 0.0),replacement(0), replaced dirty blocks(0), " +
        "flushed dirty blocks(3)",
    );
  });

  it("of the last five minutes, hour and day, and how long requests took", async () => {
    const { source, cache } = rig();
    let now = 5000;
    const environment = { ...realEnvironment, clock: { ...realEnvironment.clock, now: () => now } };
    const device = await openOn(source, cache, { cache_size: 64, associativity: 64 }, environment);
    await readSectors(device, 0);
    await settled();
    now += 10 * 60_000;
    const release = held(cache);
    const reading = readSectors(device, 0);
    now += 3;
    release();
    await reading;
    type Stats = Record<string, { reads: number; read_hits: number; read_latency: number[] }>;
    const stats = JSON.parse(await device.message(["stats"])) as Stats;
    expect(stats["5min"]).toMatchObject({ reads: 1, read_hits: 1 });
    expect(stats["5min"]?.read_latency[11]).toBe(1);
    for (const span of ["hour", "day", "total"])
      expect(stats[span]).toMatchObject({ reads: 2, read_hits: 1 });
    expect(figures(device)).toMatchObject({ blocks_5min: "1", hits_5min: "1" });
    await device.close();
  });
});

describe("buffers", () => {
  it("all in use: writes that would need one go to the source", async () => {
    const { source, open } = rig({ ...WB, pool: 131_072 });
    const device = await open();
    const release = held(source);
    const writes = Array.from({ length: 10 }, (_, index) =>
      device.write(index * 4096 + 512, block(index + 1, 1)),
    );
    await settled();
    expect(device.state.pool.outstanding).toBe(2);
    release();
    await Promise.all(writes);
    expect(figures(device)).toMatchObject({ dirty: "2", used: "2" });
    expect(device.state.pool.outstanding).toBe(0);
    for (let index = 0; index < 10; index += 1) {
      expect(await readSectors(device, index * 8 + 1, 1)).toEqual(block(index + 1, 1));
    }
    await device.close();
  });
});

describe("needs-check", () => {
  const kinds = async (cache: Rig["cache"]): Promise<string[]> => {
    const found: string[] = [];
    for await (const { kind } of check(cache.lower)) found.push(kind);
    return found;
  };

  it("is stored when the cache device failed, shown, and cleared by repair alone", async () => {
    const { cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    cache.failsWrites = true;
    await readSectors(device, 80);
    await settled();
    expect(figures(device)).toMatchObject({ health: "cache-failed", needs_check: "0" });
    cache.failsWrites = false;
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
    expect(await kinds(cache)).toEqual(["needs-check"]);

    const again = await open({ persistence: 1 });
    expect(figures(again)).toMatchObject({ health: "ok", needs_check: "1", dirty: "1" });
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.close();
    expect(await kinds(cache)).toEqual(["needs-check"]);
    expect((await repair(cache.lower)).left).toEqual([]);
    expect(await kinds(cache)).toEqual([]);
  });

  it("is stored when a flush of the source failed", async () => {
    const { source, cache, open } = rig();
    const device = await open();
    await device.write(0, block(1));
    source.pulled = true;
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
    expect(await kinds(cache)).toEqual(["needs-check"]);
  });

  it("that cannot be stored costs no superblock, and close comes to an end", async () => {
    const { cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    cache.pulled = true;
    await expect(readSectors(device, 0)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.write(0, block(2))).rejects.toMatchObject({ code: "EIO" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
    cache.pulled = false;
    expect(await kinds(cache)).toEqual([]);
    const again = await open({ persistence: 1 });
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.close();
  });
});

describe("no space below the cache device", () => {
  const code = (work: Promise<unknown>): Promise<string> =>
    work.then(
      () => "done",
      (error: unknown) => (error as { code: string }).code,
    );

  it("reads and writes of what is not in it go past it, and it is used again when there is", async () => {
    const { source, cache, open } = rig(WB);
    await source.lower.write(40 * 4096, block(9));
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    cache.code = "ENOSPC";
    cache.failsWrites = true;
    // A fill, a new block, a part of one, and what was dirty before.
    expect(await readSectors(device, 320)).toEqual(block(9));
    await settled();
    await device.write(8 * 512, block(2));
    await device.write(16 * 512 + 1024, block(3, 2));
    expect(await code(device.write(0, block(7)))).toBe("ENOSPC");
    expect(figures(device)["health"]).toBe("cache-full");
    expect(await readSectors(device, 0)).toEqual(block(1));
    expect(await readSectors(device, 8)).toEqual(block(2));
    expect((await readSectors(source.lower, 16)).subarray(1024, 2048)).toEqual(block(3, 2));
    cache.failsWrites = false;
    await device.write(24 * 512, block(4));
    expect(figures(device)).toMatchObject({ health: "ok", dirty: "2" });
    await device.flush();
    await device.close();
    expect(await readSectors(source.lower, 24)).toEqual(block(4));
  });

  it("a flush whose entries find none fails, and the next one covers them, and what was dropped", async () => {
    const { cache, source, open } = rig({ ...WB, age_limit: 0 });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    await device.write(8 * 512, block(2));
    cache.code = "ENOSPC";
    // The data of frames fits, entries do not.
    const first = device.state.frameOffset(0);
    cache.failsWrites = (offset) => offset < first;
    expect(await code(device.flush())).toBe("ENOSPC");
    expect(await code(device.clean())).toBe("ENOSPC");
    expect(device.failure).toBeUndefined();
    cache.failsWrites = false;
    await device.write(16 * 512, block(3));
    await device.flush();
    // As after a crash: another cache over the same devices.
    await device.cleaner.pause();
    const again = await openOn(
      source,
      cache,
      { persistence: 1, cache_size: 64, associativity: 16 },
      realEnvironment,
    );
    for (const [sector, fill] of [
      [0, 1],
      [8, 2],
      [16, 3],
    ] as const)
      expect(await readSectors(again, sector)).toEqual(block(fill));
    await again.close();
    const problems: string[] = [];
    for await (const { kind, severity } of check(cache, source)) if (severity !== "info") problems.push(kind);
    expect(problems).toEqual([]);
  });

  it("a flush of the device below that fails is the end, for want of space too", async () => {
    const { cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    cache.code = "ENOSPC";
    cache.pulled = true;
    const error = await device.flush().catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ENOSPC" });
    cache.pulled = false;
    expect(figures(device)["health"]).toBe("cache-failed");
    expect(await code(device.flush())).toBe("EIO");
  });
});
