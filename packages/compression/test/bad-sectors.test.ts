/** Places of a device of format 2 that cannot be read: copies of the superblock, and slots of the journal. */
import { BlockIoError, MemoryDevice, parseOptions } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { info } from "../src/offline/info.ts";
import { recompress, recompressOptions } from "../src/offline/recompress.ts";
import { repair } from "../src/offline/repair.ts";
import {
  BLOCK,
  JOURNAL,
  bytesOf,
  code,
  layoutOf,
  openImage,
  problemsOf,
  text,
  work,
} from "./support/images.ts";

const SIZE = 2 ** 21;
const BLOCKS = 64;
const SLOT = (layoutOf(SIZE).journalBlocks / 2) * BLOCK;

/** Gives nothing of one sector, and takes nothing there either. */
class Spoiled extends MemoryDevice {
  bad: number | undefined;

  #check(offset: number, length: number): void {
    if (this.bad === undefined || this.bad < offset || this.bad >= offset + length) return;
    throw new BlockIoError("a bad sector", { code: "EIO", device: this.name });
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    this.#check(offset, into.length);
    return super.doRead(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    this.#check(offset, from.length);
    return super.doWrite(offset, from);
  }

  protected override get failsForGood(): boolean {
    return false;
  }
}

/** Two records, and an orderly close. */
async function closed(): Promise<Spoiled> {
  const lower = new Spoiled(SIZE);
  const device = await openImage(lower, BLOCKS);
  for (const at of [0, 20]) {
    await device.write(at * BLOCK, text(at, 10));
    await device.flush();
  }
  await device.close();
  return lower;
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
    lower.bad = copy * BLOCK;
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
    const lower = new Spoiled(SIZE);
    lower.bad = 0;
    expect(await code(openImage(lower, BLOCKS, { force: true }))).toBe("EIO");
  });

  // Records 1 and 2 are in place: slot 1 is where the next one would be.
  const next = layoutOf(SIZE).journalStart * BLOCK + SLOT;

  it("the journal's slot for the next record: opening is refused, fsck goes on and names it", async () => {
    const lower = await closed();
    lower.bad = next;
    await expect(openImage(lower, BLOCKS)).rejects.toMatchObject({
      code: "EIO",
      message: expect.stringContaining("slot 1 of the journal"),
    });
    expect(await info(lower)).toMatchObject({ closed: false });
    expect(await problemsOf(lower)).toMatchObject([{ kind: "journal", severity: "error", offset: next }]);
    // What it may hold is in none of the copies that could be made of it.
    const other = new MemoryDevice(SIZE);
    await expect(
      recompress(lower, other, parseOptions(recompressOptions, { journal: JOURNAL }), work),
    ).rejects.toMatchObject({ code: "EIO" });
    // As the hint says.
    lower.bad = undefined;
    await lower.write(next, Buffer.alloc(SLOT));
    expect(await shown(lower)).toBe(true);
  });

  it("the journal's slot of the last record: the other one shows that nothing came after it", async () => {
    const lower = await closed();
    lower.bad = next - SLOT;
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
      const left = new Spoiled(SIZE);
      await left.write(0, await bytesOf(lower));
      left.bad = bad;
      expect(await code(openImage(left, BLOCKS))).toBe("EIO");
      const before = await problemsOf(left);
      expect(before.map(({ kind, repair }) => [kind, repair])).toEqual([
        ["journal", undefined],
        ["journal", undefined],
      ]);
      expect((await repair(left, work)).repaired).toEqual([]);
      left.bad = undefined;
      expect(await shown(left)).toBe(true);
    }
    await device.close();
  });

  it("behind the records of a slot nothing matters", async () => {
    const lower = await closed();
    lower.bad = layoutOf(SIZE).journalStart * BLOCK + 60 * 1024;
    await (await openImage(lower, BLOCKS)).close();
    expect(await problemsOf(lower)).toEqual([]);
  });
});
