/** A cache device, or a source, with a place that cannot be read. */
import { type BlockDevice, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { assocCacheImages, check, repair } from "../src/index.ts";
import { NONE } from "../src/core/frame-table.ts";
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

/** Sector 8 is as after a fault; returns what mends it. */
async function hurt(devices: Rig, form: "unreadable" | "damaged"): Promise<() => Promise<void>> {
  if (form === "unreadable") {
    spoil(devices, 8);
    return async () => void (devices.cache.failsReads = () => false);
  }
  const before = await readSectors(devices.cache.lower, 8, 1);
  await devices.cache.lower.write(8 * 512, block(0x55, 1));
  return () => devices.cache.lower.write(8 * 512, before);
}

describe("entries that cannot be read after a crash, or are damaged", () => {
  it.each([
    ["unreadable", "write-back"],
    ["unreadable", "write-through"],
    ["damaged", "write-back"],
  ] as const)(
    "cost the blocks of their sets, %s, under %s: nothing else stops, and all is there again with them",
    async (form, policy) => {
      // Two sets of 64: sector 8 has the entries of the first one, but for the last frame.
      const devices = rig({ policy: "write-back", cache_size: 128, associativity: 64, sequential_cutoff: 0 });
      const first = await devices.open();
      const blocks = Array.from({ length: 128 }, (_, at) => at);
      for (const at of blocks) await first.write(at * 4096, block(at));
      await first.flush();
      const { frames } = first.state;
      const lost = blocks.filter((at) => frames.find(at) !== NONE && frames.find(at) < 63);
      const known = blocks.filter((at) => frames.find(at) >= 63);
      expect([lost.length > 0, known.length > 0]).toEqual([true, true]);
      const outside = blocks.filter((at) => frames.find(at) === NONE && frames.sets.of(at) === 0);
      // As after a crash.
      await first.cleaner.pause();
      const mend = await hurt(devices, form);
      expect(await kinds(devices)).toContain(`error entries-${form}`);
      const { left } = await repair(devices.cache);
      expect(left.map(({ kind }) => kind)).toContain(`entries-${form}`);
      await expect(devices.open()).rejects.toMatchObject({ code: "EBUSY" });

      const device = await devices.open({ persistence: 1 });
      await device.setPolicy(policy).catch(() => {});
      expect(device.health()).toMatchObject({ state: "degraded", why: expect.stringContaining("1 sets") });
      for (const at of [...lost.slice(0, 5), ...outside.slice(0, 3)]) {
        for (const work of [
          device.read(at * 4096, Buffer.alloc(512)),
          device.write(at * 4096, block(0)),
          device.writeZeroes(at * 4096, 4096),
          device.discard(at * 4096, 4096),
          device.invalidate(at * 4096, 4096),
        ])
          await expect(work).rejects.toMatchObject({ code: "EIO" });
      }
      for await (const { kind } of device.extents(0, device.size)) expect(kind).toBe("data");
      const wrong = async (from: BlockDevice, of: readonly number[], added = 0): Promise<number[]> => {
        const read = await Promise.all(of.map((at) => readSectors(from, at * 8)));
        return of.filter((at, index) => !read[index]?.equals(block(at + added)));
      };
      expect(await wrong(device, known)).toEqual([]);
      for (const at of known) await device.write(at * 4096, block(at + 1));
      await device.flush();
      await expect(device.writeHome()).rejects.toMatchObject({ code: "EIO" });
      expect(await wrong(device, known, 1)).toEqual([]);
      await expect(device.close()).rejects.toMatchObject({ code: "EIO" });

      await mend();
      const again = await devices.open({ persistence: 1 });
      const others = blocks.filter((at) => !known.includes(at));
      expect([await wrong(again, known, 1), await wrong(again, others)]).toEqual([[], []]);
      await again.close();
      expect(await wrong(devices.source.lower, lost)).toEqual([]);
    },
  );
});

describe("damaged entries of a device that writes eight sectors at a time", () => {
  it("stay as they are: those beside them are not written either", async () => {
    const devices = rig(
      { policy: "write-back", cache_size: 128, associativity: 16, sequential_cutoff: 0 },
      4096,
    );
    for (const device of [devices.cache, devices.cache.lower])
      Object.assign(device, { limits: { ...device.limits, logicalBlockSize: 4096 } });
    const first = await devices.open();
    const blocks = Array.from({ length: 100 }, (_, at) => at);
    for (const at of blocks) await first.write(at * 4096, block(at));
    await first.flush();
    // As after a crash.
    await first.cleaner.pause();
    const entries = await readSectors(devices.cache.lower, 8);
    const damaged = Buffer.from(entries);
    damaged[700] = (damaged[700] as number) ^ 1;
    await devices.cache.lower.write(4096, damaged);
    const device = await devices.open({ persistence: 1 });
    for (const at of blocks) await device.write(at * 4096, block(1)).catch(() => {});
    await device.flush();
    await device.close().catch(() => {});
    expect(await readSectors(devices.cache.lower, 8)).toEqual(damaged);
    await devices.cache.lower.write(4096, entries);
    const again = await devices.open({ persistence: 1 });
    for (const at of blocks) expect(await readSectors(again, at * 8)).toEqual(block(at));
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
      expect(device.health()).toMatchObject({
        state: "degraded",
        why: expect.stringMatching(/^1 dirty blocks/),
      });
    }
    devices.cache.failsReads = () => false;
    await device.message(["clean"]);
    expect(device.health().state).toBe("ok");
    await device.close();
    expect(await readSectors(devices.source.lower, 0)).toEqual(block(1));
  });
});

describe("a sector of the source that cannot be read", () => {
  const BAD = 700;

  it.each(
    (["write-back", "write-through", "write-around"] as const).flatMap((policy) =>
      [8, 64].map((size) => [policy, size] as const),
    ),
  )("%s, blocks of %i sectors: costs itself and nothing else", async (policy, size) => {
    const devices = rig({ policy, block_size: size, cache_size: 4, associativity: 2 });
    const { source } = devices;
    const device = await devices.open();
    let isBad = true;
    source.failsReads = (offset, length) => isBad && offset <= BAD * 512 && BAD * 512 < offset + length;
    const first = BAD - (BAD % size);
    for (let sector = first; sector < first + size; sector += 1) {
      const reading = readSectors(device, sector, 1);
      if (sector === BAD) await expect(reading).rejects.toMatchObject({ code: "EIO" });
      else expect(await reading).toEqual(block(0, 1));
    }
    await device.write((BAD - 1) * 512, block(1, 1));
    await device.write((BAD + 2) * 512, block(2, 1));
    await device.flush();
    expect(await readSectors(device, BAD - 1, 1)).toEqual(block(1, 1));
    await device.write(BAD * 512, block(3, 1));
    isBad = false;
    for (const [at, fill] of [
      [-1, 1],
      [0, 3],
      [1, 0],
      [2, 2],
    ] as const)
      expect(await readSectors(device, BAD + at, 1)).toEqual(block(fill, 1));
    await device.close();
    for (const [at, fill] of [
      [-1, 1],
      [0, 3],
      [1, 0],
      [2, 2],
    ] as const)
      expect(await readSectors(source.lower, BAD + at, 1)).toEqual(block(fill, 1));
  });

  it("is named by fsck and repair, which look at everything else", async () => {
    const devices = rig();
    const device = await devices.open();
    for (const sector of [0, 16, 32]) await readSectors(device, sector);
    await settled();
    await device.close();
    await devices.source.lower.write(33 * 512, block(9, 1));
    devices.source.failsReads = (offset, length) => offset <= 512 && 512 < offset + length;
    expect(await kinds(devices)).toEqual(["warning source-unreadable", "error clean-differs"]);
    const { left } = await repair(devices.cache, devices.source);
    expect(left.map(({ block: number }) => number)).toEqual([0, 4]);
  });
});
