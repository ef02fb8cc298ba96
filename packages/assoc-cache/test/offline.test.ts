/** check, repair, dump, restore, writeDirty: images that nobody is serving. */
import { type BlockDevice, BlockIoError, LinearDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type Problem, type Summary, check, dump, repair, restore, writeDirty } from "../src/index.ts";
import { layoutOf } from "../src/format/layout.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { damageOne, edit } from "./support/damage.ts";
import { type Rig, block, figures, readSectors, rig } from "./support/rig.ts";

const DIRTY = {
  policy: "write-back",
  high_watermark: 100,
  low_watermark: 100,
  age_limit: 0,
  sequential_cutoff: 0,
};

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

/** A disk with a sector that cannot be read. */
class BadSector extends LinearDevice {
  readonly #at: number;

  constructor(disk: BlockDevice, at: number) {
    super(disk, 0, disk.size, disk.name);
    this.#at = at;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (offset <= this.#at && this.#at < offset + into.length)
      throw new BlockIoError("a bad sector", { code: "EIO", device: this.name, op: "read", offset });
    return super.doRead(offset, into);
  }
}

describe("check", () => {
  it("finds nothing wrong with a sound cache, and writes nothing", async () => {
    for (const crashed of [true, false]) {
      const { source, cache } = await image(crashed);
      const before = await contentsOf(cache.lower);
      const { problems, summary } = await checked(cache.lower, source.lower);
      expect(problems).toEqual([]);
      expect(summary).toEqual({
        version: 2,
        clean: !crashed,
        frames: 128,
        used: 30,
        dirty: crashed ? 30 : 0,
      });
      expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
    }
  });

  it("says which frames cannot be read: the only copies, and those of what the source has", async () => {
    for (const crashed of [true, false]) {
      const { source, cache } = await image(crashed);
      const { dataStart } = layoutOf({ frames: 128, blockSectors: 8, ways: 128 });
      const bad = new BadSector(cache.lower, (dataStart + 3 * 8) * 512);
      const { problems } = await checked(bad, source.lower);
      expect(problems).toMatchObject([
        crashed
          ? { kind: "dirty-unreadable", severity: "error", frame: 3, offset: (dataStart + 24) * 512 }
          : { kind: "clean-unreadable", severity: "warning", frame: 3 },
      ]);
      expect(problems[0]?.repair).toBeUndefined();
    }
  });

  it("says that there is no cache, and that the source is another one", async () => {
    const { problems } = await checked(new MemoryDevice(65_536));
    expect(problems.map(({ kind }) => kind)).toEqual(["no-metadata"]);
    const { source, cache } = await image(false);
    await source.lower.write(0, block(200));
    expect((await checked(cache.lower, source.lower)).problems.map(({ kind }) => kind)).toEqual([
      "source",
      "clean-differs",
    ]);
  });

  it("holds every clean block against the source", async () => {
    // Larger than what the witness looks at whole, and not where it looks.
    const { source, cache, open } = rig({ policy: "write-back", cache_size: 128 }, 16 * 1024);
    const device = await open();
    for (const index of [1, 2, 3]) await device.write((100 + index) * 4096, block(13 + index));
    await device.close();
    await source.lower.write(101 * 4096 + 512, block(200, 1));
    const { problems } = await checked(cache.lower, source.lower);
    expect(problems).toMatchObject([{ kind: "clean-differs", block: 101 }]);
    expect(problems[0]?.repair).toBeUndefined();
    const [{ offset = 0, length = 0 } = {}] = problems;
    const inFrame = Buffer.alloc(length);
    await cache.lower.read(offset, inFrame);
    expect(inFrame).toEqual(block(14));
    expect((await checked(cache.lower)).problems).toEqual([]);
  });
});

describe("repair", () => {
  it("restores a superblock from the other one", async () => {
    const { cache, open } = await image(true);
    await cache.lower.write(0, block(0xff, 1));
    expect((await checked(cache.lower)).problems).toMatchObject([
      { kind: "superblock", severity: "warning", role: "cache", offset: 0 },
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
    const before = await contentsOf(cache.lower);
    const { left, repaired } = await repair(cache.lower);
    expect(left).toMatchObject([{ kind: "duplicate", block: 1, frame: 40 }]);
    expect(repaired).toEqual([]);
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
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

describe("dump and restore", () => {
  it("gives the metadata back after it was lost", async () => {
    const { cache, open } = await image(true);
    const text = JSON.stringify(await dump(cache.lower));
    await cache.lower.writeZeroes(0, 16 * 512);
    await cache.lower.writeZeroes(cache.size - 512, 512);
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    await restore(cache.lower, JSON.parse(text));
    expect((await checked(cache.lower)).problems).toEqual([]);
    expect(JSON.stringify(await dump(cache.lower))).toBe(text);
    const device = await open({ persistence: 1 });
    for (let index = 0; index < 30; index += 1)
      expect(await readSectors(device, index * 8)).toEqual(block(index + 1));
    await device.close();
  });

  it("puts no entry over a frame that has another block since, where only entries are left to say so", async () => {
    const { cache } = await image(true);
    const taken = await dump(cache.lower);
    if (taken.version !== 2) throw new Error("not of version 2");
    const lose = async (...bytes: number[]): Promise<void> => {
      for (const at of [0, cache.size - 512, ...bytes]) await cache.lower.write(at, Buffer.alloc(512, 0x55));
    };
    // Nothing is left that could say anything: as it is after the first frame was used again.
    const { entryStart } = taken.superblock;
    await lose(entryStart * 512, (entryStart + 1) * 512);
    const [first, ...rest] = taken.entries;
    if (first === undefined) throw new Error("nothing is dirty");
    await restore(cache.lower, { ...taken, entries: [{ ...first, block: first.block + 100 }, ...rest] });
    await lose();
    const before = await contentsOf(cache.lower);
    await expect(restore(cache.lower, taken)).rejects.toMatchObject({ code: "EEXIST" });
    await expect(restore(cache.lower, taken, true)).rejects.toMatchObject({ code: "EINVAL" });
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
    await restore(cache.lower, { ...taken, entries: rest }, true);
    expect((await dump(cache.lower)).entries).toEqual(rest);
  });

  it("refuses what does not fit", async () => {
    const { cache } = await image(true);
    const good = await dump(cache.lower);
    if (good.version !== 2) throw new Error("not of version 2");
    const { superblock } = good;
    const before = await contentsOf(cache.lower);
    const clean = "clean" as const;
    const bad: readonly unknown[] = [
      undefined,
      "{}",
      [],
      { ...good, version: 1 },
      { ...good, version: 3 },
      { ...good, superblock: undefined },
      { ...good, superblock: { ...superblock, deviceSectors: 4096 } },
      { ...good, superblock: { ...superblock, uuid: "x" } },
      { ...good, superblock: { ...superblock, generation: -1 } },
      { ...good, superblock: { ...superblock, policy: "toString" } },
      { ...good, superblock: { ...superblock, geometry: { frames: 3, ways: 1, blockSectors: 8 } } },
      { ...good, entries: [null] },
      { ...good, entries: [{ frame: 128, block: 0, state: clean }] },
      { ...good, entries: [{ frame: 0, block: 1e9, state: clean }] },
      { ...good, entries: [{ frame: 0, block: 1, state: "wet" }] },
      { ...good, entries: [...good.entries, { frame: 127, block: 1, state: "dirty" }] },
      { ...good, entries: [...good.entries, { frame: 0, block: 99, state: "dirty" }] },
    ];
    for (const [index, one] of bad.entries()) {
      await expect(restore(cache.lower, one), `dump ${index}`).rejects.toMatchObject({ code: "EINVAL" });
    }
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
  });
});

describe("writeDirty", () => {
  it("writes all dirty blocks to the source and leaves the cache clean", async () => {
    const { source, cache } = await image(true);
    const progress: number[] = [];
    const written = await writeDirty(source.lower, cache.lower, {
      progress: (so) => void progress.push(so),
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

  it("stops when it is told to, and goes on where it stopped", async () => {
    const { source } = rig({}, 2048 * 8);
    const big = new MemoryDevice(16 * 2 ** 20);
    const device = await openOn(
      source,
      big,
      { ...DIRTY, cache_size: 2048, associativity: 2048 },
      realEnvironment,
    );
    for (let index = 0; index < 2000; index += 1) await device.write(index * 4096, block(index % 251));
    await device.flush();
    const abort = new AbortController();
    const stopping = writeDirty(source.lower, big, {
      signal: abort.signal,
      progress: () => abort.abort(new Error("enough")),
    });
    await expect(stopping).rejects.toThrowError("enough");
    const { summary } = await checked(big, source.lower);
    expect(summary).toMatchObject({ clean: false });
    expect(summary?.dirty).toBeGreaterThan(0);
    expect(summary?.dirty).toBeLessThan(2000);
    expect(await writeDirty(source.lower, big)).toBe(summary?.dirty);
    for (let index = 0; index < 2000; index += 1) {
      expect((await readSectors(source.lower, index * 8)).equals(block(index % 251))).toBe(true);
    }
  });
});
