/** A cache device with a place that cannot be read. */
import { realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { assocCacheImages, check, repair } from "../src/index.ts";
import { type Rig, block, figures, readSectors, rig, settled } from "./support/rig.ts";

/** From now on these sectors of the cache device cannot be read until they are written. */
function spoil({ cache }: Rig, ...sectors: readonly number[]): void {
  cache.failsReads = (offset, length) =>
    sectors.some((sector) => offset < (sector + 1) * 512 && sector * 512 < offset + length);
}

async function kinds({ cache, source }: Rig): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, severity } of check(cache, source)) found.push(`${severity} ${kind}`);
  return found;
}

const work = { environment: realEnvironment };
const LAST = 2 ** 20 / 512 - 1;

describe("a cache that was closed cleanly, with a place that cannot be read", () => {
  it.each([
    ["the first superblock", 0, "warning superblock"],
    ["the last superblock", LAST, "warning superblock"],
    ["entries", 8, "warning entries-unreadable"],
  ])("opens, and fsck names it: %s", async (_, sector, kind) => {
    const devices = rig();
    const first = await devices.open();
    await devices.source.lower.write(0, block(1));
    await readSectors(first, 0);
    await settled();
    await first.close();
    spoil(devices, sector);
    expect(await kinds(devices)).toEqual([kind]);
    expect(await assocCacheImages.info({ cache: devices.cache }, work)).toMatchObject({
      state: "closed cleanly",
    });
    const again = await devices.open({ persistence: 1 });
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.write(0, block(2));
    await again.close();
    devices.cache.failsReads = () => false;
    expect(await kinds(devices)).toEqual([]);
  });

  it("is repaired by writing the place again", async () => {
    const devices = rig();
    await (await devices.open()).close();
    spoil(devices, 8);
    const { repaired, left } = await repair(devices.cache);
    expect([repaired.map(({ kind }) => kind), left]).toEqual([["entries-unreadable"], []]);
    devices.cache.failsReads = () => false;
    expect(await kinds(devices)).toEqual([]);
  });

  it("is nobody's to judge without a superblock", async () => {
    const devices = rig();
    await (await devices.open()).close();
    spoil(devices, 0, LAST);
    await expect(devices.open({ persistence: 1 })).rejects.toMatchObject({ code: "EIO" });
    await expect(devices.open()).rejects.toMatchObject({ code: "EIO" });
    devices.cache.failsReads = () => false;
    await devices.cache.lower.write(0, Buffer.alloc(512));
    spoil(devices, LAST);
    await expect(devices.open()).rejects.toMatchObject({ code: "EIO" });
  });
});

describe("a cache with dirty blocks", () => {
  it("is refused as long as their entries cannot be read, and loses nothing", async () => {
    const devices = rig({ policy: "write-back" });
    const first = await devices.open();
    await first.write(0, block(1));
    await first.flush();
    // As after a crash.
    await first.cleaner.pause();
    spoil(devices, 8);
    expect(await kinds(devices)).toContain("error entries-unreadable");
    const { left } = await repair(devices.cache);
    expect(left.map(({ kind }) => kind)).toContain("entries-unreadable");
    await expect(devices.open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    await expect(devices.open()).rejects.toMatchObject({ code: "EBUSY" });
    devices.cache.failsReads = () => false;
    const again = await devices.open({ persistence: 1 });
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.close();
  });
});

describe("a dirty block that cannot be read", () => {
  it("is left, and all others are written back", async () => {
    const devices = rig({ policy: "write-back" });
    const device = await devices.open();
    for (let at = 0; at < 8; at += 1) await device.write(at * 4096, block(at + 1));
    spoil(devices, device.state.frameOffset(device.state.frames.find(3)) / 512);
    await expect(device.message(["clean"])).rejects.toMatchObject({
      code: "EIO",
      message: expect.stringMatching(/1 block could not be written back.*pulled out/),
    });
    expect(figures(device)["dirty"]).toBe("1");
    for (let at = 0; at < 8; at += 1)
      expect(await readSectors(devices.source.lower, at * 8)).toEqual(block(at === 3 ? 0 : at + 1));
    devices.cache.failsReads = () => false;
    await device.message(["clean"]);
    expect(await readSectors(devices.source.lower, 24)).toEqual(block(4));
    await device.close();
  });

  it("does not keep others from being written back in the background", async () => {
    const devices = rig({ policy: "write-back", high_watermark: 10, low_watermark: 0 });
    const device = await devices.open();
    await device.write(0, block(1));
    spoil(devices, device.state.frameOffset(device.state.frames.find(0)) / 512);
    for (const base of [1, 20, 40]) {
      for (let at = base; at < base + 10; at += 1) await device.write(at * 4096, block(at));
      await settled();
      expect(figures(device)["dirty"]).toBe("1");
    }
    devices.cache.failsReads = () => false;
    await device.close();
    expect(await readSectors(devices.source.lower, 0)).toEqual(block(1));
  });
});
