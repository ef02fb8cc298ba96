/** Where a layer's data is, and whether a data device is the one the layer was written to. */
import { BlockIoError, MemoryDevice, SECTOR } from "@dmkit/block-io";
import { PowerCut, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { bitmapDeviceSize } from "../src/format/geometry.ts";
import type { Identity } from "../src/format/identity.ts";
import { freeLabel } from "../src/device/layer/pairing.ts";
import { labelPlace, labelledSize } from "../src/format/label.ts";
import {
  type CowDevice,
  type LayerDevices,
  type StackDevices,
  check,
  commitTop,
  cowImages,
  createLayer,
  flatten,
  openStack,
  pair,
  readIdentity,
  rebase,
  squash,
  stackInfo,
} from "../src/index.ts";
import { writeIdentity } from "../src/device/layer/layer.ts";
import { labelledFor } from "../src/device/layer/pairing.ts";
import { baseImage, contents, layerOf, pattern, quiet } from "./stacks.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (process.pid % 100_000));
const sectors = 2000;
const size = sectors * SECTOR;

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

async function kinds(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { layer, kind } of check(stack)) found.push(`${layer} ${kind}`);
  return found;
}

/** @param room for a label. */
async function blankLayer(room: boolean, offset = 0): Promise<LayerDevices> {
  const data = new MemoryDevice(offset + (room ? labelledSize(sectors) : size), { name: "data" });
  const layer = { bitmap: new MemoryDevice(bitmapDeviceSize(sectors), { name: "bitmap" }), data, offset };
  if (room) await freeLabel(layer, sectors);
  return layer;
}

async function identityOf({ bitmap }: LayerDevices): Promise<Identity> {
  const found = await readIdentity(bitmap, sectors);
  if (found.kind !== "layer") throw new Error(`it is ${found.kind}`);
  return found.identity;
}

async function stackOf(...layers: LayerDevices[]): Promise<StackDevices> {
  return { base: await baseImage(sectors), baseOffset: 0, layers, sectors };
}

async function use(stack: StackDevices, work: (device: CowDevice) => Promise<unknown>): Promise<void> {
  const device = await openStack(stack, quiet);
  await work(device);
  await device.close();
}

/** As if its process had been killed: what was flushed is there, nobody has closed it. */
async function killed(stack: StackDevices, work: (device: CowDevice) => Promise<unknown>): Promise<void> {
  const device = await openStack(stack, quiet);
  await work(device);
  await device.flush();
}

const fill = (byte: number) => (device: CowDevice) =>
  device.write(8 * SECTOR, Buffer.alloc(40 * SECTOR, byte));

describe("offsets", () => {
  const offsets = { base: 40 * SECTOR, data: 64 * SECTOR };

  async function moved(): Promise<StackDevices> {
    const stack = {
      base: await baseImage(sectors, offsets.base),
      baseOffset: offsets.base,
      layers: [await blankLayer(false, offsets.data)],
      sectors,
    };
    await use(stack, fill(7));
    return stack;
  }

  const elsewhere = (stack: StackDevices): StackDevices[] => [
    { ...stack, baseOffset: 0 },
    { ...stack, layers: [{ ...layerOf(stack, 1), offset: 0 }] },
  ];

  it("are recorded, and every operation refuses others", async () => {
    const stack = await moved();
    expect(await identityOf(layerOf(stack, 1))).toMatchObject({ dataOffset: 64, baseOffset: 40 });
    const base = await contents(stack.base);
    for (const wrong of elsewhere(stack)) {
      expect(await kinds(wrong)).toContain("1 wrong-offset");
      expect((await stackInfo(wrong)).problems.map(({ kind }) => kind)).toContain("wrong-offset");
      expect(await code(openStack(wrong, quiet))).toBe("EFORMAT");
      expect(await code(commitTop(wrong))).toBe("EFORMAT");
      expect(await code(flatten(wrong, new MemoryDevice(size)))).toBe("EFORMAT");
      expect(await code(rebase(wrong, { ...wrong, layers: [] }))).toBe("EFORMAT");
    }
    expect((await contents(stack.base)).equals(base)).toBe(true);
    const wanted = pattern(sectors, "base");
    wanted.fill(7, 8 * SECTOR, 48 * SECTOR);
    const image = new MemoryDevice(size);
    await flatten(stack, image);
    expect((await contents(image)).equals(wanted)).toBe(true);
    expect(await commitTop(stack)).toBe(40 * SECTOR);
    expect((await contents(stack.base)).subarray(offsets.base).equals(wanted)).toBe(true);
    expect((await contents(stack.base)).subarray(0, offsets.base).every((byte) => byte === 0)).toBe(true);
  });

  it("are recorded when an earlier version's layer is opened for writing, and follow a rebase and a squash", async () => {
    const stack = await moved();
    const layer = layerOf(stack, 1);
    const { uuid, parent } = await identityOf(layer);
    await writeIdentity(layer.bitmap, { uuid, parent, sectors, frozen: false });
    await use(stack, async () => {});
    expect(await identityOf(layer)).toMatchObject({ dataOffset: 64, baseOffset: 40 });
    const onto = { ...stack, base: await baseImage(sectors), baseOffset: 0, layers: [] };
    await rebase(stack, onto);
    expect(await identityOf(layer)).toMatchObject({ dataOffset: 64, baseOffset: 0 });
    const top = await blankLayer(false);
    const both = { ...onto, layers: [layer, top] };
    await use(both, fill(9));
    expect(await identityOf(top)).not.toHaveProperty("baseOffset");
    await squash(both, 1, 2);
    expect(await identityOf(top)).toMatchObject({ dataOffset: 0, baseOffset: 0 });
  });

  it("keep base and layers apart on one device, and overlapping ones are refused", async () => {
    const disk = new MemoryDevice(3 * size);
    await disk.write(0, pattern(sectors, "base"));
    const layer = (offset: number): LayerDevices => ({
      bitmap: new MemoryDevice(bitmapDeviceSize(sectors)),
      data: disk,
      offset,
    });
    const stack = { base: disk, baseOffset: 0, layers: [layer(size)], sectors };
    await use(stack, fill(1));
    const second = layer(2 * size);
    const device = await openStack(stack, quiet);
    expect(await code(device.freeze(layer(2 * size - SECTOR)))).toBe("EINVAL");
    await device.freeze(second);
    await device.write(0, Buffer.alloc(SECTOR, 2));
    await device.close();
    const both = { ...stack, layers: [...stack.layers, second] };
    const wanted = pattern(sectors, "base");
    wanted.fill(1, 8 * SECTOR, 48 * SECTOR).fill(2, 0, SECTOR);
    const image = new MemoryDevice(size);
    await flatten(both, image);
    expect((await contents(image)).equals(wanted)).toBe(true);
    expect((await contents(disk)).subarray(0, size).equals(pattern(sectors, "base"))).toBe(true);
    expect(await code(openStack({ ...stack, layers: [layer(size - SECTOR)] }, quiet))).toBe("EINVAL");
    expect(await code(openStack({ ...stack, layers: [{ ...layer(0), bitmap: disk }] }, quiet))).toBe(
      "EINVAL",
    );
  });
});

describe.each([
  ["a label", true],
  ["samples", false],
])("data devices of two layers that were exchanged, by %s", (_, room) => {
  async function two(work: typeof use): Promise<[StackDevices, StackDevices]> {
    const stacks = [await stackOf(await blankLayer(room)), await stackOf(await blankLayer(room))] as const;
    for (const [index, stack] of stacks.entries()) await work(stack, fill(index + 1));
    return [...stacks];
  }

  const exchanged = (stack: StackDevices, other: StackDevices): StackDevices => ({
    ...stack,
    layers: [{ ...layerOf(stack, 1), data: layerOf(other, 1).data }],
  });

  it("are refused by everything", async () => {
    const [one, other] = await two(use);
    const wrong = exchanged(one, other);
    const { bitmap, data } = layerOf(wrong, 1);
    const before = await contents(data);
    expect(await kinds(wrong)).toEqual(["1 wrong-data"]);
    expect(await code(openStack(wrong, quiet))).toBe("EFORMAT");
    expect(await code(openStack(wrong, { ...quiet, readOnly: true }))).toBe("EFORMAT");
    expect(await code(commitTop(wrong))).toBe("EFORMAT");
    expect(await code(flatten(wrong, new MemoryDevice(size)))).toBe("EFORMAT");
    const work = { environment: (await import("./environment.ts")).environment(() => {}) };
    const found = [];
    for await (const { kind } of cowImages.check({ bitmap, data }, work)) found.push(kind);
    expect(found).toEqual(["wrong-data"]);
    expect((await contents(data)).equals(before)).toBe(true);
    await use(one, async () => {});
  });

  it("are refused in one stack", async () => {
    const [bottom, top] = [await blankLayer(room), await blankLayer(room)];
    const stack = await stackOf(bottom, top);
    await use({ ...stack, layers: [bottom] }, async (device) => {
      await fill(1)(device);
      await device.freeze(top);
      await fill(2)(device);
    });
    expect(await kinds(stack)).toEqual([]);
    const wrong = {
      ...stack,
      layers: [
        { ...bottom, data: top.data },
        { ...top, data: bottom.data },
      ],
    };
    expect(await kinds(wrong)).toEqual(["1 wrong-data", "2 wrong-data"]);
    expect(await code(openStack(wrong, quiet))).toBe("EFORMAT");
  });

  it("are refused when a process that had opened them twice was killed", async () => {
    const [one, other] = await two(killed);
    for (const stack of [one, other])
      await killed(stack, (device) => device.write(0, Buffer.alloc(SECTOR, 3)));
    expect(await code(openStack(exchanged(one, other), quiet))).toBe("EFORMAT");
    await use(one, async () => {});
  });

  it("are taken when that is insisted on", async () => {
    const [one, other] = await two(use);
    const wrong = exchanged(one, other);
    expect(await code(pair(wrong))).toBe(room ? "EEXIST" : "no error");
    await pair(wrong, { take: true });
    expect(await kinds(wrong)).toEqual([]);
    expect(await code(openStack(one, quiet))).toBe("EFORMAT");
  });
});

describe("a label", () => {
  it("is taken by a new layer, and keeps others from the device, whose layer may be empty", async () => {
    const layer = await blankLayer(true);
    await createLayer(layer, { sectors });
    expect(await identityOf(layer)).toMatchObject({ labelled: true });
    const other = await blankLayer(true);
    const wrong = { ...other, data: layer.data };
    expect(await code(createLayer(wrong, { sectors }))).toBe("EEXIST");
    expect(await code(openStack(await stackOf(wrong), quiet))).toBe("EFORMAT");
    const device = await openStack(await stackOf(other), quiet);
    expect(await code(device.freeze({ ...(await blankLayer(true)), data: layer.data }))).toBe("EEXIST");
    await device.close();
  });

  it("is looked for behind the data, and what else is there is nobody's label", async () => {
    expect(labelPlace(64 * SECTOR, 1)).toBe(64 * SECTOR + 4096);
    expect(labelledSize(9)).toBe(8192 + 4096);
    const layer = await blankLayer(true);
    await layer.data.write(labelPlace(0, sectors), Buffer.alloc(SECTOR, "dmkitdat"));
    await use(await stackOf(layer), fill(1));
    expect(await identityOf(layer)).not.toHaveProperty("labelled");
  });

  it("is given back when the layer is dropped, at whatever write that is cut short", async () => {
    const random = new SeededRandom(seed);
    for (let limit = 1, over = false; !over; limit += 1) {
      const [bottom, top] = [await blankLayer(true), await blankLayer(true)];
      const stack = await stackOf(bottom, top);
      await createLayer(bottom, { sectors });
      await createLayer(top, { sectors, below: bottom.bitmap });
      await use(stack, fill(4));
      const cut = new PowerCut(await contents(top.bitmap), limit);
      const cutData = new PowerCut(await contents(top.data), 0);
      const during = { ...stack, layers: [bottom, { ...top, bitmap: cut, data: cutData }] };
      over = (await code(commitTop(during, { drop: true }))) === "no error";
      const left = { ...top, bitmap: cut.survivor(random), data: cutData.survivor(random) };
      const after = { ...stack, layers: [bottom, left] };
      const where = `seed ${seed}, write ${limit}`;
      expect(await kinds(after), where).toEqual([]);
      await commitTop(after, { drop: true });
      // Both can be used at once: the layer below by itself, and what was the top anywhere else.
      expect(await code(use({ ...stack, layers: [bottom] }, fill(5))), where).toBe("no error");
      expect(await labelledFor(left, sectors), where).toBeUndefined();
      expect(await code(openStack(await stackOf(left), { ...quiet, force: true })), where).toBe("no error");
    }
  });
});

describe("samples", () => {
  it("never name what is being written, so no write, flush or kill makes them wrong", async () => {
    const random = new SeededRandom(seed);
    const stack = await stackOf(await blankLayer(false));
    const layer = layerOf(stack, 1);
    for (let round = 0; round < 30; round += 1) {
      const work = round % 3 === 0 ? use : killed;
      await work(stack, async (device) => {
        for (let write = 0; write < 6; write += 1) {
          const first = random.below(sectors - 9);
          const bytes = (1 + random.below(8)) * SECTOR;
          if (random.chance(0.2)) await device.writeZeroes(first * SECTOR, bytes);
          else
            await device.write(first * SECTOR, random.fill(Buffer.alloc(bytes)), { fua: random.chance(0.3) });
        }
      });
      expect(await kinds(stack), `seed ${seed}, round ${round}`).toEqual([]);
      expect((await identityOf(layer)).samples?.length ?? 0).toBeLessThanOrEqual(16);
    }
  });

  it("let one sector that has rotted pass with a warning, and no more", async () => {
    const stack = await stackOf(await blankLayer(false));
    await use(stack, (device) => device.write(0, pattern(1000, "layer")));
    const layer = layerOf(stack, 1);
    const [first, second] = (await identityOf(layer)).samples ?? [];
    expect((await identityOf(layer)).samples).toHaveLength(16);
    await layer.data.write((first?.sector ?? 0) * SECTOR, Buffer.alloc(SECTOR, 1));
    expect(await kinds(stack)).toEqual(["1 changed-data"]);
    expect(await code(openStack(stack, { ...quiet, readOnly: true }))).toBe("no error");
    await layer.data.write((second?.sector ?? 0) * SECTOR, Buffer.alloc(SECTOR, 1));
    expect(await kinds(stack)).toEqual(["1 wrong-data"]);
    await pair(stack);
    expect(await kinds(stack)).toEqual([]);
  });

  it("are of all over the layer, and of sectors with something in them", async () => {
    const stack = await stackOf(await blankLayer(false));
    await use(stack, async (device) => {
      await device.write(0, Buffer.alloc(1500 * SECTOR));
      for (const at of [3, 700, 1400]) await device.write(at * SECTOR, Buffer.alloc(200 * SECTOR, at % 251));
    });
    const found = (await identityOf(layerOf(stack, 1))).samples?.map(({ sector }) => sector) ?? [];
    expect(found).toHaveLength(16);
    expect(found.every((sector) => [3, 700, 1400].some((at) => sector >= at && sector < at + 200))).toBe(
      true,
    );
    expect(new Set(found.map((sector) => Math.floor(sector / 700))).size).toBe(3);
  });
});
