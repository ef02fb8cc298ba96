/** Layers below the top merged into what they lie on while the stack is in use: what it shows, and what is refused. */
import { BlockIoError, type Extent, SECTOR } from "@dmkit/block-io";
import { type BadSectors, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it, vi } from "vitest";
import { readIdentity } from "../src/device/layer/layer.ts";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";
import { BASE_UUID } from "../src/format/identity.ts";
import { commitLayer } from "../src/offline/chain/commit-layer.ts";
import { check } from "../src/offline/check.ts";
import { openStack } from "../src/open/open.ts";
import { SECTORS, buildStack, contents, layerOf, newLayer, newStack, quiet } from "./stacks.ts";

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

/** Layers with something in each, some of it over each other. */
async function filled(layers: number): Promise<StackDevices> {
  const stack = await newStack(layers);
  await buildStack(stack, async (device, layer) => {
    await device.write(layer * 64 * SECTOR, Buffer.alloc(200 * SECTOR, layer));
    await device.write((SECTORS - layer * 100) * SECTOR, Buffer.alloc(99 * SECTOR, 100 + layer));
    await device.writeZeroes(3000 * SECTOR + layer * 512, 8 * SECTOR);
  });
  return stack;
}

async function shown(stack: StackDevices, readOnly = false): Promise<Buffer> {
  const device = await openStack(stack, { ...quiet, readOnly });
  const bytes = await contents(device);
  await device.close();
  return bytes;
}

async function problems(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { text } of check(stack)) found.push(text);
  return found;
}

const without = (stack: StackDevices, layer: number): StackDevices => ({
  ...stack,
  layers: stack.layers.filter((_, index) => index !== layer - 1),
});

describe.each([1, 2, 3])("layer %i of four", (layer) => {
  it("is left out, and the stack shows the same; so does the layer by itself", async () => {
    const stack = await filled(4);
    const before = await shown(stack);
    const below = await shown({ ...stack, layers: stack.layers.slice(0, layer) }, true);
    const device = await openStack(stack, quiet);
    expect((await contents(device)).equals(before)).toBe(true);
    await device.merge(layer);
    expect(device.layers).toBe(3);
    expect((await contents(device)).equals(before)).toBe(true);
    await device.write(0, Buffer.alloc(SECTOR, 7), { fua: true });
    const after = await contents(device);
    const extents: Extent[] = [];
    for await (const extent of device.extents(0, device.size)) extents.push(extent);
    expect(extents.reduce((sum, { length }) => sum + length, 0)).toBe(device.size);
    await device.close();
    expect(await problems(without(stack, layer))).toEqual([]);
    expect((await shown(without(stack, layer))).equals(after)).toBe(true);
    expect((await shown({ ...stack, layers: stack.layers.slice(0, layer) }, true)).equals(below)).toBe(true);
    expect(await code(openStack(stack, quiet))).toBe("EFORMAT");
    const above = await readIdentity(layerOf(stack, layer + 1).bitmap, SECTORS);
    const { baseOffset } = (above as Extract<typeof above, { kind: "layer" }>).identity;
    expect(baseOffset).toBe(layer === 1 ? 0 : undefined);
  });

  it("is the same offline, and nothing happens the second time", async () => {
    const stack = await filled(4);
    const before = await shown(stack);
    expect(await commitLayer(stack, layer)).toBe((200 + 99 + 8) * SECTOR);
    expect((await shown(without(stack, layer))).equals(before)).toBe(true);
    expect(await commitLayer(stack, layer)).toBe(0);
  });
});

it("goes on under load until only the top is left, layer after layer", async () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? process.pid);
  const random = new SeededRandom(seed);
  const stack = await filled(4);
  const device = await openStack(stack, quiet);
  const model = await contents(device);
  const load = { stops: false };
  const work = async (part: number): Promise<void> => {
    const [from, size] = [part * 2500, 2500];
    for (let count = 0; !load.stops; count += 1) {
      const sector = from + random.below(size - 40);
      const bytes = Buffer.alloc((1 + random.below(40)) * SECTOR, count);
      const at = sector * SECTOR;
      if (random.chance(0.5)) {
        await device.write(at, bytes, { fua: random.chance(0.1) });
        bytes.copy(model, at);
      } else {
        await device.read(at, bytes);
        expect(bytes.equals(model.subarray(at, at + bytes.length)), `DMKIT_SEED=${seed}`).toBe(true);
      }
      if (random.chance(0.1)) for await (const _ of device.extents(at, bytes.length));
      if (random.chance(0.1)) for await (const _ of device.depths(at, bytes.length));
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const working = Promise.all([0, 1, 2, 3].map(work));
  for (const layer of [2, 1, 1]) await device.merge(layer);
  load.stops = true;
  await working;
  expect(device.layers).toBe(1);
  expect((await contents(device)).equals(model)).toBe(true);
  await device.close();
  const top = { ...stack, layers: stack.layers.slice(-1) };
  expect((await shown(top)).equals(model)).toBe(true);
  expect(await readIdentity(layerOf(top, 1).bitmap, SECTORS)).toMatchObject({
    identity: { parent: BASE_UUID },
  });
});

it("leaves the stack as it was wherever it is ended, and does it all the next time", async () => {
  const stack = await filled(3);
  const before = await shown(stack);
  const device = await openStack(stack, quiet);
  const ended = new AbortController();
  const reason = new BlockIoError("told to stop", { code: "ESHUTDOWN" });
  const told: number[] = [];
  const progress = ({ done, total }: { done: number; total: number }): void => {
    told.push(done / total);
    ended.abort(reason);
  };
  expect(await code(device.merge(2, { signal: AbortSignal.abort(reason) }))).toBe("ESHUTDOWN");
  await device.merge(2, { progress, signal: ended.signal });
  // It was told when all was copied.
  expect(told).toEqual([1]);
  expect((await contents(device)).equals(before)).toBe(true);
  const merging = device.merge(1);
  const closing = device.close();
  expect(await code(merging)).toBe("ESHUTDOWN");
  await closing;
  expect((await shown(without(stack, 2))).equals(before)).toBe(true);
});

it("refuses the top and what there is not, what cannot be written, and two at a time", async () => {
  const stack = await filled(3);
  const device = await openStack(stack, quiet);
  for (const layer of [0, 3, 4, 1.5, Number.NaN]) expect(await code(device.merge(layer))).toBe("EINVAL");
  for (const words of [[], ["x"], ["-1"], ["1", "force"]])
    expect(await code(device.message(["commit", ...words]))).toBe("EINVAL");
  const first = device.merge(1);
  expect(await code(device.merge(1))).toBe("EBUSY");
  expect(await code(device.freeze(newLayer()))).toBe("EBUSY");
  await first;
  expect(device.layers).toBe(2);
  await device.message(["commit", "1"]);
  expect(await code(device.message(["commit", "1"]))).toBe("EINVAL");
  await device.close();
  const reader = await openStack(without(without(stack, 2), 1), { ...quiet, readOnly: true });
  expect(await code(reader.message(["commit", "1"]))).toBe("EROFS");
  await reader.close();
});

it("leaves out nothing where something cannot be read, or the new parent not be written", async () => {
  const stack = await filled(3);
  const before = await shown(stack);
  const device = await openStack(stack, quiet);
  const { bad } = layerOf(stack, 1).data as BadSectors;
  bad.add(70);
  expect(await code(device.merge(1))).toBe("EIO");
  bad.clear();
  expect(device.layers).toBe(3);
  expect((await contents(device)).equals(before)).toBe(true);
  await device.close();
  expect((await shown(stack)).equals(before)).toBe(true);
});

it("writes to the base only when it is stable that the layer's witness of it is forgotten, also the second time", async () => {
  const stack = await filled(2);
  const { bitmap } = layerOf(stack, 1);
  const device = await openStack(stack, quiet);
  const order: string[] = [];
  const flush = vi.spyOn(bitmap, "flush");
  flush.mockRejectedValueOnce(new BlockIoError("lost", { code: "EIO", device: "bitmap", op: "flush" }));
  expect(await code(device.merge(1))).toBe("EIO");
  flush.mockImplementation(async () => void order.push("flush"));
  const write = vi.spyOn(stack.base, "write").mockImplementation(async () => void order.push("write"));
  await device.merge(1);
  expect(order.slice(0, 2)).toEqual(["flush", "write"]);
  flush.mockRestore();
  write.mockRestore();
  await device.close();
});
