/** The pure parts, and what single faults of the family look like from outside. */
import { readFileSync } from "node:fs";
import { BlockIoError, type ErrorCode, MemoryDevice, TableArguments, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { BlockMap } from "../src/core/block-map.ts";
import { findLog, lastWriteback } from "../src/core/log.ts";
import { runEnd, runStart, sectorBits } from "../src/core/sectors.ts";
import { type Entry, planWriteback } from "../src/core/writeback-plan.ts";
import { geometryOf, plogSegmentSize } from "../src/format/geometry.ts";
import { encodeRecord } from "../src/format/superblock.ts";
import {
  type Devices,
  type OpenOptions,
  type WriteboostDevice,
  openEmbedded,
  openWriteboost,
  parseStatus,
  writeboost,
} from "../src/index.ts";
import { scanPlog } from "../src/open/plog/plog-scan.ts";

const MIB = 1024 * 1024;

function devices(
  slots = 8,
  order = 4,
  plog = false,
): Devices & { cache: MemoryDevice; backing: MemoryDevice } {
  return {
    backing: new MemoryDevice(MIB),
    cache: new MemoryDevice(MIB + slots * 512 * 2 ** order),
    plog: plog ? new MemoryDevice(MIB) : undefined,
  };
}

async function code(promise: Promise<unknown>): Promise<ErrorCode | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return (error as BlockIoError).code;
  }
}

const block = (byte: number): Buffer => Buffer.alloc(4096, byte);

async function read(
  device: { read(offset: number, into: Buffer): Promise<void> },
  offset: number,
): Promise<number> {
  const into = Buffer.alloc(512);
  await device.read(offset, into);
  return into.readUInt8(0);
}

describe("block map", () => {
  it("finds what was adopted and forgets what was evicted, like a Map", () => {
    const random = new SeededRandom(7);
    const slots = 40;
    const blocks = 7;
    const map = new BlockMap(slots, blocks, 2 ** 20);
    const model = new Map<number, number>();
    for (let round = 0; round < 400; round += 1) {
      const slot = round % slots;
      map.clean(slot);
      map.evict(slot);
      for (const [key, index] of model) if (Math.floor(index / blocks) === slot) model.delete(key);
      const length = random.below(blocks + 1);
      map.lengths[slot] = length;
      const used = new Set<number>();
      for (let at = 0; at < length; at += 1) {
        let key = random.below(300);
        while (used.has(key)) key = random.below(300);
        used.add(key);
        const index = slot * blocks + at;
        map.keys[index] = key;
        map.valid[index] = 0xff;
        map.dirty[index] = 0xff;
        map.adopt(index, map.find(key));
        model.set(key, index);
      }
      for (let key = 0; key < 300; key += 1) expect(map.find(key)).toBe(model.get(key) ?? -1);
      const start = random.below(300);
      const next = Math.min(310, ...[...model.keys()].filter((key) => key >= start));
      expect(map.firstFrom(start, 310)).toBe(next);
      expect(map.dirtyBlocks).toBe([...model.values()].filter((index) => map.dirty[index] !== 0).length);
    }
  });

  it("takes at most 24 bytes a cache block, half of that up to 16 TiB", () => {
    const count = 1000 * 127;
    expect(new BlockMap(1000, 127, 2 ** 32).bytes / count).toBeLessThan(12);
    expect(new BlockMap(1000, 127, 2 ** 33).bytes / count).toBeLessThan(24);
  });

  it("spreads neighbouring and distant blocks: a probe stays short", () => {
    const map = new BlockMap(300, 127, 2 ** 40);
    for (let slot = 0; slot < 300; slot += 1) {
      map.lengths[slot] = 127;
      for (let at = 0; at < 127; at += 1) {
        const index = slot * 127 + at;
        map.keys[index] = slot % 2 === 0 ? slot * 127 + at : 2 ** 33 + (slot * 127 + at) * 8;
        map.adopt(index, -1);
      }
    }
    for (let slot = 0; slot < 300; slot += 1) {
      expect(map.find(map.keys[slot * 127] ?? -1)).toBe(slot * 127);
    }
  });
});

describe("sectors", () => {
  it("finds runs of bits", () => {
    expect(sectorBits(5, 3)).toBe(0xe0);
    expect([runStart(0b0110_0110, 0), runEnd(0b0110_0110, 1)]).toEqual([1, 3]);
    expect([runStart(0b0110_0110, 3), runEnd(0b0110_0110, 5)]).toEqual([5, 7]);
    expect([runStart(0, 0), runStart(0xff, 8), runEnd(0xff, 0)]).toEqual([8, 8, 8]);
  });
});

describe("the log among segments", () => {
  const find = (ids: number[], valid: number[], tail: number, record = 0, covered = 0) =>
    findLog({ ids: Float64Array.from(ids), valid: Uint8Array.from(valid), tail, record, covered });

  it("is empty on a new device, or when only torn beginnings are there", () => {
    expect(find([0, 0, 0], [0, 0, 0], 1)).toMatchObject({ first: 1, last: 0, stale: [], damage: undefined });
    expect(find([1, 2, 0, 0, 0], [0, 1, 0, 0, 0], 2)).toMatchObject({
      last: 0,
      stale: [0, 1],
      damage: undefined,
    });
  });

  it("skips slots torn at the old end, and ends at the first gap", () => {
    // N = 10, K = 4: 21 is torn over 11, 22 is whole, 23 has not begun.
    const ids = [21, 22, 13, 14, 15, 16, 17, 18, 19, 20];
    expect(find(ids, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1], 4)).toMatchObject({
      first: 13,
      last: 20,
      stale: [0, 1],
    });
  });

  it("may begin before what is known to be written back, where nothing older is left", () => {
    // 1 was emptied when it had been written back, and so have 2 … 4 been since.
    const ids = [0, 2, 3, 4, 5, 6, 0, 0, 0, 0];
    const valid = ids.map((id) => Math.min(1, id));
    expect(find(ids, valid, 4, 4)).toMatchObject({ first: 2, last: 6, damage: undefined });
    expect(find(ids, valid, 4, 0).damage).toContain("no intact log");
    // No crash explains that 3 is missing.
    expect(find([0, 2, 0, 4, 5, 6, 0, 0, 0, 0], [0, 1, 0, 1, 1, 1, 0, 0, 0, 0], 4, 4).damage).toBeDefined();
  });

  it("is not thrown away when the newest write left the old header on a torn slot", () => {
    const ids = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
    expect(find(ids, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1], 4)).toMatchObject({ first: 12, last: 20 });
    expect(find(ids, [1, 0, 1, 1, 1, 1, 1, 1, 1, 1], 4)).toMatchObject({
      first: 13,
      last: 20,
      stale: [0, 1],
    });
  });

  it("reports what no crash explains", () => {
    const ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    expect(find(ids, [1, 1, 0, 1, 1, 1, 1, 1, 1, 1], 1).damage).toBeDefined();
    expect(find(ids, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], 4, 0, 10).damage).toBeDefined();
    expect(find(ids, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 4, 0, 10).damage).toBeUndefined();
  });

  it("never counts as clean what is above its end", () => {
    const log = find([1, 2, 3, 0, 0], [1, 1, 1, 0, 0], 2);
    expect(lastWriteback(log, 9, 5)).toBe(3);
    expect(lastWriteback(log, 2, 5)).toBe(2);
    expect(lastWriteback(log, 0, 5)).toBe(0);
  });
});

it("README says what a cache block costs in RAM", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [, usual, five, four] =
    /RAM: ([\d.]+) bytes a cache block \(order 5: ([\d.]+), order 4: ([\d.]+)/.exec(readme) ?? [];
  const slots = 1000;
  for (const [order, said] of [
    [4, four],
    [5, five],
    [6, usual],
    [10, usual],
  ] as const) {
    const blocks = 2 ** (order - 3) - 1;
    const cost = new BlockMap(slots, blocks, 1000).bytes / (slots * blocks);
    expect(cost).toBeLessThanOrEqual(Number(said));
    expect(cost).toBeGreaterThan(Number(said) - 0.2);
  }
});

describe("writeback plan", () => {
  it("takes every sector from the newest copy, whatever the order of the entries", () => {
    const entries: Entry[] = [
      { block: 3, id: 9, index: 9, bits: 0x0f, data: block(9) },
      { block: 3, id: 7, index: 7, bits: 0xff, data: block(7) },
      { block: 2, id: 8, index: 8, bits: 0xff, data: block(8) },
      { block: 3, id: 8, index: 8, bits: 0x18, data: block(6) },
    ];
    for (const order of [entries, entries.toReversed()]) {
      const [only, other] = planWriteback(order);
      expect(other).toBeUndefined();
      expect([only?.offset, only?.length]).toEqual([8192, 8192]);
      const bytes = Buffer.concat(only?.pieces ?? []);
      const sectors = Array.from({ length: 16 }, (_, sector) => bytes[sector * 512]);
      expect(sectors).toEqual([8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 6, 7, 7, 7]);
    }
  });
});

describe("opening", () => {
  it.each<[string, OpenOptions]>([
    ["order", { order: 99 }],
    ["order", { order: 4.5 }],
    ["pool", { pool: 0 }],
    ["dialect", { dialect: "v9" as "v2" }],
    ["threshold", { tunables: { writeback_threshold: 900 } }],
    ["batch", { tunables: { nr_max_batched_writeback: Number.NaN } }],
    ["unknown", { tunables: { writeback_treshold: 9 } as OpenOptions["tunables"] }],
  ])("refuses an %s that no table would take", async (_name, options) => {
    expect(await code(openWriteboost(devices(), options))).toBe("EINVAL");
  });

  const attempt = (on: Devices, options: OpenOptions = {}) => code(openWriteboost(on, options));

  /** A device that fails on any write. */
  async function untouched(on: ReturnType<typeof devices>, work: () => Promise<void>): Promise<void> {
    const before = Buffer.alloc(on.cache.size);
    await on.cache.read(0, before);
    await work();
    const after = Buffer.alloc(on.cache.size);
    await on.cache.read(0, after);
    expect(after.equals(before)).toBe(true);
  }

  it("refuses an unknown magic and writes nothing", async () => {
    const on = devices();
    await on.cache.write(0, Buffer.alloc(512, 0x55));
    await untouched(on, async () => expect(await attempt(on)).toBe("EFORMAT"));
  });

  it("refuses another order, a truncated device and another backing device", async () => {
    const on = devices();
    const device = await openWriteboost(on, { order: 4 });
    await device.write(0, block(1));
    await device.close();
    await untouched(on, async () => {
      expect(await attempt(on, { order: 5 })).toBe("EINVAL");
      expect(await attempt({ ...on, backing: new MemoryDevice(MIB / 2) })).toBe("EFORMAT");
      const other = new MemoryDevice(MIB);
      await other.write(0, block(9));
      expect(await attempt({ ...on, backing: other })).toBe("EFORMAT");
    });
    const short = new MemoryDevice(MIB + 2 * 8192);
    const head = Buffer.alloc(short.size);
    await on.cache.read(0, head);
    await short.write(0, head);
    expect(await attempt({ ...on, cache: short })).toBe("EFORMAT");
    expect(await attempt({ ...on, cache: new MemoryDevice(MIB / 2) })).toBe("EFORMAT");
    expect(await attempt({ ...on, cache: on.backing })).toBe("EINVAL");
  });

  it("refuses an order byte that the identity record contradicts, and does without one that is none", async () => {
    const on = devices();
    const device = await openWriteboost(on, { order: 4 });
    await device.write(0, block(1));
    await device.flush();
    const sector = Buffer.alloc(512);
    await on.cache.read(0, sector);
    for (const order of [5, 6]) {
      sector[4] = order;
      await on.cache.write(0, sector);
      await untouched(on, async () => expect(await attempt(on)).toBe("EFORMAT"));
    }
    sector[4] = 0x84;
    await on.cache.write(0, sector);
    const again = await openWriteboost(on);
    expect(await read(again, 0)).toBe(1);
    await again.close();
  });

  it("refuses the plog of another cache", async () => {
    const one = devices(8, 4, true);
    const other = devices(8, 4, true);
    for (const on of [one, other]) await (await openWriteboost(on, { order: 4 })).close();
    expect(await attempt({ ...one, plog: other.plog })).toBe("EFORMAT");
    expect(await attempt(one)).toBeUndefined();
    // Nor by a cache that has never had one: that would zero what the other cache has flushed.
    const third = devices(8, 4);
    await (await openWriteboost(third, { order: 4 })).close();
    expect(await attempt({ ...third, plog: other.plog })).toBe("EFORMAT");
    expect(await attempt(other)).toBeUndefined();
  });

  it("refuses a plog that lacks the name it was given, unless nothing can be in it", async () => {
    const on = devices(8, 4, true);
    const device = await openWriteboost(on, { order: 4 });
    await device.write(0, block(1));
    await device.flush();
    const blank = devices(8, 4, true).plog;
    await untouched(on, async () => expect(await attempt({ ...on, plog: blank })).toBe("EFORMAT"));
    await device.close();
    const again = await openWriteboost({ ...on, plog: blank });
    expect(await read(again, 0)).toBe(1);
    await again.close();
  });

  it("opens a cache again that was closed in order after one of its oldest segments had been lost in a crash", async () => {
    const on = devices(12);
    const device = await openWriteboost(on, { order: 4 });
    for (let at = 0; at < 9; at += 1) {
      await device.write(at * 4096, block(at));
      await device.flush();
    }
    await on.cache.write(MIB + 4096, Buffer.alloc(512, 0xee));
    for (let round = 0; round < 3; round += 1) await (await openWriteboost(on)).close();
    await device.close().catch(() => {});
  });

  it("refuses a cache that was closed in order if an old dirty segment is torn", async () => {
    const on = devices(12);
    const device = await openWriteboost(on, { order: 4 });
    for (let at = 0; at < 9; at += 1) {
      await device.write(at * 4096, block(at));
      await device.flush();
    }
    await device.close();
    // Segment 2: after a crash its slot might have been in use again.
    await on.cache.write(MIB + 8192 + 4096, Buffer.alloc(512, 0xee));
    await untouched(on, async () => expect(await attempt(on)).toBe("EFORMAT"));
  });

  it("refuses damage in the middle of the log", async () => {
    const on = devices(12);
    const device = await openWriteboost(on, { order: 4 });
    for (let at = 0; at < 10; at += 1) {
      await device.write(at * 4096, block(at));
      await device.flush();
    }
    await device.close();
    await on.cache.write(MIB + 4 * 8192 + 4096, Buffer.alloc(512, 0xee));
    await on.cache.write(4096, Buffer.alloc(4096));
    await untouched(on, async () => expect(await attempt(on)).toBe("EFORMAT"));
  });

  it("rewrites a superblock record beyond the end of the log before new ids would count as clean", async () => {
    const on = devices();
    const first = await openWriteboost(on, { order: 4 });
    await first.write(0, block(1));
    await first.close();
    await on.cache.write(2040 * 512, encodeRecord(5));
    // As a driver leaves it that knows of no identity record, which would have a copy of the right one.
    await on.cache.write(4096, Buffer.alloc(4096));
    const device = await openWriteboost(on);
    expect(device.statusData).toMatchObject({ lastFlushedId: 1, lastWritebackId: 1 });
    await device.write(4096, block(2));
    await device.close();
    const again = await openWriteboost(on);
    expect(again.statusData).toMatchObject({ lastFlushedId: 2, lastWritebackId: 1, dirtyBlocks: 1 });
    await again.close();
  });

  it("believes the record: segments it covers are clean and still hit", async () => {
    const on = devices();
    const first = await openWriteboost(on, { order: 4 });
    await first.write(0, block(1));
    await first.dropCaches();
    await first.close();
    const device = await openWriteboost(on);
    expect(device.statusData).toMatchObject({ lastWritebackId: 1, dirtyBlocks: 0 });
    expect(await read(device, 0)).toBe(1);
    // A read hit on the cache device, not of a whole block.
    expect(device.statusData.counters[4]).toBe(1);
    await device.close();
  });
});

describe("running", () => {
  async function withDevice(
    on: Devices,
    options: OpenOptions,
    work: (device: WriteboostDevice) => Promise<void>,
  ): Promise<void> {
    const device = await openWriteboost(on, options);
    try {
      await work(device);
    } finally {
      await device.close();
    }
  }

  it("uses one slot for a barrier, and none where nothing was written", () =>
    withDevice(devices(8, 6), { order: 6 }, async (device) => {
      await device.write(0, block(1));
      await device.flush();
      await device.flush();
      await device.write(0, block(2), { fua: true });
      expect(device.statusData).toMatchObject({ currentId: 3, lastFlushedId: 2, partialFlushes: 2 });
    }));

  it("counts by write, hit, buffer and size", () =>
    withDevice(devices(8, 6), { order: 6 }, async (device) => {
      await device.write(512, Buffer.alloc(512));
      await device.write(4096, block(1));
      await device.write(4096, block(2));
      await device.flush();
      await device.read(4096, block(0));
      const counters = Array.from({ length: 16 }, () => 0);
      counters[8] = 1;
      counters[9] = 1;
      counters[15] = 1;
      counters[5] = 1;
      expect(device.statusData.counters).toEqual(counters);
      await device.message(["CLEAR_STAT"]);
      expect(device.statusData.counters.every((count) => count === 0)).toBe(true);
      expect(device.statusData.partialFlushes).toBe(1);
    }));

  it("drops discarded blocks for good", async () => {
    const on = devices();
    await withDevice(on, { order: 4 }, async (device) => {
      await device.write(0, block(1));
      await device.dropCaches();
      await device.discard(0, 4096);
      await device.writeZeroes(8192, 4096, { fua: true });
      expect(await read(device, 0)).toBe(0);
    });
    await withDevice(on, {}, async (device) => expect(await read(device, 0)).toBe(0));
  });

  it("ends drop_caches when told to, and goes on next time", () =>
    withDevice(devices(), { order: 4 }, async (device) => {
      for (let at = 0; at < 6; at += 1) await device.write(at * 4096, block(at));
      const controller = new AbortController();
      const progress: number[] = [];
      const dropping = device.dropCaches({
        signal: controller.signal,
        progress: ({ dirtyBlocks }) => progress.push(dirtyBlocks),
      });
      controller.abort();
      await expect(dropping).rejects.toThrow();
      const other = device.message(["drop_caches"]);
      await device.message(["drop_caches", "stop"]);
      expect(await code(other)).toBe("ESHUTDOWN");
      await device.message(["drop_caches"]);
      expect(device.statusData).toMatchObject({ dirtyBlocks: 0, lastWritebackId: 6 });
      expect(progress[0]).toBe(6);
    }));

  it("caches what is read, but not a scan", () =>
    withDevice(devices(8, 6), { order: 6, tunables: { read_cache_threshold: 4 } }, async (device) => {
      await device.read(0, block(0));
      await device.read(0, block(0));
      expect(device.statusData.counters[1]).toBe(1);
      expect(device.statusData.counters[7]).toBe(1);
      for (let at = 16; at < 32; at += 1) await device.read(at * 4096, block(0));
      expect(device.statusData.currentId).toBe(1);
      expect(device.statusData.cursor).toBe(4);
      expect(device.statusData.dirtyBlocks).toBe(0);
    }));

  it("does every tunable's work when told by message, and refuses what is out of range", () =>
    withDevice(devices(), { order: 4 }, async (device) => {
      for (const [name, good, bad] of [
        ["allow_writeback", "1", "2"],
        ["enable_writeback_modulator", "1", "-1"],
        ["writeback_threshold", "0", "101"],
        ["nr_max_batched_writeback", "2048", "0"],
        ["update_record_interval", "3600", "3601"],
        ["SYNC_INTERVAL", "1", "x"],
        ["read_cache_threshold", "127", "-5"],
        ["sequential_cutoff", "4096", "-1"],
        ["promote_after", "2", "1001"],
        ["write_around_mode", "1", "2"],
        ["writeback_rate", "1M", "-1"],
        ["writeback_pause", "100", "3600001"],
        ["discard_cache", "1", "2"],
        ["write_through", "1", "2"],
        ["nr_cur_batched_writeback", "2", "2049"],
        ["update_sb_record_interval", "60", "3601"],
        ["sync_data_interval", "1", "-1"],
      ] as const) {
        await device.message([name, good]);
        expect(await code(device.message([name, bad]))).toBe("EINVAL");
      }
      const status = parseStatus(device.status());
      expect(status).toMatchObject({
        batch: 2,
        tunables: { allow_writeback: 1, update_record_interval: 60 },
      });
      const { nr_max_batched_writeback: most, ...shown } = device.statusData.tunables;
      expect([status, most]).toEqual([{ ...device.statusData, tunables: shown }, 2]);
      expect(device.status()).toContain(
        " 28 allow_writeback 1 enable_writeback_modulator 1 writeback_threshold 0",
      );
      expect(await code(device.message(["no_such_thing", "1"]))).toBe("EINVAL");
      expect(JSON.parse(await device.message(["info"]))).toMatchObject({ segment_size_order: 4 });
    }));

  it("works embedded, with friendlier defaults", async () => {
    const on = devices();
    const device = await openEmbedded(on.backing, on.cache, { order: 4, environment: realEnvironment });
    await device.write(0, block(1));
    expect(device.statusData.tunables).toMatchObject({ allow_writeback: 1, sync_interval: 1 });
    expect(device.statusData.tunables.enable_writeback_modulator).toBe(1);
    await device.close();
    await device.close();
    const quiet = await openEmbedded(on.backing, on.cache, {
      tunables: { allow_writeback: 0 },
      environment: realEnvironment,
    });
    const { tunables } = quiet.statusData;
    expect(tunables).toMatchObject({ allow_writeback: 0, enable_writeback_modulator: 0, sync_interval: 1 });
    await quiet.close();
  });
});

describe("table", () => {
  const parse = (line: string) => {
    const args = new TableArguments(line.split(" "));
    const settings = writeboost.parse(args);
    args.end();
    return settings;
  };

  it.each([
    "0 hdd ssd 2 nr_rambuf_pool 8",
    "0 hdd ssd 4 segment_size_order 8 nr_rambuf_pool 16",
    "1 hdd ssd nvram 2 nr_rambuf_pool 8 4 allow_writeback 1 sync_interval 5",
  ])("%s", (line) => {
    expect(writeboost.print(parse(line)).join(" ")).toBe(line);
  });

  it("accepts keys in any case, the original's own output, and tunables after a leading 0", () => {
    expect(parse("0 hdd ssd 0 2 ALLOW_WRITEBACK 1").allow_writeback).toBe(1);
    expect(parse("0 hdd ssd 0 2 nr_cur_batched_writeback 7").nr_max_batched_writeback).toBe(7);
    expect(parse("0 hdd ssd").nr_rambuf_pool).toBe(8);
  });

  it("accepts the later drivers' syntax", () => {
    const settings = parse("hdd ssd 4 writeback_threshold 70 update_sb_record_interval 60");
    expect(settings).toMatchObject({
      dialect: "v2",
      enable_writeback_modulator: 1,
      writeback_threshold: 70,
      update_record_interval: 60,
    });
    expect(parse("hdd ssd").dialect).toBe("v2");
  });

  it.each(["0 hdd", "1 hdd ssd", "2 hdd ssd", "0 hdd ssd 2 segment_size_order 11", "0 hdd ssd 2 colour red"])(
    "refuses %s",
    (line) => {
      expect(() => parse(line)).toThrow(BlockIoError);
    },
  );
});

describe("a plog", () => {
  it("may have more segments than a call has arguments", async () => {
    const segments = 200_000;
    const found = { geometry: geometryOf(2 * MIB, 4), last: 0, identity: "blank" } as const;
    const scanned = await scanPlog(new MemoryDevice(segments * plogSegmentSize(4)), found, MIB);
    expect(scanned).toMatchObject({ fit: segments, rebuilt: [], used: [], lost: 0 });
  });
});
