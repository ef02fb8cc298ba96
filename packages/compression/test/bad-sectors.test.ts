/** Places of a device of format 2 that cannot be read: copies of the superblock, and slots of the journal. */
import { MemoryDevice, SECTOR, parseOptions } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { info } from "../src/offline/info.ts";
import { recompress, recompressOptions } from "../src/offline/recompress.ts";
import { repair } from "../src/offline/repair.ts";
import {
  BLOCK,
  JOURNAL,
  bytesOf,
  code,
  crashedCopy,
  layoutOf,
  openImage,
  problemsOf,
  text,
  work,
} from "./support/images.ts";

const SIZE = 2 ** 21;
const BLOCKS = 64;
const SLOT = (layoutOf(SIZE).journalBlocks / 2) * BLOCK;

/** Two records, and an orderly close. */
async function closed(): Promise<BadSectors> {
  const lower = new BadSectors(SIZE);
  const device = await openImage(lower, BLOCKS);
  for (const at of [0, 20]) {
    await device.write(at * BLOCK, text(at, 10));
    await device.flush();
  }
  await device.close();
  return lower;
}

/** The sector at this byte is neither given nor taken. */
function spoil(lower: BadSectors, at: number): void {
  lower.heals = false;
  lower.bad.add(at / SECTOR);
}

/** Whether what was flushed is there. */
async function shown(lower: MemoryDevice): Promise<boolean> {
  const device = await openImage(lower, BLOCKS);
  const into = Buffer.alloc(10 * BLOCK);
  await device.read(20 * BLOCK, into);
  await device.close();
  return into.equals(text(20, 10));
}

describe("format 2", () => {
  it.each([0, 1])("copy %i of the superblock: the other one serves, and fsck tells", async (copy) => {
    const lower = await closed();
    spoil(lower, copy * BLOCK);
    expect(await info(lower)).toMatchObject({ format: "v2", closed: true });
    expect(await problemsOf(lower)).toMatchObject([
      { kind: "superblock-copy", severity: "warning", offset: copy * BLOCK },
    ]);
    const device = await openImage(lower, BLOCKS);
    await device.write(40 * BLOCK, text(40, 3));
    await device.flush();
    await device.close();
    const again = await openImage(lower, BLOCKS);
    const into = Buffer.alloc(3 * BLOCK);
    await again.read(40 * BLOCK, into);
    expect(into.equals(text(40, 3))).toBe(true);
    await again.close();
  });

  it("a copy that cannot be read beside none: it is not taken for a blank device", async () => {
    const lower = new BadSectors(SIZE);
    spoil(lower, 0);
    expect(await code(openImage(lower, BLOCKS, { force: true }))).toBe("EIO");
  });

  // Records 1 and 2 are in place: slot 1 is where the next one would be.
  const next = layoutOf(SIZE).journalStart * BLOCK + SLOT;

  it.each([0, 1])(
    "slot %i of the journal: nothing is in it after an orderly close, and it is written anew with the first record",
    async (slot) => {
      const lower = await closed();
      // The record before the last says that nothing came after it: one that is damaged does not.
      await lower.write(next, Buffer.alloc(SECTOR, 1));
      lower.bad.add((next - slot * SLOT) / SECTOR);
      expect(await problemsOf(lower)).toEqual([]);
      expect(await info(lower)).toMatchObject({ closed: true });
      const other = new MemoryDevice(SIZE);
      await recompress(lower, other, parseOptions(recompressOptions, { journal: JOURNAL }), work);
      expect([await shown(lower), await shown(other)]).toEqual([true, true]);
      // It may come back: what is in place has second copies there.
      expect(lower.bad.size).toBe(1);
      const device = await openImage(lower, BLOCKS);
      const same = Buffer.alloc(BLOCK);
      await device.read(0, same);
      await device.write(0, same);
      await device.close();
      expect(lower.bad.size).toBe(0);
      spoil(lower, next);
      expect(await shown(lower)).toBe(true);
    },
  );

  it("a slot of the journal is not written anew where the device gives nothing", async () => {
    const lower = await closed();
    const before = await bytesOf(lower);
    const device = await openImage(lower, BLOCKS);
    await device.close();
    lower.bad.add((next - SLOT) / SECTOR);
    const later = await openImage(lower, BLOCKS);
    for (let at = 0; at < 2 * BLOCK; at += SECTOR) lower.bad.add(at / SECTOR);
    await later.write(0, text(5, 1));
    await later.flush();
    expect(lower.bad.has((next - SLOT) / SECTOR)).toBe(true);
    await later.close();
    lower.bad.clear();
    const after = await bytesOf(lower);
    const slot = (bytes: Buffer): Buffer => bytes.subarray(next - SLOT, next);
    expect(slot(after).equals(slot(before))).toBe(true);
  });

  it("a slot that holds what a crash has left is refused, whatever the device was before", async () => {
    const lower = await closed();
    const device = await openImage(lower, BLOCKS);
    await device.write(30 * BLOCK, text(30, 3));
    await device.flush();
    const left = await crashedCopy(lower);
    await device.close();
    spoil(left, next);
    // One copy that says it is in use is enough.
    for (const copies of [[], [0], [1]]) {
      for (const copy of copies) left.bad.add((copy * BLOCK) / SECTOR);
      expect(await code(openImage(left, BLOCKS))).toBe("EIO");
      for (const copy of copies) left.bad.delete((copy * BLOCK) / SECTOR);
    }
  });

  it("the journal's slot of the last record: the other one shows that nothing came after it", async () => {
    const lower = await closed();
    spoil(lower, next - SLOT);
    expect(await problemsOf(lower)).toEqual([]);
    expect(await shown(lower)).toBe(true);
  });

  it("after a crash both slots matter, and a repair gives nothing up", async () => {
    const lower = await closed();
    const device = await openImage(lower, BLOCKS);
    // Records 3 and 4: nobody says that they are in place.
    for (const at of [30, 40]) {
      await device.write(at * BLOCK, text(at, 3));
      await device.flush();
    }
    for (const bad of [next - SLOT, next]) {
      const left = await crashedCopy(lower);
      spoil(left, bad);
      expect(await code(openImage(left, BLOCKS))).toBe("EIO");
      const before = await problemsOf(left);
      expect(before.map(({ kind, repair }) => [kind, repair])).toEqual([
        ["journal", undefined],
        ["journal", undefined],
      ]);
      expect((await repair(left, work)).repaired).toEqual([]);
      left.bad.clear();
      expect(await shown(left)).toBe(true);
    }
    await device.close();
  });

  it("behind the first sector of a record that is in place, and behind every record, nothing matters", async () => {
    for (const at of [next + SECTOR, next + 60 * 1024]) {
      const lower = await closed();
      spoil(lower, at);
      await (await openImage(lower, BLOCKS)).close();
      expect(await problemsOf(lower)).toEqual([]);
    }
  });
});
