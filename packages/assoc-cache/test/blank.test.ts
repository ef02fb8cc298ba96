/** What becomes a new cache, and what is refused: the device of the cache, and the one below. */
import { type BlockDevice, ByteAccess, MemoryDevice, codeOf, contentsOf as whatIsOn } from "@dmkit/block-io";
import { contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { dump, restore } from "../src/index.ts";
import { block, figures, readSectors, rig, settled } from "./support/rig.ts";

const strangers: readonly (readonly [what: string, offset: number, bytes: string])[] = [
  ["ext4", 1080, "53ef"],
  ["swap", 4086, Buffer.from("SWAPSPACE2").toString("hex")],
  ["btrfs", 65_600, Buffer.from("_BHRfS_M").toString("hex")],
  ["XFS", 0, Buffer.from("XFSB").toString("hex")],
  ["GPT", 2 ** 20 - 512, Buffer.from("EFI PART").toString("hex")],
  ["not known", 300_000, "07"],
];

const put = (device: BlockDevice, offset: number, hex: string): Promise<void> =>
  new ByteAccess(device).write(offset, Buffer.from(hex, "hex"));

async function result(work: Promise<{ close(): Promise<void> }>): Promise<string> {
  try {
    await (await work).close();
    return "opened";
  } catch (error) {
    return `${codeOf(error)} ${(error as Error).message}`;
  }
}

describe("a device that is not blank", () => {
  it.each(strangers)("with %s becomes no cache without the word", async (what, offset, hex) => {
    for (const values of [{}, { persistence: 2 }, { format: "v1" }]) {
      const { cache, open } = rig();
      await put(cache.lower, offset, hex);
      const before = await contentsOf(cache.lower);
      const refused = await result(open(values));
      expect(refused).toMatch(/^EFORMAT cache: open: holds something already/);
      expect(refused).toContain(what);
      expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
      expect(await result(open({ ...values, force: true }))).toBe("opened");
      expect((await whatIsOn(cache.lower))?.cache).toBe(true);
      // A clean cache of ours needs no word: it holds copies.
      expect(await result(open(values))).toBe("opened");
    }
  });

  it.each([
    ["a geometry", { cache_size: 3 }],
    ["room", { cache_size: 2 ** 20 }],
    ["a policy", { format: "v1", policy: "write-back" }],
    ["a UUID", { source_uuid: "nobody" }],
  ])("stays as it is if the new cache lacks %s, also with the word", async (_, values) => {
    const { cache, open } = rig();
    await put(cache.lower, 1080, "53ef");
    const before = await contentsOf(cache.lower);
    expect(await result(open({ ...values, force: true }))).toMatch(/^EINVAL/);
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
  });

  it("is no source of a new cache if it is a cache itself", async () => {
    const first = rig();
    expect(await result(first.open())).toBe("opened");
    const { source, open } = rig({}, 2048);
    await source.lower.write(0, await contentsOf(first.cache.lower));
    for (const persistence of [0, 2]) {
      expect(await result(open({ persistence }))).toMatch(/^EFORMAT source: open: is to be cached/);
    }
    expect(await result(open({ force: true }))).toBe("opened");
    // The word is for making it.
    expect(await result(open({ persistence: 1 }))).toBe("opened");
  });
});

describe("a new cache", () => {
  it("can be made again wherever making it was interrupted", async () => {
    for (const values of [{ persistence: 2 }, { persistence: 2, format: "v1" }]) {
      for (let step = 1; ; step += 1) {
        const { cache, open } = rig(values);
        let left = step;
        const whole = cache.lower.write.bind(cache.lower);
        cache.lower.write = (...args) =>
          left-- > 0 ? whole(...args) : Promise.reject(new Error("the power is gone"));
        const ended = await result(open());
        cache.lower.write = whole;
        expect(await result(open()), `after ${step} writes`).toBe("opened");
        if (ended === "opened") break;
      }
    }
  });

  it("with historical metadata is made again after a crash: it says that it was one", async () => {
    const { source, open } = rig({ format: "v1" });
    await source.lower.write(0, block(5));
    await source.lower.write(4096, block(6));
    const device = await open();
    // Fills frames from the first byte of the device on.
    for (let index = 0; index < 60; index += 1) await readSectors(device, index * 8);
    await settled();
    for (const persistence of [0, 2]) {
      const again = await open({ persistence });
      expect(figures(again)["used"]).toBe("0");
    }
  });
});

describe("a restore", () => {
  it("that was interrupted leaves no device that a new cache is made on", async () => {
    const { cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    const dumped: unknown = JSON.parse(JSON.stringify(await dump(cache.lower)));
    for (let step = 1; ; step += 1) {
      const disk = new MemoryDevice(cache.size);
      await disk.write(0, await contentsOf(cache.lower));
      const whole = disk.write.bind(disk);
      let left = step;
      disk.write = (...args) =>
        left-- > 0 ? whole(...args) : Promise.reject(new Error("the power is gone"));
      const failed = await restore(disk, dumped).then(
        () => false,
        () => true,
      );
      disk.write = whole;
      const other = rig({ policy: "write-back" });
      await other.cache.lower.write(0, await contentsOf(disk));
      for (const values of [{ persistence: 2 }, {}]) {
        const opened = await other.open(values).catch((error: unknown) => codeOf(error));
        if (typeof opened === "string")
          expect(["EFORMAT", "EBUSY"], `after ${step} writes`).toContain(opened);
        else expect(figures(opened)["dirty"], `after ${step} writes`).toBe("1");
      }
      await restore(disk, dumped);
      expect(await dump(disk)).toEqual(dumped);
      if (!failed) break;
    }
  });

  it("of historical metadata leaves the data of the first frame alone", async () => {
    const { source, cache, open } = rig({ format: "v1", associativity: 64 });
    await source.lower.write(4096, block(6));
    const device = await open();
    await readSectors(device, 8);
    await settled();
    await device.close();
    const before = await contentsOf(cache.lower);
    expect(before[0]).toBe(6);
    await restore(cache.lower, JSON.parse(JSON.stringify(await dump(cache.lower))));
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
  });
});
