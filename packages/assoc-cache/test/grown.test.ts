/** A source, or a cache device, that is made larger: what was flushed is there, what is new is the source's, whenever the power fails. */
import { BlockIoError, LinearDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { BadSectors, PowerCut, SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type CacheRules, cacheRules } from "../src/core/rules.ts";
import type { AssocCacheDevice } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1);
const SHAPE = { policy: "write-back", block_size: 8, cache_size: 16, associativity: 16, age_limit: 0 };
/** Sectors: the last block has three of eight. */
const BEFORE = 83;
const AFTER = 120;

/** Of each sector the byte it is filled with. */
const filled = (bytes: Buffer): number[] =>
  Array.from({ length: bytes.length / 512 }, (_, sector) => bytes[sector * 512] as number);

interface Images {
  readonly source: Buffer;
  readonly cache: Buffer;
  /** What clients see of the old length. */
  readonly contents: readonly number[];
}

/** A cache with its last block dirty or clean, flushed or closed. */
async function made(state: "dirty" | "clean" | "closed"): Promise<Images> {
  const bytes = Buffer.concat(Array.from({ length: BEFORE }, (_, sector) => Buffer.alloc(512, 100 + sector)));
  const source = new MemoryDevice(bytes.length);
  await source.write(0, bytes);
  const cache = new MemoryDevice(2 ** 18);
  const device = await openOn(source, cache, SHAPE, realEnvironment);
  await device.write(8 * 512, Buffer.alloc(4096, 1));
  if (state === "clean") await device.read(80 * 512, Buffer.alloc(3 * 512));
  else await device.write(81 * 512, Buffer.alloc(2 * 512, 2));
  await device.flush();
  const contents = filled(await read(device, BEFORE));
  if (state === "closed") await device.close();
  return { source: await contentsOf(source), cache: await contentsOf(cache), contents };
}

async function read(device: AssocCacheDevice, sectors: number): Promise<Buffer> {
  const into = Buffer.alloc(sectors * 512);
  await device.read(0, into);
  return into;
}

/** The source with more behind its end. */
async function larger(source: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(AFTER * 512);
  await device.write(0, Buffer.concat([source, Buffer.alloc((AFTER - BEFORE) * 512, 7)]));
  return device;
}

const grown = (images: Images): number[] => [...images.contents, ...Array<number>(AFTER - BEFORE).fill(7)];

/** Grows with the power failing at each write in turn, until none does; whether all was right every time. */
async function survives(images: Images, rules: CacheRules = cacheRules): Promise<boolean> {
  for (let limit = 1; ; limit += 1) {
    const random = new SeededRandom(seed * 1000 + limit);
    const disk = new PowerCut(images.cache, limit);
    const source = await larger(images.source);
    const options = { ...SHAPE, persistence: 1, grow_source: true };
    const opened = await openOn(source, disk, options, realEnvironment, { rules }).catch(() => undefined);
    const left = opened === undefined ? disk.survivor(random) : await copyOf(disk);
    // The old length, if that is still what is stored; and then the new one in any case.
    const old = await openOn(
      source,
      await copyOf(left),
      { ...options, grow_source: false },
      realEnvironment,
      {
        size: BEFORE * 512,
      },
    ).catch(() => undefined);
    if (old !== undefined && filled(await read(old, BEFORE)).join() !== images.contents.join()) return false;
    const device = await openOn(source, left, options, realEnvironment);
    if (filled(await read(device, AFTER)).join() !== grown(images).join()) return false;
    await device.write((AFTER - 4) * 512, Buffer.alloc(512, 9));
    await device.close();
    if (
      filled(await contentsOf(source))
        .slice(0, AFTER - 4)
        .join() !==
      grown(images)
        .slice(0, AFTER - 4)
        .join()
    )
      return false;
    if (opened !== undefined && !disk.isOff) return true;
  }
}

async function copyOf(device: MemoryDevice | PowerCut): Promise<MemoryDevice> {
  const bytes = await contentsOf(device);
  const copy = new MemoryDevice(bytes.length);
  await copy.write(0, bytes);
  return copy;
}

describe("a source that is made larger", () => {
  it.each(["dirty", "clean", "closed"] as const)(
    "is cached as far as the table maps it, whenever the power fails: the last block was %s",
    async (state) => {
      expect(await survives(await made(state))).toBe(true);
    },
  );

  it("would show what lies in the frame behind the old end, were its last block not completed", async () => {
    const found = [];
    for (const state of ["dirty", "clean", "closed"] as const)
      found.push(await survives(await made(state), { ...cacheRules, completesLast: false }));
    expect(found).toContain(false);
  });

  it("keeps what was cached, is refused without the word, and one that shrank is refused with it", async () => {
    const images = await made("closed");
    const cache = new MemoryDevice(images.cache.length);
    await cache.write(0, images.cache);
    const source = await larger(images.source);
    const options = { ...SHAPE, persistence: 1 };
    await expect(openOn(source, cache, options, realEnvironment)).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining("grow_source 1") as string,
    });
    const size = (BEFORE - 8) * 512;
    const word = { ...options, grow_source: true };
    await expect(openOn(source, cache, word, realEnvironment, { size })).rejects.toMatchObject({
      code: "EINVAL",
    });
    const device = await openOn(source, cache, word, realEnvironment);
    await device.read(8 * 512, Buffer.alloc(4096));
    expect(device.state.statistics.readHits).toBe(1);
    expect(device.settings()["grow_source"]).toBeUndefined();
    await device.close();
    // It is stored: the word is not needed again.
    await (await openOn(source, cache, options, realEnvironment)).close();
  });
});

describe("a cache device that is made larger", () => {
  const grow = { ...SHAPE, persistence: 1, cache_size: 64, grow_cache: true };

  it.each(["dirty", "closed"] as const)(
    "holds as many blocks as it is told to, whenever the power fails: %s",
    async (state) => {
      const images = await made(state);
      const bytes = Buffer.alloc(2 * images.cache.length);
      images.cache.copy(bytes);
      for (let limit = 1; ; limit += 1) {
        const disk = new PowerCut(bytes, limit);
        const source = new MemoryDevice(images.source.length);
        await source.write(0, images.source);
        const opened = await openOn(source, disk, grow, realEnvironment).catch(() => undefined);
        if (opened !== undefined) break;
        const device = await openOn(
          source,
          disk.survivor(new SeededRandom(seed * 1000 + limit)),
          grow,
          realEnvironment,
        );
        const where = `seed ${seed}, write ${limit}`;
        expect(filled(await read(device, BEFORE)), where).toEqual(images.contents);
        expect(device.settings(), where).toMatchObject({ cache_size: 64, associativity: 16, block_size: 8 });
        await device.close();
      }
    },
  );

  it("stays as it is where there is no room for that, or something cannot be written back", async () => {
    const images = await made("dirty");
    const cache = new MemoryDevice(images.cache.length);
    await cache.write(0, images.cache);
    const source = new MemoryDevice(images.source.length);
    await source.write(0, images.source);
    await expect(openOn(source, cache, { ...grow, cache_size: 4096 }, realEnvironment)).rejects.toMatchObject(
      {
        code: "EINVAL",
      },
    );
    const device = await openOn(source, cache, { ...SHAPE, persistence: 1 }, realEnvironment);
    expect(device.state.frames.geometry.frames).toBe(16);
    expect(filled(await read(device, BEFORE))).toEqual(images.contents);
    await device.close();
  });

  // 24 sectors of entries; so far there are eight. What they are written over are frames.
  const more = { ...grow, cache_size: 1024 };

  /** A cache of 16 frames on a device with room for more; its blocks are in the source, too. */
  async function roomy(cache: MemoryDevice): Promise<{ source: MemoryDevice; contents: readonly number[] }> {
    const images = await made("dirty");
    await cache.write(0, images.cache);
    const source = new MemoryDevice(images.source.length);
    await source.write(0, images.source);
    return { source, contents: images.contents };
  }

  it("has what it had where the device does not take what it would have more", async () => {
    const cache = new MemoryDevice(2 ** 23);
    const { source, contents } = await roomy(cache);
    const full = new TakesLittle(cache, 0, cache.size, "full");
    await expect(openOn(source, full, more, realEnvironment)).rejects.toMatchObject({ code: "ENOSPC" });
    const device = await openOn(source, full, { ...SHAPE, persistence: 1 }, realEnvironment);
    expect(device.state.frames.geometry.frames).toBe(16);
    expect(filled(await read(device, BEFORE))).toEqual(contents);
    expect(device.state.statistics.readHits).toBeGreaterThan(0);
    await device.close();
  });

  it("shows what it showed, whichever sector takes no write", async () => {
    let hits = 0;
    for (const gives of [true, false])
      for (const bad of [0, 8, 12, 15, 16, 24, 31, 40, 2 ** 14 - 1]) {
        const cache = new BadSectors(2 ** 23);
        const { source, contents } = await roomy(cache);
        await (await openOn(source, cache, { ...SHAPE, persistence: 1 }, realEnvironment)).close();
        cache.heals = false;
        cache.gives = gives;
        cache.bad.add(bad);
        const opened = await openOn(source, cache, more, realEnvironment).catch(() => undefined);
        await opened?.close();
        cache.bad.clear();
        const device = await openOn(
          source,
          cache,
          opened === undefined ? { ...SHAPE, persistence: 1 } : more,
          realEnvironment,
        );
        const where = `sector ${bad}, gives ${gives}`;
        expect(filled(await read(device, BEFORE)), where).toEqual(contents);
        hits += device.state.statistics.readHits;
        await device.close();
      }
    expect(hits).toBeGreaterThan(0);
  });
});

/** Finds no space for what is long. */
class TakesLittle extends LinearDevice {
  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    if (from.length > 8 * 512)
      return Promise.reject(new BlockIoError("no space is left", { code: "ENOSPC" }));
    return super.doWrite(offset, from, fua);
  }
}

describe("a source of which less is mapped than before", () => {
  const large = { ...SHAPE, persistence: 1, grow_source: true };
  const small = { ...SHAPE, persistence: 1 };
  const shorter = { size: BEFORE * 512 };

  /** Grown, with one block behind the old end, and one in which that is. */
  async function enlarged(): Promise<{
    source: MemoryDevice;
    cache: MemoryDevice;
    device: AssocCacheDevice;
  }> {
    const images = await made("closed");
    const cache = new MemoryDevice(images.cache.length);
    await cache.write(0, images.cache);
    const source = await larger(images.source);
    return { source, cache, device: await openOn(source, cache, large, realEnvironment) };
  }

  it("is cached as far as it is, without what lies behind", async () => {
    const { source, cache, device } = await enlarged();
    const before = filled(await read(device, AFTER));
    await device.close();
    const less = await openOn(source, cache, small, realEnvironment, shorter);
    expect(filled(await read(less, BEFORE))).toEqual(before.slice(0, BEFORE));
    await less.close();
    // Somebody else may write there now.
    await source.write((AFTER - 8) * 512, Buffer.alloc(8 * 512, 99));
    const again = await openOn(source, cache, large, realEnvironment);
    expect(filled(await read(again, AFTER)).slice(AFTER - 8)).toEqual(Array<number>(8).fill(99));
    await again.close();
  });

  it("is refused where what is dirty may lie there: it says with which length to write it back", async () => {
    const { source, cache, device } = await enlarged();
    await device.write((AFTER - 4) * 512, Buffer.alloc(512, 9));
    await device.flush();
    const crashed = await copyOf(cache);
    const before = await copyOf(source);
    await expect(openOn(before, crashed, small, realEnvironment, shorter)).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining(`0 ${AFTER} cache`) as string,
    });
    await (await openOn(before, crashed, small, realEnvironment)).close();
    await (await openOn(before, crashed, small, realEnvironment, shorter)).close();
    expect(filled(await contentsOf(before))[AFTER - 4]).toBe(9);
    await device.close();
  });

  it("because it was cut short, begins without what is cached by force, if nothing is dirty", async () => {
    const { source, cache, device } = await enlarged();
    await device.write(0, Buffer.alloc(4096, 9));
    await device.flush();
    const crashed = await copyOf(cache);
    await device.close();
    const cut = new MemoryDevice(BEFORE * 512);
    await cut.write(0, (await contentsOf(source)).subarray(0, BEFORE * 512));
    const force = { ...small, force: true };
    await expect(openOn(cut, crashed, force, realEnvironment)).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining(`truncate -s ${AFTER * 512}`) as string,
    });
    await cut.write(0, Buffer.alloc(512, 77));
    await expect(openOn(cut, cache, small, realEnvironment)).rejects.toMatchObject({
      hint: expect.stringContaining("force 1") as string,
    });
    const opened = await openOn(cut, cache, force, realEnvironment);
    expect(filled(await read(opened, BEFORE))[0]).toBe(77);
    await opened.close();
  });
});
