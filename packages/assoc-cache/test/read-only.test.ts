/** Read-only: everything that an opening for writing would show, and not a byte written. */
import { type BlockDevice, MemoryDevice, realEnvironment, withCapabilities } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { openOn } from "../src/testing/sim-targets.ts";
import { block, readSectors, rig } from "./support/rig.ts";

function sealed(disk: BlockDevice): BlockDevice {
  const refuse = (): Promise<void> => Promise.reject(new Error("written to"));
  const changes: Partial<BlockDevice> = {
    limits: withCapabilities(disk.limits, { readOnly: true }),
    write: refuse,
    flush: refuse,
    discard: refuse,
    writeZeroes: refuse,
  };
  return new Proxy(disk, {
    get(target, key) {
      const changed: unknown = Reflect.get(changes, key);
      if (changed !== undefined) return changed;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value as () => unknown).bind(target) : value;
    },
  });
}

async function bytesOf(device: BlockDevice): Promise<string> {
  const into = Buffer.alloc(device.size);
  await device.read(0, into);
  return into.toString("latin1");
}

const options = {
  persistence: 1,
  cache_size: 64,
  associativity: 16,
  age_limit: 1,
  high_watermark: 0,
  low_watermark: 0,
};

describe.each(["clean", "crashed"])("a cache that was %s", (state) => {
  it.each([0, 1, 2])("with persistence %i shows everything and writes nothing", async (persistence) => {
    const { source, cache, open } = rig({ policy: "write-back" });
    const device = await open();
    for (let index = 0; index < 30; index += 1) await device.write(index * 4096, block(index + 1));
    await device.flush();
    await readSectors(device, 1000);
    if (state === "clean") await device.close();
    else await device.cleaner.pause();
    const lowers = [source.lower, cache.lower] as const;
    const before = await Promise.all(lowers.map(bytesOf));
    const view = await openOn(
      sealed(lowers[0]),
      sealed(lowers[1]),
      { ...options, persistence },
      realEnvironment,
    );
    expect(view.limits.capabilities.readOnly).toBe(true);
    for (let index = 0; index < 30; index += 1) {
      expect(await readSectors(view, index * 8)).toEqual(block(index + 1));
    }
    expect(await readSectors(view, 1200)).toEqual(block(0));
    await expect(view.write(0, block(1))).rejects.toMatchObject({ code: "EROFS" });
    for (const message of [
      ["clean"],
      ["policy", "write-back"],
      ["set", "age_limit", "1"],
      ["invalidate", "0", "8"],
    ]) {
      await expect(view.message(message)).rejects.toMatchObject({ code: "EROFS" });
    }
    expect(await view.message(["status"])).toContain("health ok");
    await view.flush();
    await view.suspend();
    await view.resume();
    await view.close();
    expect(await Promise.all(lowers.map(bytesOf))).toEqual(before);
  });
});

it("of historical metadata too", async () => {
  const { source, cache, open } = rig({ format: "v1", policy: "write-through" });
  const device = await open();
  await device.write(8 * 512, block(7));
  await readSectors(device, 8);
  await device.close();
  const before = await bytesOf(cache.lower);
  const view = await openOn(sealed(source.lower), sealed(cache.lower), options, realEnvironment);
  expect(await readSectors(view, 8)).toEqual(block(7));
  await view.close();
  expect(await bytesOf(cache.lower)).toBe(before);
});

it("makes no cache where there is none", async () => {
  const [source, cache] = [new MemoryDevice(2 ** 20), new MemoryDevice(2 ** 20)];
  await expect(
    openOn(sealed(source), sealed(cache) as never, { ...options, persistence: 0 }, realEnvironment),
  ).rejects.toMatchObject({ code: "EROFS" });
});
