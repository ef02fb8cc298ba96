/** Bad sectors among data and metadata, of both formats: each costs what it holds, and nothing else stops. */
import { BlockIoError, MemoryDevice, SECTOR, healthOf, parseOptions } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it, vi } from "vitest";
import { dump } from "../src/offline/dump.ts";
import { info } from "../src/offline/info.ts";
import { recompress, recompressOptions } from "../src/offline/recompress.ts";
import { repair } from "../src/offline/repair.ts";
import {
  BLOCK,
  JOURNAL,
  blocksOf,
  code,
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
const layout = layoutOf(SIZE);
const DATA = layout.dataStart * BLOCK;
const META = layout.metaStart * BLOCK;
const V1 = { format: "v1" };
const V2 = { format: "v2", journal: JOURNAL, max_extent: 65_536 };

/** From now on the sector at this byte cannot be read, until it is written. */
const spoil = (lower: BadSectors, at: number): unknown => lower.bad.add(at / SECTOR);

const first = text(1, 32);
const second = noise(2, 40);

/** Text in 0–31, noise in 60–99, text in 200–203; closed. The journal has the last two. */
async function lowerOf(
  values: Readonly<Record<string, unknown>>,
  logicalBlockSize: 512 | 4096 = 512,
): Promise<BadSectors> {
  const lower = new BadSectors(SIZE, { logicalBlockSize });
  const device = await openImage(lower, BLOCKS, values);
  await device.write(0, first);
  await device.flush();
  await device.write(60 * BLOCK, second);
  await device.flush();
  await device.write(200 * BLOCK, text(3, 4));
  await device.close();
  return lower;
}

async function shown(lower: BadSectors, blocks = BLOCKS): Promise<string[]> {
  const device = await openImage(lower, blocks, {});
  const found = await blocksOf(device);
  await device.close();
  return found;
}

describe.each([
  ["v2", V2, DATA, 16],
  ["v1", V1, 2 * BLOCK, 32],
] as const)("a sector of data that cannot be read, %s", (_, values, place, blocks) => {
  it("costs its extent; what is written beside it is kept, and everything else goes on", async () => {
    const lower = await lowerOf(values);
    const whole = await shown(lower);
    spoil(lower, place);
    const device = await openImage(lower, BLOCKS, values);
    expect(eio(await blocksOf(device))).toEqual(range(0, blocks));
    await device.write(210 * BLOCK, text(4, 1));
    await device.write(2 * BLOCK, text(5, 1));
    await device.flush();
    await device.write(220 * BLOCK, text(6, 1));
    await device.flush();
    await device.close();
    const after = await shown(lower);
    const lost = range(0, blocks).filter((block) => block !== 2);
    expect(eio(after)).toEqual(lost);
    const written = new Map([
      [210, 4],
      [2, 5],
      [220, 6],
    ]);
    for (const [block, contents] of after.entries()) {
      if (lost.includes(block)) continue;
      const seed = written.get(block);
      expect(contents, `block ${block}`).toBe(seed === undefined ? whole[block] : digest(text(seed, 1)));
    }
  });

  it("is healed when the whole extent is overwritten", async () => {
    const lower = await lowerOf(values);
    spoil(lower, place);
    const device = await openImage(lower, BLOCKS, values);
    await device.write(0, text(7, blocks));
    await device.close();
    expect(eio(await shown(lower))).toEqual([]);
  });

  it("is no matter of the place where nothing can be read: nothing is lost", async () => {
    const lower = await lowerOf(values);
    const whole = await shown(lower);
    const device = await openImage(lower, BLOCKS, values);
    for (let at = 0; at < SIZE; at += SECTOR) spoil(lower, at);
    const writing = device.write(2 * BLOCK, text(5, 1)).then(() => device.flush());
    expect(await code(writing)).toBe("EIO");
    lower.bad.clear();
    await device.close().catch(() => {});
    expect(await shown(lower)).toEqual(whole);
  });

  it("is one finding of fsck, and stands in the way of no tool", async () => {
    const lower = await lowerOf(values);
    spoil(lower, place);
    expect(await problemsOf(lower)).toMatchObject([
      { kind: "extent", location: `blocks 0 … ${blocks - 1}`, text: "the payload cannot be read" },
    ]);
    const other = new MemoryDevice(SIZE + 2 ** 20);
    const options = parseOptions(recompressOptions, { journal: JOURNAL });
    expect(await recompress(lower, other, options, work)).toMatchObject({ lost: blocks });
    expect((await repair(lower, work, { bad: "unreadable" })).left.map(({ kind }) => kind)).toEqual(["lost"]);
    expect(eio(await shown(lower))).toEqual(range(0, blocks));
    expect((await repair(lower, work, { bad: "zero" })).left).toEqual([]);
    expect(eio(await shown(lower))).toEqual([]);
  });
});

describe("a sector of metadata that cannot be read, v2", () => {
  // Of group 1.
  const bad = META + 512;
  const group = range(64, 64);

  it("costs its blocks: they take no writes, what it said comes back with it, and everything else goes on", async () => {
    const lower = await lowerOf(V2);
    const whole = await shown(lower);
    spoil(lower, bad);
    const device = await openImage(lower, BLOCKS, V2);
    expect(eio(await blocksOf(device))).toEqual(group);
    expect(healthOf(device)).toMatchObject({
      state: "degraded",
      why: expect.stringContaining("blocks 64 … 127"),
      help: expect.stringContaining("fsck --repair --bad"),
    });
    for (const work of [
      device.write(70 * BLOCK, text(5, 1)),
      device.write(63 * BLOCK, text(5, 2)),
      device.discard(100 * BLOCK, BLOCK),
      device.writeZeroes(0, 80 * BLOCK),
    ])
      expect(await code(work)).toBe("EIO");
    await device.write(63 * BLOCK, text(6, 1));
    await device.write(128 * BLOCK, text(6, 1));
    await device.flush();
    await device.close();
    expect(eio(await shown(lower))).toEqual(group);
    lower.bad.clear();
    const expected = whole.map((one, block) => (block === 63 || block === 128 ? digest(text(6, 1)) : one));
    expect(await shown(lower)).toEqual(expected);
  });

  it("costs those of all groups that are in one block of the device below", async () => {
    const lower = await lowerOf(V2, 4096);
    const whole = await shown(lower);
    spoil(lower, bad);
    const device = await openImage(lower, BLOCKS, V2);
    expect(eio(await blocksOf(device))).toEqual(range(0, BLOCKS));
    expect(await code(device.write(0, text(5, 128)))).toBe("EIO");
    await device.close();
    lower.bad.clear();
    expect(await shown(lower)).toEqual(whole);
    spoil(lower, bad);
    await repair(lower, work, { bad: "zero" });
    expect(new Set(await shown(lower))).toEqual(new Set([digest(Buffer.alloc(BLOCK))]));
  });

  it("is healed when all its blocks are overwritten at once", async () => {
    const lower = await lowerOf(V2);
    spoil(lower, bad);
    const device = await openImage(lower, BLOCKS, V2);
    await device.write(60 * BLOCK, text(8, 70));
    expect(healthOf(device)).toMatchObject({ state: "ok" });
    await device.write(70 * BLOCK, text(9, 1));
    await device.close();
    const after = await shown(lower);
    expect(eio(after)).toEqual([]);
    expect(after[70]).toBe(digest(text(9, 1)));
  });

  it.each(["unreadable", "zero"] as const)("is a finding, and is written as %s when told so", async (as) => {
    const lower = await lowerOf(V2);
    spoil(lower, bad);
    expect(await problemsOf(lower)).toMatchObject([{ kind: "metadata", offset: bad }]);
    expect(await info(lower)).toMatchObject({ lost_blocks: 64 });
    expect(await dump(lower, work)).toMatchObject({ damaged: [{ group: 1 }] });
    expect((await repair(lower, work)).repaired).toEqual([]);
    expect(lower.bad.size).toBe(1);
    await repair(lower, work, { bad: as });
    expect(eio(await shown(lower))).toEqual(as === "zero" ? [] : group);
    const device = await openImage(lower, BLOCKS, V2);
    expect(await code(device.write(70 * BLOCK, text(5, 1)))).toBe("no error");
    await device.close();
  });
});

describe("a sector of metadata that cannot be read, v1", () => {
  // The second one: it has the entries from the end of 819 to the beginning of 1638.
  const bad = BLOCK + 512;
  const blocks = 1700;
  // With the extents that reach into it, and the block before them.
  const sealed = range(800, 1650 - 800);

  async function made(): Promise<BadSectors> {
    const lower = new BadSectors(2 ** 23);
    const device = await openImage(lower, blocks, V1);
    for (const [at, count] of [
      [0, 40],
      [780, 5],
      [800, 40],
      [1000, 3],
      [1628, 22],
      [1660, 10],
    ] as const)
      await device.write(at * BLOCK, text(at, count));
    await device.close();
    return lower;
  }

  it("costs its blocks: they take no writes, what it said comes back with it, and everything else goes on", async () => {
    const lower = await made();
    const whole = await shown(lower, blocks);
    spoil(lower, bad);
    const device = await openImage(lower, blocks, V1);
    const found = await blocksOf(device);
    expect(eio(found)).toEqual(sealed);
    expect(found.every((one, block) => one === "EIO" || one === whole[block])).toBe(true);
    expect(healthOf(device)).toMatchObject({ state: "degraded", why: expect.stringContaining("800 … 1649") });
    for (const work of [
      device.write(800 * BLOCK, text(5, 1)),
      device.write(700 * BLOCK, text(5, 101)),
      device.discard(1649 * BLOCK, BLOCK),
    ])
      expect(await code(work)).toBe("EIO");
    const written = [1, 799, 1650, 1699];
    for (const block of written) await device.write(block * BLOCK, text(6, 1));
    await device.flush();
    await device.close();
    expect(eio(await shown(lower, blocks))).toEqual(sealed);
    lower.bad.clear();
    const expected = whole.map((one, block) => (written.includes(block) ? digest(text(6, 1)) : one));
    expect(await shown(lower, blocks)).toEqual(expected);
  });

  it.each(["unreadable", "zero"] as const)("is a finding, and is written as %s when told so", async (as) => {
    const lower = await made();
    const whole = await shown(lower, blocks);
    spoil(lower, bad);
    expect(await problemsOf(lower)).toMatchObject([
      { kind: "metadata", location: "metadata of blocks 800 … 1649" },
    ]);
    expect(await info(lower)).toMatchObject({ lost_blocks: sealed.length });
    await dump(lower, work);
    expect(lower.bad.size).toBe(1);
    await repair(lower, work, { bad: as });
    const after = await shown(lower, blocks);
    expect(eio(after)).toEqual(as === "zero" ? [] : sealed);
    expect(after.every((one, block) => sealed.includes(block) || one === whole[block])).toBe(true);
    const device = await openImage(lower, blocks, V1);
    expect(await code(device.write(900 * BLOCK, text(5, 1)))).toBe("no error");
    await device.close();
  });
});

describe("the block of the superblock, format 1", () => {
  it("is not missed behind its first sector", async () => {
    const lower = await lowerOf(V1);
    const whole = await shown(lower);
    spoil(lower, 3 * 512);
    expect(await shown(lower)).toEqual(whole);
  });
});

/** A device that is full when it is told so. */
class Full extends BadSectors {
  isFull = false;

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    const error = new BlockIoError("no space is left", { code: "ENOSPC", device: this.name, op: "write" });
    return this.isFull ? Promise.reject(error) : super.doWrite(offset, from);
  }
}

describe("metadata of format 2 that cannot be read, on a device that is full", () => {
  it("is given up only when all that replaces it is in memory: a write that finds no room loses nothing", async () => {
    const lower = new Full(SIZE);
    const values = { ...V2, memory: 65_536, mode: "writeback" };
    const old = await openImage(lower, BLOCKS, values);
    const before = noise(3, 64);
    await old.write(0, before);
    await old.close();
    spoil(lower, META);
    const device = await openImage(lower, BLOCKS, values);
    lower.isFull = true;
    const takes = async (block: number): Promise<boolean> =>
      (await code(device.write(block * BLOCK, noise(4, 1)))) === "no error";
    for (let block = 64; block < BLOCKS && (await takes(block)); block += 1);
    // The whole group.
    const after = noise(5, 64);
    const wanted = (await code(device.write(0, after))) === "no error" ? after : before;
    lower.bad.clear();
    lower.isFull = false;
    await vi.waitFor(() => device.flush(), { timeout: 60_000 });
    await device.close();
    const again = await openImage(lower, BLOCKS, values);
    const into = Buffer.alloc(64 * BLOCK);
    await again.read(0, into);
    await again.close();
    expect(into.equals(wanted)).toBe(true);
  });
});
