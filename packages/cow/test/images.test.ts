/** One layer as an image: recognised, described, checked, repaired, dumped, drawn, made. */
import {
  BlockIoError,
  type ImageDevices,
  type ImageMap,
  type ImageProblem,
  MemoryDevice,
  type OfflineWork,
  SECTOR,
  ZeroDevice,
  realEnvironment,
} from "@dmkit/block-io";
import { BadSectors, PowerCut, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { bitmapDeviceSize, bitmapLength, identityOffset } from "../src/format/geometry.ts";
import { cowImages as images, createLayer, openStack } from "../src/index.ts";
import { buildStack, contents, layerOf, newLayer, newStack, quiet } from "./stacks.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1);
const work: OfflineWork = { environment: realEnvironment };
const sectors = 263_001;
const place = identityOffset(bitmapLength(sectors));

const code = (promise: Promise<unknown> | undefined): Promise<string> =>
  (promise ?? Promise.resolve()).then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

async function kinds(devices: ImageDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, severity } of images.check(devices, work)) found.push(`${severity} ${kind}`);
  return found;
}

/** A layer with a few runs, one of them over the end of a piece of the bitmap, one at the end of the target. */
const runs = [
  [3, 10],
  [262_140, 9],
  [263_000, 1],
] as const;

async function layer(): Promise<{ bitmap: MemoryDevice; data: MemoryDevice }> {
  const made = newLayer(sectors);
  const stack = { base: new MemoryDevice(sectors * SECTOR), baseOffset: 0, layers: [made], sectors };
  await buildStack(stack, async (device) => {
    for (const [first, count] of runs) await device.write(first * SECTOR, Buffer.alloc(count * SECTOR, 7));
  });
  return made;
}

async function withBytes(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

function original(length: number): Buffer {
  const bytes = Buffer.alloc(4096);
  bytes.writeBigUInt64LE(0x00ba_be0e_aaba_be11n);
  bytes.writeBigUInt64LE(BigInt(length), 8);
  return bytes;
}

describe("detect", () => {
  it("finds the identity wherever the length puts it", async () => {
    for (const length of [1, 4096, 262_143, 2_097_152, 8_385_866, 2 ** 31]) {
      for (const extra of [0, 512 * 77]) {
        // The largest is found on devices made for it.
        if (length === 2 ** 31 && extra > 0) continue;
        const bitmap = new MemoryDevice(bitmapDeviceSize(length) + extra);
        const data = new ZeroDevice(length * SECTOR);
        await createLayer({ bitmap, data, offset: 0 }, { sectors: length });
        expect(await images.detect(bitmap), `${length} + ${extra}`).toMatchObject({
          certainty: "magic",
          role: "bitmap",
        });
        expect(await images.info({ bitmap }, work)).toMatchObject({ kind: "layer", bytes: length * SECTOR });
      }
    }
  });

  it("knows layers of the original, and damaged ones; and nothing else", async () => {
    const { bitmap } = await layer();
    const block = Buffer.alloc(4096);
    await bitmap.read(place, block);
    block.writeUInt8(block.readUInt8(40) ^ 1, 40);
    await bitmap.write(place, block);
    expect(await images.detect(bitmap)).toMatchObject({ certainty: "plausible" });
    await bitmap.write(place, original(bitmapLength(sectors)));
    expect(await images.detect(bitmap)).toMatchObject({
      certainty: "magic",
      text: expect.stringContaining("original"),
    });
    // In a place where it does not belong.
    await bitmap.write(place, original(5000));
    expect(await images.detect(bitmap)).toBeUndefined();
    const random = new SeededRandom(seed);
    for (const size of [0, 512, 4096, 98_304, 102_400, 2 ** 20]) {
      expect(await images.detect(new MemoryDevice(size))).toBeUndefined();
      expect(await images.detect(await withBytes(random.fill(Buffer.alloc(size))))).toBeUndefined();
    }
  });

  it("looks at few places of a large device", async () => {
    let reads = 0;
    class Counting extends MemoryDevice {
      protected override doRead(offset: number, into: Buffer): Promise<void> {
        reads += 1;
        return super.doRead(offset, into);
      }
    }
    expect(await images.detect(new Counting(2 ** 36))).toBeUndefined();
    expect(reads).toBeLessThanOrEqual(1024);
  });
});

describe("info", () => {
  it("tells what a layer is", async () => {
    const { bitmap, data } = await layer();
    expect(await images.info({ bitmap }, work)).toMatchObject({
      allocated_bytes: 20 * SECTOR,
      lies_on: "the base",
    });
    const fresh = newLayer(sectors);
    expect(await code(images.info({ bitmap: fresh.bitmap }, work))).toBe("EFORMAT");
    expect(await images.info({ bitmap: fresh.bitmap, data }, work)).toMatchObject({ kind: "new" });
    expect(await code(images.info({}, work))).toBe("EINVAL");
    await bitmap.write(place, original(bitmapLength(sectors)));
    expect(await images.info({ bitmap }, work)).toMatchObject({
      bitmap_sectors: 65,
      least_bytes: 64 * 4096 * SECTOR,
    });
  });
});

describe("check and repair", () => {
  it("find nothing in a sound layer, whatever else is given", async () => {
    const { bitmap, data } = await layer();
    const base = new MemoryDevice(sectors * SECTOR);
    for (const devices of [{ bitmap }, { bitmap, data }, { bitmap, base }, { bitmap, data, base }]) {
      expect(await kinds(devices)).toEqual([]);
      expect(await images.repair?.(devices, work)).toEqual({ repaired: [], left: [] });
    }
  });

  it("find each kind of problem, and leave alone what would be a guess", async () => {
    const { bitmap, data } = await layer();
    const base = new MemoryDevice(sectors * SECTOR);
    expect(await kinds({ bitmap, data: new MemoryDevice(4096) })).toEqual(["error too-small"]);
    expect(await kinds({ bitmap, base: new MemoryDevice(4096) })).toEqual(["error no-base"]);
    expect(await kinds({ bitmap: new MemoryDevice(2 ** 20) })).toEqual(["error no-identity"]);
    const above = newLayer(sectors);
    await createLayer(above, { sectors, below: bitmap });
    expect(await kinds({ bitmap: above.bitmap })).toEqual([]);
    expect(await kinds({ bitmap: above.bitmap, base })).toEqual(["warning wrong-parent"]);
    const block = Buffer.alloc(4096);
    await bitmap.read(place, block);
    const before = await contents(bitmap);
    for (const [damage, expected] of [
      [Buffer.alloc(4096), ["error no-identity"]],
      [original(bitmapLength(sectors)), ["warning original"]],
      [Buffer.concat([block.subarray(0, 100), Buffer.alloc(3996, 1)]), ["error damaged"]],
    ] as const) {
      await bitmap.write(place, damage);
      expect(await kinds({ bitmap })).toEqual(expected);
      expect((await images.repair?.({ bitmap }, work))?.repaired).toEqual([]);
    }
    await bitmap.write(place, Buffer.alloc(4096));
    expect(await kinds({ bitmap, data })).toEqual(["error new-with-bits", "error new-with-bits"]);
    await bitmap.write(place, block);
    expect((await contents(bitmap)).equals(before)).toBe(true);
  });

  it("clear stray bits, also when they are cut short at any write", async () => {
    const { bitmap, data } = await layer();
    const sound = await contents(bitmap);
    const spoilt = Buffer.from(sound);
    const random = new SeededRandom(seed);
    for (let count = 0; count < 20; count += 1) {
      const bit = sectors + random.below(place * 8 - sectors);
      spoilt.writeUInt8(spoilt.readUInt8(bit >> 3) | (1 << (bit & 7)), bit >> 3);
    }
    const device = await withBytes(spoilt);
    const found: ImageProblem[] = [];
    for await (const problem of images.check({ bitmap: device, data }, work)) found.push(problem);
    expect(new Set(found.map(({ kind }) => kind))).toEqual(new Set(["stray-bits"]));
    const report = await images.repair?.({ bitmap: device }, work);
    expect(report?.repaired).toHaveLength(found.length);
    expect((await contents(device)).equals(sound)).toBe(true);
    let cuts = 0;
    for (let limit = 1; ; limit += 1) {
      const disk = new PowerCut(spoilt, limit);
      if ((await code(images.repair?.({ bitmap: disk }, work))) === "no error") break;
      cuts += 1;
      const survivor = disk.survivor(random);
      await images.repair?.({ bitmap: survivor }, work);
      expect((await contents(survivor)).equals(sound), `seed ${seed}, write ${limit}`).toBe(true);
      expect((await images.repair?.({ bitmap: survivor }, work))?.repaired).toEqual([]);
    }
    expect(cuts).toBe(found.length);
  });
});

describe("dump and restore", () => {
  it("give the bitmap device back, byte for byte", async () => {
    const { bitmap } = await layer();
    const before = await contents(bitmap);
    const dumped = await images.dump?.({ bitmap }, work);
    expect(dumped).toMatchObject({ version: 1, identity: { sectors, frozen: false }, bits: runs });
    const text = JSON.stringify(dumped);
    // Over nothing, over noise, and over a layer of another length.
    const longer = newLayer(sectors * 2).bitmap;
    await createLayer({ ...newLayer(sectors * 2), bitmap: longer }, { sectors: sectors * 2 });
    for (const target of [
      new MemoryDevice(bitmap.size),
      await withBytes(new SeededRandom(seed).fill(Buffer.alloc(bitmap.size))),
      longer,
    ]) {
      await images.restore?.({ bitmap: target }, JSON.parse(text), work);
      expect(JSON.stringify(await images.dump?.({ bitmap: target }, work))).toBe(text);
      expect(await kinds({ bitmap: target })).toEqual([]);
      const bits = Math.ceil(sectors / 8);
      expect((await contents(target)).subarray(0, bits).equals(before.subarray(0, bits))).toBe(true);
    }
  });

  it("keep what the original wrote", async () => {
    const bitmap = new MemoryDevice(bitmapDeviceSize(sectors));
    await bitmap.write(0, Buffer.alloc(512, 0x5a));
    await bitmap.write(place, original(65));
    const before = await contents(bitmap);
    const text = JSON.stringify(await images.dump?.({ bitmap }, work));
    await bitmap.writeZeroes(0, bitmap.size);
    await images.restore?.({ bitmap }, JSON.parse(text), work);
    expect((await contents(bitmap)).equals(before)).toBe(true);
  });

  it("refuse what cannot be, and write nothing then", async () => {
    const { bitmap } = await layer();
    const before = await contents(bitmap);
    const good = (await images.dump?.({ bitmap }, work)) as { identity: object; bits: unknown[] };
    const { identity } = good;
    for (const [index, bad] of [
      undefined,
      [],
      { ...good, version: 2 },
      { ...good, identity: undefined },
      { ...good, identity: { ...identity, sectors: sectors * 100 } },
      { ...good, identity: { ...identity, sectors: 1e300 } },
      { ...good, identity: { ...identity, uuid: "x" } },
      { ...good, identity: { ...identity, frozen: 1 } },
      { ...good, bits: [[0]] },
      { ...good, bits: [[-1, 2]] },
      { ...good, bits: [[sectors - 1, 2]] },
      {
        ...good,
        bits: [
          [0, 10],
          [5, 10],
        ],
      },
      { ...good, bits: [[0, 0]] },
      { version: 1, original: { bitmapLength: 2 ** 40 }, bits: [] },
    ].entries()) {
      expect(await code(images.restore?.({ bitmap }, bad, work)), `dump ${index}`).toBe("EINVAL");
    }
    expect((await contents(bitmap)).equals(before)).toBe(true);
    await bitmap.write(place - 512, Buffer.alloc(512, 1));
    expect(await code(images.dump?.({ bitmap }, work))).toBe("EFORMAT");
    expect(await code(images.dump?.({ bitmap: new MemoryDevice(2 ** 20) }, work))).toBe("EFORMAT");
  });

  it("cut short leave no layer, or the whole one", async () => {
    const { bitmap, data } = await layer();
    const dumped = await images.dump?.({ bitmap }, work);
    const random = new SeededRandom(seed);
    const other = newLayer(sectors).bitmap;
    await createLayer({ bitmap: other, data, offset: 0 }, { sectors, force: true });
    for (let limit = 1; ; limit += 1) {
      const disk = new PowerCut(await contents(other), limit);
      if ((await code(images.restore?.({ bitmap: disk }, dumped, work))) === "no error") break;
      const survivor = disk.survivor(random);
      const now = await images.dump?.({ bitmap: survivor }, work).catch(() => undefined);
      if (now !== undefined && limit > 1) expect(now, `seed ${seed}, write ${limit}`).toEqual(dumped);
      await images.restore?.({ bitmap: survivor }, dumped, work);
      expect(await images.dump?.({ bitmap: survivor }, work)).toEqual(dumped);
    }
  });
});

/** Runs of a strip in sectors, checked to be in order. */
function ranges({ strips, legend }: ImageMap, strip: number): [string, number, number][] {
  const { size = 0, ranges: all = [] } = strips[strip] ?? {};
  let end = 0;
  const found: [string, number, number][] = [];
  for (const { kind, offset, length } of all) {
    expect(offset).toBeGreaterThanOrEqual(end);
    expect(length).toBeGreaterThan(0);
    expect(legend[kind]).toBeDefined();
    end = offset + length;
    found.push([kind, offset / SECTOR, length / SECTOR]);
  }
  expect(end).toBeLessThanOrEqual(size);
  return found;
}

describe("map", () => {
  it("draws the layer, what it shows over a base, and the bitmap device", async () => {
    const { bitmap } = await layer();
    const base = new MemoryDevice(sectors * SECTOR);
    await base.write(0, Buffer.alloc(65_536, 1));
    const map = await images.map({ bitmap, base }, work);
    const alone = [
      ["hole", 0, 3],
      ["layer", 3, 10],
      ["hole", 13, 262_127],
      ["layer", 262_140, 9],
      ["hole", 262_149, 851],
      ["hole", 263_000, 0],
      ["layer", 263_000, 1],
    ].filter(([, , count]) => count !== 0);
    expect(ranges(map, 0)).toEqual(alone);
    expect(ranges(map, 0)).toEqual(alone);
    expect(ranges(map, 1)).toEqual([
      ["base", 0, 3],
      ["layer", 3, 10],
      ["base", 13, 115],
      ["hole", 128, 262_012],
      ...alone.slice(3),
    ]);
    expect(ranges(map, 2)).toEqual([
      ["bitmap", 0, 65],
      ["identity", place / SECTOR, 8],
    ]);
    expect((await images.map({ bitmap }, work)).strips).toHaveLength(2);
  });
});

describe("a bitmap with a bad sector", () => {
  it("is shown, counted and dumped but for that; the dump is not taken for a whole one", async () => {
    const { bitmap: whole } = await layer();
    const bitmap = new BadSectors(whole.size);
    await bitmap.write(0, await contents(whole));
    // It speaks for nothing that is set, and so did the next.
    bitmap.bad.add(9).add(0);
    const facts = await images.info?.({ bitmap }, work);
    expect(facts).toMatchObject({ unreadable_bitmap_sectors: 2, allocated_bytes: 10 * SECTOR });
    expect(ranges(await images.map({ bitmap }, work), 1)).toEqual([
      ["bad", 0, 1],
      ["bitmap", 1, 8],
      ["bad", 9, 1],
      ["bitmap", 10, 55],
      ["identity", place / SECTOR, 8],
    ]);
    const dumped = JSON.parse(JSON.stringify(await images.dump?.({ bitmap }, work)));
    expect(dumped).toMatchObject({ bits: runs.slice(1), unreadable: [0, 9 * SECTOR] });
    const restored = images.restore?.({ bitmap: whole }, dumped, work);
    await expect(restored).rejects.toMatchObject({ code: "EINVAL" });
  });
});

describe("format", () => {
  it("makes a layer for a base, or for as many bytes as are said", async () => {
    const base = new MemoryDevice(sectors * SECTOR);
    for (const [options, expected] of [
      [{}, sectors * SECTOR],
      [{ size: "1M" }, 2 ** 20],
    ] as const) {
      const { bitmap, data } = newLayer(sectors);
      await images.format?.({ bitmap, data, base }, options, work);
      expect(await images.info({ bitmap }, work)).toMatchObject({ bytes: expected, allocated_bytes: 0 });
      expect(await kinds({ bitmap, data, base })).toEqual([]);
    }
  });

  it("does not touch what is there, unless it is forced to", async () => {
    const stack = await newStack(1);
    await buildStack(stack, async (device) => device.write(0, Buffer.alloc(SECTOR, 1)));
    const { bitmap, data } = layerOf(stack, 1);
    expect(await code(images.format?.({ bitmap, data }, {}, work))).toBe("EEXIST");
    expect(await code(images.format?.({ bitmap }, {}, work))).toBe("EINVAL");
    expect(await code(images.format?.({ bitmap, data }, { size: "513" }, work))).toBe("EINVAL");
    expect(await code(images.format?.({ bitmap, data }, { size: "1G" }, work))).toBe("EINVAL");
    await images.format?.({ bitmap, data }, { force: "1" }, work);
    expect(await images.info({ bitmap }, work)).toMatchObject({ allocated_bytes: 0 });
    const device = await openStack(stack, quiet);
    expect((await contents(device)).equals(await contents(stack.base))).toBe(true);
    await device.close();
  });
});
