/** Layers of another length: what they show then, and what is left where the power fails at any write. */
import { MemoryDevice, SECTOR, isZero } from "@dmkit/block-io";
import { PowerCut, SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import {
  type LayerDevices,
  type StackDevices,
  bitmapDeviceSize,
  check,
  createLayer,
  findIdentity,
  labelledSize,
  layersToResize,
  openStack,
  resizeLayer,
} from "../src/index.ts";
import { freeLabel } from "../src/device/layer/pairing.ts";
import { quiet } from "./stacks.ts";

// An identity lies at another place from 262144 sectors on, and the bitmap of the longest covers the first such place.
const SHORT = 20_001;
const lengths = [SHORT + 3, 40_000, 262_144, 1_000_003, 3_000_000];

interface Made {
  readonly base: MemoryDevice;
  readonly layer: LayerDevices;
  readonly stack: StackDevices;
}

/** A base of a telling byte everywhere it is looked at, and a layer with something in some places. */
async function made(sectors: number, most: number, label = true): Promise<Made> {
  const base = new MemoryDevice(most * SECTOR, { name: "base" });
  for (const at of [0, sectors - 1, sectors, most - 1].filter((sector) => sector < most))
    await base.write(at * SECTOR, Buffer.alloc(SECTOR, 0xba));
  const layer = {
    bitmap: new MemoryDevice(bitmapDeviceSize(sectors), { name: "map" }),
    data: new MemoryDevice(labelledSize(most), { name: "data" }),
    offset: 0,
  };
  if (label) await freeLabel(layer, sectors);
  await createLayer(layer, { sectors, force: true });
  const stack = { base, baseOffset: 0, layers: [layer], sectors };
  const device = await openStack(stack, quiet);
  for (let sector = 0; sector < sectors; sector += 601)
    await device.write(
      sector * SECTOR,
      Buffer.alloc(Math.min(9, sectors - sector) * SECTOR, 1 + (sector % 250)),
    );
  await device.close();
  return { base, layer, stack };
}

async function shown(stack: StackDevices, sectors: number): Promise<Buffer> {
  const device = await openStack(stack, { ...quiet, readOnly: true });
  const bytes = Buffer.alloc(sectors * SECTOR);
  await device.read(0, bytes);
  await device.close();
  return bytes;
}

async function wrong(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { text } of check(stack)) found.push(text);
  return found;
}

/** The stack with another bitmap. */
function withBitmap(stack: StackDevices, bitmap: LayerDevices["bitmap"], sectors: number): StackDevices {
  return { ...stack, sectors, layers: stack.layers.map((layer) => ({ ...layer, bitmap })) };
}

describe("a layer that becomes longer", () => {
  it.each(lengths)("shows what it has shown, and the base behind it: %i sectors", async (longer) => {
    const { base, layer, stack } = await made(SHORT, longer);
    const before = await shown(stack, SHORT);
    const into = new MemoryDevice(bitmapDeviceSize(longer));
    await resizeLayer(layer, into, longer);
    const resized = withBitmap(stack, into, longer);
    expect(await wrong(resized)).toEqual([]);
    expect((await shown(resized, SHORT)).equals(before)).toBe(true);
    const device = await openStack(resized, quiet);
    const sector = Buffer.alloc(SECTOR);
    for (const at of [SHORT, longer - 1]) {
      await device.read(at * SECTOR, sector);
      expect([at, sector[0]]).toEqual([at, at === SHORT || base.size === (at + 1) * SECTOR ? 0xba : 0]);
      await device.write(at * SECTOR, Buffer.alloc(SECTOR, 7));
      await device.read(at * SECTOR, sector);
      expect(sector[0]).toBe(7);
    }
    await device.close();
    expect(await wrong(resized)).toEqual([]);
  });

  it("has its label where the new length has it, and none where there is no room", async () => {
    for (const label of [true, false]) {
      const { layer } = await made(SHORT, 40_000, label);
      const into = new MemoryDevice(bitmapDeviceSize(40_000));
      expect((await resizeLayer(layer, into, 40_000)).labelled).toBe(label);
    }
  });
});

it("does not grow over what lies behind its data, unless it is told to: that may be of somebody else", async () => {
  for (const label of [true, false]) {
    const { layer } = await made(SHORT, 40_000, label);
    const into = (): MemoryDevice => new MemoryDevice(bitmapDeviceSize(40_000));
    const place = layer.offset + 30_001 * SECTOR;
    await layer.data.write(place, Buffer.alloc(SECTOR, 1));
    const untouched = into();
    await expect(resizeLayer(layer, untouched, 40_000)).rejects.toMatchObject({ code: "EEXIST" });
    expect(isZero(await contentsOf(untouched))).toBe(true);
    await resizeLayer(layer, into(), 40_000, { force: true });
    await layer.data.write(place, Buffer.alloc(SECTOR));
    await resizeLayer(layer, into(), 40_000);
  }
});

describe("a layer that becomes shorter", () => {
  it("has to be told so, and loses nothing but zeroes", async () => {
    const { layer, stack } = await made(40_000, 40_000);
    const into = (): MemoryDevice => new MemoryDevice(bitmapDeviceSize(SHORT));
    await expect(resizeLayer(layer, into(), SHORT)).rejects.toMatchObject({ code: "EINVAL" });
    await expect(resizeLayer(layer, into(), SHORT, { shrink: true })).rejects.toMatchObject({
      code: "EINVAL",
    });
    const device = await openStack(stack, quiet);
    await device.writeZeroes(SHORT * SECTOR, (40_000 - SHORT) * SECTOR);
    await device.close();
    const before = await shown(stack, 40_000);
    const shorter = into();
    await resizeLayer(layer, shorter, SHORT, { shrink: true });
    // The old one counts until its bitmap is replaced, and longer where that is kept.
    expect((await shown(stack, 40_000)).equals(before)).toBe(true);
    await resizeLayer(layer, into(), SHORT, { shrink: true });
    const resized = withBitmap(stack, shorter, SHORT);
    expect(await wrong(resized)).toEqual([]);
    expect((await shown(resized, SHORT)).equals(before.subarray(0, SHORT * SECTOR))).toBe(true);
  });
});

it("refuses what is no layer, a base that ends before, and data of another layer", async () => {
  const { layer, stack } = await made(SHORT, 40_000);
  const into = new MemoryDevice(bitmapDeviceSize(40_000));
  expect(await layersToResize(stack, 40_000)).toEqual([1]);
  expect(await layersToResize(stack, SHORT)).toEqual([]);
  await expect(layersToResize(stack, 40_001)).rejects.toMatchObject({ code: "EINVAL" });
  const none = { ...layer, bitmap: new MemoryDevice(bitmapDeviceSize(SHORT)) };
  await expect(resizeLayer(none, into, 40_000)).rejects.toMatchObject({ code: "EFORMAT" });
  const other = await made(SHORT, 40_000);
  await expect(resizeLayer({ ...layer, data: other.layer.data }, into, 40_000)).rejects.toMatchObject({
    code: "EFORMAT",
  });
  const small = new MemoryDevice(bitmapDeviceSize(SHORT) - 4096);
  await expect(resizeLayer(layer, small, 40_000)).rejects.toMatchObject({ code: "EINVAL" });
});

/** Forgets the first flush: the identity is written with the bits. */
class Torn extends PowerCut {
  #first = true;

  protected override doFlush(): Promise<void> {
    if (!this.#first) return super.doFlush();
    this.#first = false;
    return Promise.resolve();
  }
}

/** In how many ways a cut leaves something else than the old layer, or the new one. */
async function failures(seed: number, kind: typeof PowerCut): Promise<number> {
  const [short, longer] = [5000, 5100];
  const { layer, stack } = await made(short, longer);
  const before = await shown(stack, short);
  const random = new SeededRandom(seed);
  const contents = await contentsOf(layer.data);
  let failed = 0;
  for (let limit = 1; ; limit += 1) {
    const into = new kind(Buffer.alloc(bitmapDeviceSize(longer)), limit);
    const data = new PowerCut(contents, 0);
    const done = await resizeLayer({ ...layer, data }, into, longer).then(
      () => true,
      () => false,
    );
    const left = { bitmap: into.survivor(random), data: data.survivor(random), offset: 0 };
    const old = { ...stack, layers: [{ ...left, bitmap: layer.bitmap }] };
    const isLayer = (await findIdentity(left.bitmap)) !== undefined;
    const views = isLayer ? [old, { ...stack, sectors: longer, layers: [left] }] : [old];
    for (const view of views) if (!(await shown(view, short)).equals(before)) failed += 1;
    if (done) return failed;
  }
}

it("is the old one or the new one, wherever the power fails", async () => {
  expect(await failures(1, PowerCut)).toBe(0);
  // The identity that is stable before its bits is noticed.
  let noticed = 0;
  for (let seed = 1; seed <= 10 && noticed === 0; seed += 1) noticed += await failures(seed, Torn);
  expect(noticed).toBeGreaterThan(0);
});
