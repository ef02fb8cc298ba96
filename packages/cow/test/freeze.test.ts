import { BlockIoError, MemoryDevice, SECTOR } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { openStack } from "../src/open/open.ts";
import { readIdentity } from "../src/device/layer/layer.ts";
import { SECTORS, buildStack, layerOf, contents, newLayer, newStack, quiet } from "./stacks.ts";

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

class Full extends MemoryDevice {
  failing = false;
  protected override doFlush(): Promise<void> {
    if (!this.failing) return super.doFlush();
    return Promise.reject(new BlockIoError("full", { code: "ENOSPC", device: this.name, lossless: true }));
  }
}

describe("freeze", () => {
  it("puts a new layer on top, which is named in the stack from then on", async () => {
    const stack = await newStack();
    const bottom = layerOf(stack, 1);
    const device = await openStack(stack, quiet);
    await device.write(0, Buffer.alloc(8 * SECTOR, 1));
    const before = await contents(device);
    const top = newLayer();
    await device.freeze(top);
    expect(device.layers).toBe(2);
    await device.write(4 * SECTOR, Buffer.alloc(8 * SECTOR, 2));
    const after = await contents(device);
    expect(device.status().split(" ").slice(0, 3)).toEqual(["2", "8", "8"]);
    await device.close();
    // The frozen layer is what it was; it cannot be written any more, and the new one only fits on it.
    expect(await code(openStack(stack, quiet))).toBe("EROFS");
    const frozen = await openStack(stack, { ...quiet, readOnly: true });
    expect((await contents(frozen)).equals(before)).toBe(true);
    await frozen.close();
    const both = await openStack({ ...stack, layers: [bottom, top] }, quiet);
    expect((await contents(both)).equals(after)).toBe(true);
    await both.close();
    expect(await code(openStack({ ...stack, layers: [top] }, quiet))).toBe("EFORMAT");
  });

  it("takes a consistent point in time under load", async () => {
    const seed = 1 + (process.pid % 100_000);
    const random = new SeededRandom(seed);
    const stack = await newStack();
    const device = await openStack(stack, quiet);
    const layers = [...stack.layers];
    const slots = 64;
    const length = 16 * SECTOR;
    const acknowledged = new Uint32Array(slots);
    const submitted = new Uint32Array(slots);
    const floors: Uint32Array[] = [];
    const load = { stops: false };
    const writer = async (index: number): Promise<void> => {
      for (let version = 1; !load.stops; version += 1) {
        const slot = index * 8 + random.below(8);
        const value = (submitted[slot] ?? 0) + 1;
        submitted[slot] = value;
        await device.write(slot * length, Buffer.alloc(length, value % 251), { fua: random.chance(0.1) });
        acknowledged[slot] = value;
        if (version % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    };
    const writers = Array.from({ length: 8 }, (_, index) => writer(index));
    const ceilings: Uint32Array[] = [];
    for (let round = 0; round < 5; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      const top = newLayer();
      floors.push(acknowledged.slice());
      await device.freeze(top);
      ceilings.push(submitted.slice());
      layers.push(top);
    }
    load.stops = true;
    await Promise.all(writers);
    await device.close();
    for (let round = 0; round < 5; round += 1) {
      const frozen = await openStack(
        { ...stack, layers: layers.slice(0, round + 1) },
        { ...quiet, readOnly: true },
      );
      for (let slot = 0; slot < slots; slot += 1) {
        const into = Buffer.alloc(length);
        await frozen.read(slot * length, into);
        const floor = floors[round]?.[slot] ?? 0;
        const ceiling = ceilings[round]?.[slot] ?? 0;
        if (ceiling === 0) continue;
        const legal = Array.from({ length: ceiling - floor + 1 }, (_, index) => (floor + index) % 251);
        if (floor === 0 && into.readUInt32LE(4) === slot * 16) continue;
        expect(legal, `seed ${seed}, freeze ${round}, slot ${slot}`).toContain(into[0]);
        expect(into.equals(Buffer.alloc(length, into[0])), "a request is not torn").toBe(true);
      }
      await frozen.close();
    }
  });

  it("refuses layers in use, too small, its own, and read-only stacks", async () => {
    const stack = await newStack(2);
    await buildStack(stack, async () => {});
    const device = await openStack(stack, quiet);
    const other = await newStack();
    await (await openStack(other, quiet)).close();
    expect(await code(device.freeze(layerOf(other, 1)))).toBe("EEXIST");
    expect(await code(device.freeze(layerOf(stack, 2)))).toBe("EINVAL");
    expect(await code(device.freeze({ ...newLayer(), data: new MemoryDevice(SECTOR) }))).toBe("EINVAL");
    const dirty = newLayer();
    await dirty.bitmap.write(0, Buffer.alloc(SECTOR, 1));
    expect(await code(device.freeze(dirty))).toBe("EFORMAT");
    await device.write(0, Buffer.alloc(SECTOR));
    await device.close();
    expect(await code(device.freeze(newLayer()))).toBe("ESHUTDOWN");
    const reader = await openStack(stack, { ...quiet, readOnly: true });
    expect(await code(reader.freeze(newLayer()))).toBe("EROFS");
    await reader.close();
  });

  it("leaves a device suspended that was suspended", async () => {
    const stack = await newStack();
    const device = await openStack(stack, quiet);
    await device.suspend();
    await device.freeze(newLayer());
    let written = false;
    const writing = device.write(0, Buffer.alloc(SECTOR)).then(() => (written = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBe(false);
    await device.resume();
    await writing;
    await device.close();
  });

  it("goes on with the old top when the new one's identity cannot be written, and not at all when its own cannot", async () => {
    class Failing extends MemoryDevice {
      failing = false;
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        if (!this.failing) return super.doWrite(offset, from);
        return Promise.reject(new BlockIoError("injected", { code: "EIO", device: this.name }));
      }
    }
    const stack = await newStack();
    const bitmap = new Failing(newLayer().bitmap.size);
    const device = await openStack({ ...stack, layers: [{ ...layerOf(stack, 1), bitmap }] }, quiet);
    const other = new Failing(bitmap.size);
    other.failing = true;
    expect(await code(device.freeze({ ...newLayer(), bitmap: other }))).toBe("EIO");
    await device.write(0, Buffer.alloc(SECTOR, 4));
    await device.flush();
    other.failing = false;
    bitmap.failing = true;
    expect(await code(device.freeze({ ...newLayer(), bitmap: other }))).toBe("EIO");
    expect(await code(device.write(0, Buffer.alloc(SECTOR, 4)))).toBe("EIO");
    await device.close();
    const found = await readIdentity(bitmap, SECTORS);
    expect(found.kind === "layer" && found.identity.frozen).toBe(false);
  });

  it("with force takes nothing from the new layer's devices before all that was answered is flushed", async () => {
    const stack = await newStack();
    const bitmap = new Full(newLayer().bitmap.size);
    const device = await openStack({ ...stack, layers: [{ ...layerOf(stack, 1), bitmap }] }, quiet);
    const top = newLayer();
    for (const one of [top.bitmap, top.data]) await one.write(0, Buffer.alloc(one.size, 7));
    const before = [await contents(top.bitmap), await contents(top.data)];
    await device.write(0, Buffer.alloc(SECTOR, 4));
    bitmap.failing = true;
    expect(await code(device.freeze({ ...top, force: true }))).toBe("ENOSPC");
    const after = [await contents(top.bitmap), await contents(top.data)];
    expect(after.map((bytes, index) => bytes.equals(before[index] as Buffer))).toEqual([true, true]);
    bitmap.failing = false;
    await device.freeze({ ...top, force: true });
    expect(device.layers).toBe(2);
    await device.close();
  });

  it("does not go on with a top that may be frozen, even if the device below has lost nothing", async () => {
    const stack = await newStack();
    const bitmap = new Full(newLayer().bitmap.size);
    const bottom = { ...layerOf(stack, 1), bitmap };
    const device = await openStack({ ...stack, layers: [bottom] }, quiet);
    await device.write(0, Buffer.alloc(SECTOR, 4));
    await device.flush();
    bitmap.failing = true;
    const top = newLayer();
    const failure = await device.freeze(top).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "EIO", lossless: false });
    expect(device.failure).toBe(failure);
    bitmap.failing = false;
    expect(await code(device.write(0, Buffer.alloc(SECTOR, 5)))).toBe("EIO");
    expect(await code(device.flush())).toBe("EIO");
    await device.close();
    // The flag has landed here: with the new layer, everything is there.
    const both = await openStack({ ...stack, layers: [bottom, top] }, quiet);
    expect((await contents(both))[0]).toBe(4);
    await both.close();
  });
});
