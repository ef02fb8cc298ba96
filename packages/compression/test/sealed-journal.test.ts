/**
 * Metadata of format 2 that cannot be read after a crash, while the journal tells of some of its blocks: those can be used,
 * and whatever else the metadata says comes back with it, after any number of crashes and closes.
 */
import { BlockIoError, type TargetDevice, healthOf } from "@dmkit/block-io";
import { BadSectors, PowerCut, SeededRandom, isDeep } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { layoutV2 } from "../src/format/layout-v2.ts";
import { repair } from "../src/offline/repair.ts";
import {
  BLOCK,
  JOURNAL,
  ReadOnly,
  blocksOf,
  bytesOf,
  code,
  crashedCopy,
  digest,
  eio,
  layoutOf,
  noise,
  openImage,
  problemsOf,
  range,
  text,
  work,
} from "./support/images.ts";

const SIZE = 2 ** 21;
const BLOCKS = 300;
const GROUP = 64;
const META = layoutOf(SIZE).metaStart * BLOCK;
const VALUES = { format: "v2", journal: JOURNAL, max_extent: 65_536, mode: "writeback" };

/** The metadata of a group cannot be read from now on. */
const spoil = (lower: BadSectors, group: number): unknown => lower.bad.add(META / 512 + group);

/** Text in group 1, and of that block 110 in the last record; and what a crash leaves of it. */
async function crashed(...later: readonly number[]): Promise<{ lower: BadSectors; whole: string[] }> {
  const lower = new BadSectors(SIZE);
  const device = await openImage(lower, BLOCKS, VALUES);
  await device.write(64 * BLOCK, text(1, 64));
  await device.flush();
  await device.write(10 * BLOCK, text(2, 8));
  await device.flush();
  for (const block of [110, ...later]) {
    await device.write(block * BLOCK, text(block, 1));
    await device.flush();
  }
  const left = await crashedCopy(lower);
  const whole = await blocksOf(device);
  await device.close();
  return { lower: left, whole };
}

describe("what the journal tells of metadata that cannot be read", () => {
  it("can be read and written; the rest is refused, and comes back", async () => {
    const { lower, whole } = await crashed();
    spoil(lower, 1);
    const device = await openImage(lower, BLOCKS, VALUES);
    // The extent it was in was written anew around it.
    const found = await blocksOf(device);
    const told = range(64, 64).filter((block) => found[block] !== "EIO");
    expect(told).toContain(110);
    expect(told.length).toBeLessThan(64);
    expect(found.filter((one, block) => one !== "EIO" && one !== whole[block])).toEqual([]);
    expect(healthOf(device)).toMatchObject({ state: "degraded", why: expect.stringContaining("64 … 127") });
    expect(await code(device.write(64 * BLOCK, text(5, 1)))).toBe("EIO");
    expect(await code(device.write(63 * BLOCK, text(5, 64)))).toBe("EIO");
    // More than the journal holds.
    for (let round = 0; round < 4; round += 1)
      for (const block of [110, 200]) {
        await device.write(block * BLOCK, text(300 + block + round, 1));
        await device.flush();
      }
    const expected = [...whole];
    for (const block of [110, 200]) expected[block] = digest(text(303 + block, 1));
    const expectWhole = async (disk: BadSectors): Promise<void> => {
      disk.bad.clear();
      const again = await openImage(disk, BLOCKS, VALUES);
      expect(await blocksOf(again)).toEqual(expected);
      await again.close();
    };
    expect(lower.bad.size).toBe(1);
    lower.gives = true;
    const later = await crashedCopy(lower);
    lower.gives = false;
    await device.close();
    await expectWhole(later);
    await expectWhole(lower);
  });

  it("is overwritten when all of the group is", async () => {
    const { lower } = await crashed();
    spoil(lower, 1);
    const device = await openImage(lower, BLOCKS, VALUES);
    await device.write(64 * BLOCK, text(7, 64));
    await device.flush();
    expect(healthOf(device)).toMatchObject({ state: "ok" });
    await device.write(70 * BLOCK, text(8, 1));
    await device.close();
    expect(lower.bad.size).toBe(0);
    const again = await openImage(lower, BLOCKS, VALUES);
    const expected = text(7, 64);
    text(8, 1).copy(expected, 6 * BLOCK);
    const found = (await blocksOf(again)).slice(64, 128);
    expect(found).toEqual(range(0, 64).map((at) => digest(expected.subarray(at * BLOCK, (at + 1) * BLOCK))));
    await again.close();
  });

  it("stays as it is until the record that has all of the group is stable", async () => {
    const { lower } = await crashed();
    let begun = 0;
    let end = (): void => {};
    class Slow extends BadSectors {
      isSlow = false;

      /** The first one ends when it is told to; then it is gone. */
      protected override async doFlush(): Promise<void> {
        if (!this.isSlow) return;
        begun += 1;
        if (begun > 1) throw new BlockIoError("gone", { code: "EIO", device: this.name, op: "flush" });
        await new Promise<void>((resolve) => (end = resolve));
      }
    }
    const disk = new Slow(SIZE);
    await disk.write(0, await bytesOf(lower));
    spoil(disk, 1);
    const device = await openImage(disk, BLOCKS, VALUES);
    await device.write(200 * BLOCK, text(5, 1));
    disk.isSlow = true;
    const flushed = device.flush();
    await expect.poll(() => begun).toBe(1);
    await device.write(64 * BLOCK, text(7, 64));
    end();
    await flushed;
    expect(await code(device.flush())).toBe("EIO");
    await code(device.close());
    expect(disk.bad.size).toBe(1);
  });

  it("stays as it is until all records are stable that have what is in one block of the device", async () => {
    const size = 4 * SIZE;
    const values = { ...VALUES, journal: 4 * JOURNAL };
    const [old, young] = [noise(1, 512), noise(2, 512)];
    const open = (disk: BadSectors): Promise<TargetDevice> => openImage(disk, 512, values);
    const made = new BadSectors(size, { logicalBlockSize: 4096 });
    const before = await open(made);
    await before.write(0, old);
    await before.close();
    const metadata = (layoutV2(size / BLOCK, values.journal)?.metaStart ?? 0) * BLOCK;
    /** Its power fails at a write. */
    class Fails extends BadSectors {
      left = Number.POSITIVE_INFINITY;

      protected override async doWrite(offset: number, from: Buffer): Promise<void> {
        this.left -= 1;
        if (this.left < 0)
          throw new BlockIoError("the power is off", { code: "ENOTCONN", device: this.name, op: "write" });
        await super.doWrite(offset, from);
      }
    }
    for (let limit = 0, ended = false; !ended; limit += 1) {
      const disk = new Fails(size, { logicalBlockSize: 4096 });
      await disk.write(0, await bytesOf(made));
      disk.bad.add(metadata / 512);
      const device = await open(disk);
      disk.left = limit;
      await code(device.write(0, young));
      ended = (await code(device.flush())) === "no error";
      await code(device.close());
      disk.left = Number.POSITIVE_INFINITY;
      disk.bad.clear();
      const again = await open(disk);
      for (let block = 0; block < 512; block += 1) {
        const into = Buffer.alloc(BLOCK);
        const result = await code(again.read(block * BLOCK, into));
        const of = (bytes: Buffer): boolean =>
          into.equals(bytes.subarray(block * BLOCK, (block + 1) * BLOCK));
        expect(
          of(young) || (!ended && of(old)),
          `block ${block}, power off at write ${limit}: ${result}`,
        ).toBe(true);
      }
      await again.close();
    }
  });

  it.each([1, 2])(
    "of %i blocks of the device is given up as the journal has room for what replaces it",
    async (count) => {
      const journal = 2 * 68 * BLOCK;
      const size = 6 * 2 ** 20;
      const blocks = layoutV2(size / BLOCK, journal)?.dataBlocks ?? 0;
      const metadata = (layoutV2(size / BLOCK, journal)?.metaStart ?? 0) * BLOCK;
      const values = { ...VALUES, journal, memory: 32 * 2 ** 20 };
      const lower = new BadSectors(size, { logicalBlockSize: 4096 });
      const old = noise(1, blocks);
      const before = await openImage(lower, blocks, values);
      await before.write(0, old);
      await before.close();
      for (let at = 0; at < count; at += 1) lower.bad.add((metadata + at * BLOCK) / 512);
      const device = await openImage(lower, blocks, values);
      const young = noise(2, blocks);
      await device.write(0, young);
      await device.close();
      expect(lower.bad.size).toBe(0);
      const again = await openImage(lower, blocks, values);
      expect((await bytesOf(again)).equals(young)).toBe(true);
      await again.close();
    },
  );

  it("is not overwritten by the next record where only the one before has it", async () => {
    const { lower, whole } = await crashed(200);
    spoil(lower, 1);
    lower.gives = true;
    const before = await bytesOf(lower);
    lower.gives = false;
    const error = await openImage(lower, BLOCKS, VALUES).catch((one: unknown) => one);
    expect(error).toBeInstanceOf(BlockIoError);
    expect(error).toMatchObject({ code: "EIO", hint: expect.stringContaining("read-only") });
    const looking = await openImage(new ReadOnly(lower), BLOCKS, {});
    const found = await blocksOf(looking);
    await looking.close();
    expect(found[110]).toBe(whole[110]);
    expect(found.filter((one, block) => one !== "EIO" && one !== whole[block])).toEqual([]);
    lower.bad.clear();
    expect((await bytesOf(lower)).equals(before)).toBe(true);
    const again = await openImage(lower, BLOCKS, VALUES);
    expect(await blocksOf(again)).toEqual(whole);
    await again.close();
  });

  it.each(["unreadable", "zero"] as const)(
    "stays in the journal until the rest is written as %s",
    async (as) => {
      for (const later of [[], [200]]) {
        const { lower, whole } = await crashed(...later);
        spoil(lower, 1);
        const problems = await problemsOf(lower);
        expect(problems.map(({ kind }) => kind)).toContain("metadata");
        expect(problems.find(({ kind }) => kind === "journal")?.advice).toContain("--bad unreadable");
        expect((await repair(lower, work)).repaired).toEqual([]);
        expect(lower.bad.size).toBe(1);
        const { left } = await repair(lower, work, { bad: as });
        expect(left.every(({ kind }) => kind === "lost")).toBe(true);
        const device = await openImage(lower, BLOCKS, VALUES);
        const found = await blocksOf(device);
        expect(found[110]).toBe(whole[110]);
        expect(eio(found).length > 0).toBe(as === "unreadable");
        expect(await code(device.write(64 * BLOCK, text(5, 1)))).toBe("no error");
        await device.close();
      }
    },
  );
});

describe.each([512, 4096] as const)(
  "any number of crashes, with metadata that is given, or not, on blocks of %i",
  (unit) => {
    const first = Number(process.env["DMKIT_SEED"] ?? 0) || 1 + ((process.pid * 7919) % 1_000_000);
    const size = unit === 512 ? SIZE : 2 * SIZE;
    // Of the larger blocks all metadata is in one; what it tells of takes several records.
    const values = { ...VALUES, journal: unit === 512 ? JOURNAL : 2 * JOURNAL };
    const together = unit === 512 ? GROUP : BLOCKS;
    const layout = layoutV2(size / BLOCK, values.journal);
    if (layout === undefined) throw new Error("no layout");
    const metadata = (layout.metaStart * BLOCK) / 512;

    /** A disk of which blocks cannot be read until they are written, or the power is gone. */
    class Disk extends PowerCut {
      readonly bad: Set<number> = new Set();

      protected override doRead(offset: number, into: Buffer): Promise<void> {
        for (const sector of this.bad) {
          const at = sector * 512 - ((sector * 512) % unit);
          if (at + unit > offset && at < offset + into.length)
            throw Object.assign(new Error("a bad sector"), { code: "EIO", syscall: "read" });
        }
        return super.doRead(offset, into);
      }

      protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
        for (let at = offset; at < offset + from.length; at += 512) this.bad.delete(at / 512);
        return super.doWrite(offset, from, fua);
      }
    }

    async function live(seed: number): Promise<void> {
      const random = new SeededRandom(seed);
      let image: Buffer = Buffer.alloc(size);
      // What each block may be; the last one is what it is.
      let may: number[][] = range(0, BLOCKS).map(() => [0]);
      const contents = new Map<number, string>([[0, digest(Buffer.alloc(BLOCK))]]);
      let version = 0;
      for (let generation = 0; generation < 12; generation += 1) {
        const disk = new Disk(image, random.chance(0.5) ? 1 + random.below(60) : 0, unit);
        if (generation > 0 && random.chance(0.7)) {
          disk.bad.add(metadata + random.below(5));
          if (random.chance(0.3)) disk.bad.add(metadata + random.below(5));
        }
        const given = disk.bad.size === 0;
        const device = await openImage(disk, BLOCKS, values).catch((error: unknown) => {
          if (!(error instanceof BlockIoError)) throw error;
          return undefined;
        });
        if (device !== undefined) {
          // Those whose last write has not failed.
          const written = new Set<number>();
          for (let block = 0; block < BLOCKS; block += 1) {
            const into = Buffer.alloc(BLOCK);
            const result = await code(device.read(block * BLOCK, into));
            if (result === "EIO" && !given) continue;
            const found = (may[block] as number[]).filter((one) => contents.get(one) === digest(into));
            expect(found.length > 0, `block ${block} of generation ${generation}: ${result}`).toBe(true);
            may[block] = found;
          }
          for (let step = 0; step < 12; step += 1) {
            const block = random.below(BLOCKS);
            const count = random.chance(0.1) ? together : 1 + random.below(6);
            const start = count === together ? block - (block % together) : block;
            const some = range(start, count).filter((one) => one < BLOCKS);
            version += 1;
            const data = random.chance(0.5) ? text(version, 1) : noise(version, 1);
            contents.set(version, digest(data));
            const result = await code(device.write(start * BLOCK, Buffer.concat(some.map(() => data))));
            if (result !== "no error" && !given && !disk.isOff) continue;
            for (const one of some) {
              may[one]?.push(version);
              if (result === "no error") written.add(one);
              else written.delete(one);
            }
            if (random.chance(0.5) && (await code(device.flush())) === "no error")
              may = may.map((all, one) => (written.has(one) ? all.slice(-1) : all));
          }
          if (random.chance(0.3)) await code(device.close());
        }
        image = await bytesOf(disk.survivor(random));
        await device?.close().catch(() => {});
      }
    }

    it(`shows what was flushed (DMKIT_SEED=${first})`, async () => {
      for (let seed = first; seed < first + (isDeep ? 100 : 4); seed += 1)
        await live(seed).catch((error: unknown) => {
          throw new Error(`DMKIT_SEED=${seed}`, { cause: error });
        });
    });
  },
);
