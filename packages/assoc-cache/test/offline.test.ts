/** check, repair, dump, restore, writeDirty: images that nobody is serving. */
import { type BlockDevice, MemoryDevice, crc32c } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type Problem, type Summary, check, dump, repair, restore, writeDirty } from "../src/index.ts";
import { type Rig, block, figures, readSectors, rig } from "./support/rig.ts";

async function checked(
  cache: BlockDevice,
  source?: BlockDevice,
): Promise<{ problems: Problem[]; summary: Summary | undefined }> {
  const problems: Problem[] = [];
  const generator = check(cache, source);
  for (;;) {
    const { done, value } = await generator.next();
    if (done) return { problems, summary: value };
    problems.push(value);
  }
}

/** 30 dirty blocks over two entry sectors, left behind as after a crash, or closed with some clean blocks. */
async function image(crashed: boolean): Promise<Rig> {
  const made = rig({ policy: "write-back", cache_size: 128, associativity: 128 });
  const device = await made.open();
  for (let index = 0; index < 30; index += 1) await device.write(index * 4096, block(index + 1));
  if (crashed) {
    await device.flush();
    return made;
  }
  await device.close();
  return made;
}

async function bytesOf(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}

describe("check", () => {
  it("finds nothing wrong with a sound cache, and writes nothing", async () => {
    for (const crashed of [true, false]) {
      const { source, cache } = await image(crashed);
      const before = await bytesOf(cache.lower);
      const { problems, summary } = await checked(cache.lower, source.lower);
      expect(problems).toEqual([]);
      expect(summary).toEqual({
        version: 2,
        clean: !crashed,
        frames: 128,
        used: 30,
        dirty: crashed ? 30 : 0,
      });
      expect((await bytesOf(cache.lower)).equals(before)).toBe(true);
    }
  });

  it("says that there is no cache, and that the source is another one", async () => {
    const { problems } = await checked(new MemoryDevice(65_536));
    expect(problems.map(({ kind }) => kind)).toEqual(["no-metadata"]);
    const { source, cache } = await image(false);
    await source.lower.write(0, block(200));
    expect((await checked(cache.lower, source.lower)).problems.map(({ kind }) => kind)).toEqual(["source"]);
  });
});

describe("repair", () => {
  it("restores a superblock from the other one", async () => {
    const { cache, open } = await image(true);
    await cache.lower.write(0, block(0xff, 1));
    expect((await checked(cache.lower)).problems).toMatchObject([
      { kind: "superblock", repair: "rewrite", offset: 0 },
    ]);
    expect((await repair(cache.lower)).left).toEqual([]);
    expect((await checked(cache.lower)).problems).toEqual([]);
    expect(figures(await open({ persistence: 1 }))["dirty"]).toBe("30");
  });

  it("drops a dirty entry that cannot be true, and keeps its neighbours", async () => {
    const { cache, open } = await image(true);
    await edit(cache.lower, (sector) => sector.writeBigUInt64LE(1_000_000n * 4n + 2n, 0));
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    expect((await checked(cache.lower)).problems).toMatchObject([
      { kind: "entry-outside", severity: "error", frame: 0 },
    ]);
    await repair(cache.lower);
    expect((await checked(cache.lower)).problems).toEqual([]);
    const device = await open({ persistence: 1 });
    expect(figures(device)["dirty"]).toBe("29");
    expect(await readSectors(device, 8)).toEqual(block(2));
    await device.close();
  });

  it("does not choose between two dirty copies", async () => {
    const { cache } = await image(true);
    await edit(cache.lower, (sector) => sector.writeBigUInt64LE(1n * 4n + 2n, 40 * 8));
    const before = await bytesOf(cache.lower);
    const { left, repaired } = await repair(cache.lower);
    expect(left).toMatchObject([{ kind: "duplicate", block: 1, frame: 40 }]);
    expect(repaired).toEqual([]);
    expect((await bytesOf(cache.lower)).equals(before)).toBe(true);
  });

  it("finds nothing more the second time, and loses no dirty block that can be true: 80 damaged images", async () => {
    for (let seed = 1; seed <= 80; seed += 1) {
      const random = new SeededRandom(seed);
      const crashed = random.chance(0.7);
      const { source, cache, open } = await image(crashed);
      for (let damage = 0; damage <= random.below(3); damage += 1) await damageOne(cache.lower, random);
      const before = await checked(cache.lower);
      const first = await repair(cache.lower);
      const second = await repair(cache.lower);
      expect(second.repaired, `seed ${seed}`).toEqual([]);
      expect(second.left.length, `seed ${seed}`).toBe(first.left.length);
      if (before.summary === undefined || first.left.length > 0) continue;
      const device = await open({ persistence: 1, force: true });
      // Sector 1000 on was never written: what is there comes from the source, whatever was damaged.
      expect(await readSectors(device, 1000), `seed ${seed}`).toEqual(block(0));
      expect(Number(figures(device)["dirty"]), `seed ${seed}`).toBe(before.summary.dirty);
      await device.close();
      if (!crashed) expect(await readSectors(source.lower, 8), `seed ${seed}`).toEqual(block(2));
    }
  });
});

/** Changes the first entry sector and gives it the right checksum again. */
async function edit(cache: BlockDevice, change: (sector: Buffer) => void, index = 0): Promise<void> {
  const superblock = Buffer.alloc(512);
  await cache.read(0, superblock);
  const sector = Buffer.alloc(512);
  await cache.read((8 + index) * 512, sector);
  change(sector);
  const salt = Buffer.alloc(20);
  superblock.copy(salt, 0, 16, 32);
  salt.writeUInt32LE(index, 16);
  sector.writeUInt32LE(crc32c(sector.subarray(0, 508), crc32c(salt)), 508);
  await cache.write((8 + index) * 512, sector);
}

async function damageOne(cache: BlockDevice, random: SeededRandom): Promise<void> {
  const index = random.below(3);
  const slot = random.below(63) * 8;
  switch (random.below(5)) {
    case 0:
      return cache.write(0, random.fill(Buffer.alloc(512)));
    case 1:
      return cache.write(cache.size - 512, random.fill(Buffer.alloc(512)));
    case 2:
      return cache.write((8 + index) * 512, random.fill(Buffer.alloc(512)));
    case 3:
      return edit(
        cache,
        (sector) => sector.writeBigUInt64LE(BigInt(random.below(2 ** 20)) * 4n + 1n, slot),
        index,
      );
    default:
      return edit(
        cache,
        (sector) => sector.writeBigUInt64LE(BigInt(5000 + random.below(2 ** 20)) * 4n + 2n, 62 * 8),
        0,
      );
  }
}

describe("dump and restore", () => {
  it("gives the metadata back after it was lost", async () => {
    const { cache, open } = await image(true);
    const text = JSON.stringify(await dump(cache.lower));
    await cache.lower.writeZeroes(0, 16 * 512);
    await cache.lower.writeZeroes(cache.size - 512, 512);
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    await restore(cache.lower, JSON.parse(text) as Awaited<ReturnType<typeof dump>>);
    expect((await checked(cache.lower)).problems).toEqual([]);
    const device = await open({ persistence: 1 });
    for (let index = 0; index < 30; index += 1)
      expect(await readSectors(device, index * 8)).toEqual(block(index + 1));
    await device.close();
  });

  it("refuses what does not fit", async () => {
    const { cache } = await image(true);
    const good = await dump(cache.lower);
    const before = await bytesOf(cache.lower);
    for (const bad of [
      { ...good, version: 1 as const },
      { ...good, superblock: { ...good.superblock, deviceSectors: 4096 } },
      { ...good, entries: [{ frame: 128, block: 0, state: "clean" as const }] },
      { ...good, entries: [{ frame: 0, block: 1e9, state: "clean" as const }] },
    ]) {
      await expect(restore(cache.lower, bad as typeof good)).rejects.toMatchObject({ code: "EINVAL" });
    }
    expect((await bytesOf(cache.lower)).equals(before)).toBe(true);
  });
});

describe("writeDirty", () => {
  it("writes all dirty blocks to the source and leaves the cache clean", async () => {
    const { source, cache } = await image(true);
    const progress: number[] = [];
    const written = await writeDirty(source.lower, cache.lower, {
      onProgress: (so) => void progress.push(so),
    });
    expect(written).toBe(30);
    expect(progress.at(-1)).toBe(30);
    for (let index = 0; index < 30; index += 1) {
      expect(await readSectors(source.lower, index * 8)).toEqual(block(index + 1));
    }
    expect((await checked(cache.lower, source.lower)).summary).toMatchObject({
      clean: true,
      dirty: 0,
      used: 30,
    });
    expect(await writeDirty(source.lower, cache.lower)).toBe(0);
  });
});
