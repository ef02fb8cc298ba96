/** Caches as images: what is recognised and what is not, facts, pictures, new ones. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  type ImageDevices,
  type ImageFacts,
  type ImageMap,
  type ImageProblem,
  MemoryDevice,
  type OfflineWork,
  openFile,
  realEnvironment,
} from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { assocCacheImages as images } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { historicalCache, putHistorical } from "./support/historical.ts";
import { block, readSectors, rig, settled } from "./support/rig.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1);
const work: OfflineWork = { environment: realEnvironment };
const shape = { frames: 64, blockSectors: 8, ways: 16 };

async function deviceOf(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

async function checked(devices: ImageDevices): Promise<ImageProblem[]> {
  const problems: ImageProblem[] = [];
  for await (const problem of images.check(devices, work)) problems.push(problem);
  return problems;
}

function historical(random: SeededRandom): Buffer {
  return historicalCache(random, shape, random.fill(Buffer.alloc(1000 * 512)), random.below(300));
}

describe("detect", () => {
  it("knows caches of version 2, sound or damaged", async () => {
    const { cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    const text = "cache of 64 blocks of 4 KiB, write-back";
    expect(await images.detect(cache.lower)).toEqual({
      certainty: "magic",
      role: "cache",
      identity: expect.any(String),
      text: `${text}, not closed cleanly`,
    });
    await device.close();
    expect(await images.detect(cache.lower)).toMatchObject({ text: `${text}, closed cleanly` });
    await cache.lower.write(0, block(0xff, 1));
    expect(await images.detect(cache.lower)).toMatchObject({ certainty: "magic" });
    const magic = Buffer.alloc(512);
    magic.write("DMKASSOC");
    await cache.lower.write(cache.size - 512, magic);
    expect(await images.detect(cache.lower)).toMatchObject({ text: "cache with damaged superblocks" });
    expect(await images.detect(new MemoryDevice(512))).toBeUndefined();
    expect(await images.detect(new MemoryDevice(65_536, { logicalBlockSize: 4096 }))).toBeUndefined();
  });

  it("knows historical caches by everything fitting", async () => {
    const random = new SeededRandom(seed);
    for (let round = 0; round < 20; round += 1) {
      const bytes = historical(random);
      const cache = await deviceOf(bytes);
      expect(await images.detect(cache), `seed ${seed}, round ${round}`).toEqual({
        certainty: "plausible",
        role: "cache",
        text: "cache of 64 blocks of 4 KiB, historical metadata",
      });
      // Any bit of the table makes the sum wrong, whatever else it does.
      const bit = random.below(512 * 8);
      const at = bytes.length - 1024 + (bit >> 3);
      bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << (bit & 7)), at);
      expect(await images.detect(await deviceOf(bytes)), `seed ${seed}, bit ${bit}`).toBeUndefined();
    }
  });

  it("does not take a table for one that has a right sum but blocks where they cannot be", async () => {
    for (const entries of [
      [[0, 12]],
      [
        [0, 8],
        [1, 8],
      ],
      [[63, 8]],
    ] as const) {
      const bytes = putHistorical(Buffer.alloc(600 * 512), shape, new Map(entries));
      expect(await images.detect(await deviceOf(bytes))).toBeUndefined();
    }
    // Without an entry there is too little to go by.
    const empty = putHistorical(Buffer.alloc(600 * 512), shape, new Map());
    expect(await images.detect(await deviceOf(empty))).toBeUndefined();
  });

  it("takes nothing else for a cache: 120,000 devices of noise and of structures", async () => {
    const random = new SeededRandom(seed);
    const device = new MemoryDevice(64 * 1024);
    for (let round = 0; round < 120_000; round += 1) {
      await device.write(device.size - 1536, somebodyElses(random, round));
      const found = await images.detect(device);
      if (found !== undefined) expect.fail(`seed ${seed}, round ${round}: ${found.text}`);
    }
  });

  it("takes no file system for a cache", async ({ skip }) => {
    const folder = await mkdtemp(join(tmpdir(), "dmkit-detect-"));
    try {
      const path = join(folder, "image");
      await writeFile(path, "");
      await truncate(path, 8 * 2 ** 20);
      const made = await promisify(execFile)("mke2fs", ["-q", "-t", "ext4", "-F", path], {
        env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` },
      }).catch(() => undefined);
      if (made === undefined) skip("mke2fs is not installed");
      const device = await openFile(path, { readOnly: true });
      expect(await images.detect(device)).toBeUndefined();
      await device.close();
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

/** Three sectors as they may be at the end of a device that is no cache. */
function somebodyElses(random: SeededRandom, round: number): Buffer {
  const bytes = Buffer.alloc(1536);
  const words = (make: () => number): Buffer => {
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(make(), at);
    return bytes;
  };
  switch (round % 9) {
    case 0:
      return random.fill(bytes);
    case 1:
      return words(() => random.below(4));
    case 2:
      return words(() => 2 ** random.below(12));
    case 3:
      return words(() => (random.chance(0.6) ? 0 : 2 ** random.below(8)));
    case 4:
      return words(() => 2 ** 20 + round);
    case 5: {
      let next = random.below(100);
      return words(() => next++);
    }
    case 6:
      return Buffer.from("The quick brown fox jumps over the lazy dog. ".repeat(40).slice(0, 1536), "latin1");
    case 7:
      // A geometry that fits, over zeroes or small numbers.
      if (random.chance(0.5)) words(() => random.below(2));
      bytes.writeBigUInt64LE(BigInt(2 ** random.below(8)), 1024);
      bytes.writeUInt32LE(2 ** random.below(4), 1032);
      bytes.writeUInt32LE(2 ** random.below(4), 1036);
      bytes.writeUInt32LE(random.below(2), 1040);
      bytes.writeUInt32LE(1 + random.below(0xfffe), 1044);
      return bytes;
    default:
      // Zeroes with a few words, among them in the place of the configuration.
      for (let count = random.below(8); count > 0; count -= 1) {
        bytes.writeUInt32LE(2 ** random.below(16), 1024 + random.below(6) * 4);
      }
      return bytes;
  }
}

describe("info", () => {
  it("tells what a cache is, and refuses what is none", async () => {
    const { cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    const facts = await images.info({ cache: cache.lower }, work);
    expect(facts).toMatchObject({
      format: "v2",
      policy: "write-back",
      blocks: 64,
      used_blocks: 1,
      dirty_blocks: 1,
    });
    const old: ImageFacts = await images.info(
      { cache: await deviceOf(historical(new SeededRandom(seed))) },
      work,
    );
    expect(old).toMatchObject({ format: "v1", block_bytes: 4096, ways: 16 });
    await expect(images.info({ cache: new MemoryDevice(65_536) }, work)).rejects.toMatchObject({
      code: "EFORMAT",
    });
    await expect(images.info({}, work)).rejects.toMatchObject({ code: "EINVAL" });
  });
});

describe("check and repair", () => {
  it("report progress, stop when told to, and can be written as JSON", async () => {
    const { cache, source, open } = rig();
    await (await open()).close();
    await cache.lower.write(0, block(0xff, 1));
    const devices = { cache: cache.lower, source: source.lower };
    const problems = await checked(devices);
    expect(JSON.parse(JSON.stringify(problems))).toMatchObject([
      { kind: "superblock", role: "cache", offset: 0 },
    ]);
    const seen: number[] = [];
    const progress = (so: number, total: number): void => void seen.push(so / total);
    const report = await images.repair?.(devices, { ...work, progress });
    expect(report).toMatchObject({ repaired: [{ kind: "superblock" }], left: [] });
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    const stopping = images.repair?.(devices, { ...work, signal: AbortSignal.abort(new Error("enough")) });
    await expect(stopping).rejects.toThrowError("enough");
  });

  it("of a historical cache find what cannot be true, and repair nothing", async () => {
    const cache = await deviceOf(putHistorical(Buffer.alloc(600 * 512), shape, new Map([[63, 8]])));
    expect(await checked({ cache })).toMatchObject([{ kind: "entry-set", severity: "error", frame: 63 }]);
    const before = await contentsOf(cache);
    expect(await images.repair?.({ cache }, work)).toMatchObject({
      repaired: [],
      left: [{ kind: "entry-set" }],
    });
    expect((await contentsOf(cache)).equals(before)).toBe(true);
  });
});

describe("dump and restore", () => {
  it("of a historical cache", async () => {
    const bytes = historical(new SeededRandom(seed));
    const cache = await deviceOf(bytes);
    const text = JSON.stringify(await images.dump?.({ cache }, work));
    await cache.writeZeroes(cache.size - 1024, 1024);
    await images.restore?.({ cache }, JSON.parse(text), work);
    expect(JSON.stringify(await images.dump?.({ cache }, work))).toBe(text);
    expect(await images.detect(cache)).toMatchObject({ certainty: "plausible" });
    const now = await contentsOf(cache);
    // Frame 0 was there to be cleared: nothing of version 2 may be left.
    expect(now.subarray(512, -1024).equals(bytes.subarray(512, -1024))).toBe(true);
  });
});

/** Text of a strip, one character for each `unit` bytes. */
function drawn({ strips, legend }: ImageMap, strip: number, unit: number): string {
  const { size = 0, ranges = [] } = strips[strip] ?? {};
  const cells = Array.from({ length: Math.ceil(size / unit) }, () => " ");
  let end = 0;
  for (const { offset, length, kind } of ranges) {
    expect(offset).toBeGreaterThanOrEqual(end);
    expect(length).toBeGreaterThan(0);
    end = offset + length;
    cells.fill(legend[kind]?.character ?? "?", Math.floor(offset / unit), Math.ceil(end / unit));
  }
  expect(end).toBeLessThanOrEqual(size);
  return cells.join("");
}

describe("map", () => {
  it("draws the cache device and what is cached of the source", async () => {
    const cache = new MemoryDevice((16 + 8 * 8 + 8) * 512);
    const { source } = rig({}, 100);
    const options = { block_size: "8", cache_size: "8", associativity: "8", policy: "write-back" };
    await images.format?.({ cache, source: source.lower }, options, work);
    const empty = await images.map({ cache }, work);
    expect(drawn(empty, 0, 4096)).toBe("SE........S");
    expect(drawn(empty, 1, 4096)).toBe(" ".repeat(13));
    const device = await openOn(
      source.lower,
      cache,
      { persistence: 1, high_watermark: 100, age_limit: 0 },
      realEnvironment,
    );
    await readSectors(device, 0, 16);
    await settled();
    await device.write(12 * 4096, block(1, 4));
    await device.flush();
    const inUse = await images.map({ cache }, work);
    expect(drawn(inUse, 1, 4096)).toBe(`${" ".repeat(12)}D`);
    await device.close();
    const closed = await images.map({ cache }, work);
    expect(drawn(closed, 1, 4096)).toBe(`cc${" ".repeat(10)}c`);
    expect(drawn(closed, 0, 4096)).toBe("SEccc.....S");
    // A second time the same.
    expect(drawn(closed, 0, 4096)).toBe("SEccc.....S");
  });

  it("draws a historical one", async () => {
    const map = await images.map({ cache: await deviceOf(historical(new SeededRandom(seed))) }, work);
    expect(map.strips).toHaveLength(1);
    expect(drawn(map, 0, 512)).toMatch(/^[c.]{512} *ES$/);
  });
});

describe("format", () => {
  it("makes caches that open and have no problems", async () => {
    const source = new MemoryDevice(1000 * 512);
    for (const [options, expected] of [
      [{}, { format: "v2", blocks: 128, ways: 128, policy: "write-through", source_bytes: 512_000 }],
      [
        { block_size: "4", associativity: "2", policy: "write-back" },
        { blocks: 256, ways: 2, policy: "write-back" },
      ],
      [{ source_size: "4096" }, { source_bytes: 4096 }],
      [{ format: "v1" }, { format: "v1", blocks: 128, ways: 128 }],
    ] as const) {
      const cache = new MemoryDevice(1100 * 512);
      await images.format?.({ cache, source }, options, work);
      expect(await checked({ cache, source })).toEqual([]);
      expect(await images.info({ cache }, work)).toMatchObject(expected);
      expect(await images.detect(cache)).toBeDefined();
    }
  });

  it("keeps the blocks of a historical cache", async () => {
    const random = new SeededRandom(seed);
    const bytes = random.fill(Buffer.alloc(1000 * 512));
    const devices = {
      cache: await deviceOf(historicalCache(random, shape, bytes, 40)),
      source: await deviceOf(bytes),
    };
    const { used_blocks = 0 } = await images.info(devices, work);
    await images.format?.(devices, { import: "1" }, work);
    expect(await images.info(devices, work)).toMatchObject({ format: "v2", used_blocks });
    expect(await checked(devices)).toEqual([]);
    await expect(images.format?.({ cache: devices.cache }, { import: "1" }, work)).rejects.toMatchObject({
      code: "EINVAL",
    });
  });

  it("refuses what cannot be", async () => {
    const source = new MemoryDevice(1000 * 512);
    const cache = new MemoryDevice(1100 * 512);
    const large = new MemoryDevice(1104 * 512, { logicalBlockSize: 4096 });
    for (const [devices, options, code] of [
      [{ cache }, {}, "EINVAL"],
      [{ cache, source }, { source_size: "1M" }, "EINVAL"],
      [{ cache, source }, { cache_size: "100" }, "EINVAL"],
      [{ cache, source }, { cache_size: "4096" }, "EINVAL"],
      [{ cache, source }, { colour: "red" }, "EPARSE"],
      [{ cache, source }, { source_uuid: "x" }, "EINVAL"],
      [{ cache, source }, { format: "v1", policy: "cleaner" }, "EINVAL"],
      [{ cache: large, source }, { block_size: "1" }, "EINVAL"],
      [{ source }, {}, "EINVAL"],
    ] as const) {
      await expect(images.format?.(devices as ImageDevices, options, work)).rejects.toMatchObject({ code });
    }
    expect((await contentsOf(cache)).every((byte) => byte === 0)).toBe(true);
  });

  it("does not lose dirty blocks unless it is forced to", async () => {
    const { cache, source, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    const devices = { cache: cache.lower, source: source.lower };
    await expect(images.format?.(devices, {}, work)).rejects.toMatchObject({ code: "EBUSY" });
    await images.format?.(devices, { force: "1" }, work);
    expect(await images.info(devices, work)).toMatchObject({ dirty_blocks: 0 });
  });
});
