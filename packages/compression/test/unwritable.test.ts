/** A sector of data, or of metadata, that takes no write, format 2: what was acknowledged stays, and nothing else stops. */
import { MemoryDevice, SECTOR, healthOf, parseOptions } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { recompress, recompressOptions } from "../src/offline/recompress.ts";
import { repair } from "../src/offline/repair.ts";
import { layoutV2 } from "../src/format/layout-v2.ts";
import { BLOCK, bytesOf, crashedCopy, code, noise, openImage, text, work } from "./support/images.ts";

const SIZE = 2 ** 22;
const JOURNAL = 2 * 200 * BLOCK;
const BLOCKS = 300;
const DATA = (layoutV2(SIZE / BLOCK, JOURNAL)?.dataStart ?? 0) * BLOCK;
const META = (layoutV2(SIZE / BLOCK, JOURNAL)?.metaStart ?? 0) * BLOCK;
const VALUES = { format: "v2", journal: JOURNAL };

/** From now on the sector at this byte cannot be written. */
function spoil(lower: BadSectors, at: number): void {
  lower.heals = false;
  lower.gives = true;
  lower.bad.add(at / SECTOR);
}

describe.each([
  ["data", DATA + 16 * BLOCK, true],
  ["metadata", META, true],
  ["metadata, nor gives what was there", META, false],
])("a sector that takes no write, of %s", (_name, bad, isGiven) => {
  /** Block 16 and its neighbours as they were written; what the device should have. */
  async function made(): Promise<{ lower: BadSectors; model: Buffer }> {
    const lower = new BadSectors(SIZE);
    const model = Buffer.alloc(BLOCKS * BLOCK);
    noise(1, 64).copy(model);
    const device = await openImage(lower, BLOCKS, VALUES);
    await device.write(0, model.subarray(0, 64 * BLOCK));
    await device.close();
    spoil(lower, bad);
    return { lower, model };
  }

  async function matches(lower: MemoryDevice, model: Buffer): Promise<void> {
    const device = await openImage(lower, BLOCKS, VALUES);
    expect((await bytesOf(device)).equals(model)).toBe(true);
    await device.close();
  }

  it("is gone around: its block is kept in the journal, through crashes, closes and many records", async () => {
    const { lower, model } = await made();
    let device = await openImage(lower, BLOCKS, VALUES);
    lower.gives = isGiven;
    for (let round = 0; round < 12; round += 1) {
      const at = [16, 200, 17, 100, 14, 220][round % 6] as number;
      const data = round % 4 === 3 ? noise(round, 5) : text(round, 5);
      data.copy(model, at * BLOCK);
      await device.write(at * BLOCK, data);
      await device.flush();
      expect((await bytesOf(device)).equals(model), `round ${round}`).toBe(true);
      lower.gives = true;
      const crashed = await crashedCopy(lower);
      lower.gives = isGiven;
      spoil(crashed, bad);
      // What comes first is in the journal only when it is known.
      crashed.gives = isGiven || round === 0;
      await matches(crashed, model);
      // The sector has come back: the replay takes another way.
      crashed.bad.clear();
      await matches(crashed, model);
      if (round % 3 === 2) {
        expect(healthOf(device)).toMatchObject({
          state: "degraded",
          why: expect.stringContaining(`at ${bad}`),
        });
        await device.close();
        device = await openImage(lower, BLOCKS, VALUES);
      }
    }
    await device.close();
    await matches(lower, model);
  });

  it("stands in the way of no copy, and of no other repair", async () => {
    const { lower, model } = await made();
    const device = await openImage(lower, BLOCKS, VALUES);
    text(9, 3).copy(model, 15 * BLOCK);
    await device.write(15 * BLOCK, text(9, 3));
    await device.close();
    expect((await repair(lower, work)).repaired).toEqual([]);
    const other = new MemoryDevice(SIZE);
    await recompress(lower, other, parseOptions(recompressOptions, { journal: JOURNAL }), work);
    await matches(other, model);
  });

  it("is let go when the block is discarded, or taken", async () => {
    const { lower, model } = await made();
    for (const heals of [false, true]) {
      const device = await openImage(lower, BLOCKS, VALUES);
      await device.write(16 * BLOCK, text(3, 1));
      await device.flush();
      if (heals) lower.bad.clear();
      else if (bad === META) continue;
      else await device.discard(16 * BLOCK, BLOCK);
      (heals ? text(3, 1) : Buffer.alloc(BLOCK)).copy(model, 16 * BLOCK);
      await device.write(250 * BLOCK, text(4, 1));
      text(4, 1).copy(model, 250 * BLOCK);
      await device.flush();
      await device.suspend();
      expect(healthOf(device).state).toBe("ok");
      await device.close();
      await matches(lower, model);
    }
  });
});

describe("a sector that takes no write", () => {
  it("ends writing where the journal has no room for it, and loses nothing that was flushed", async () => {
    const lower = new BadSectors(SIZE);
    const small = { format: "v2", journal: 2 * 68 * BLOCK };
    spoil(lower, (layoutV2(SIZE / BLOCK, small.journal)?.dataStart ?? 0) * BLOCK);
    const device = await openImage(lower, BLOCKS, small);
    await device.write(0, noise(1, 16));
    await device.flush();
    expect(await code(device.suspend().then(() => device.flush()))).toBe("EIO");
    await device.close().catch(() => {});
    expect(await code(openImage(lower, BLOCKS, small))).toBe("EIO");
    lower.bad.clear();
    const again = await openImage(lower, BLOCKS, small);
    expect((await bytesOf(again)).subarray(0, 16 * BLOCK).equals(noise(1, 16))).toBe(true);
    await again.close();
  });
});

describe("a block of metadata of format 1 that takes no write", () => {
  it("fails the flush, and keeps no other from being stable, nor anything from being written", async () => {
    // The metadata of block 7000 is in the second block.
    const lower = new BadSectors(2 ** 25);
    const values = { format: "v1", interval: 1 };
    const device = await openImage(lower, 8000, values);
    spoil(lower, BLOCK);
    for (const at of [0, 7000]) await device.write(at * BLOCK, text(at, 2));
    for (let round = 0; round < 2; round += 1) {
      expect(await code(device.flush())).toBe("EIO");
      const crashed = await crashedCopy(lower);
      const into = Buffer.alloc(2 * BLOCK);
      const after = await openImage(crashed, 8000, values);
      await after.read(7000 * BLOCK, into);
      expect(into.equals(text(7000 + round, 2))).toBe(true);
      await after.close();
      await device.read(0, into);
      expect(into.equals(text(0, 2))).toBe(true);
      await device.write(7000 * BLOCK, text(7001, 2));
    }
    lower.bad.clear();
    await device.flush();
    await device.close();
    const again = await openImage(lower, 8000, values);
    const into = Buffer.alloc(2 * BLOCK);
    await again.read(0, into);
    expect(into.equals(text(0, 2))).toBe(true);
    await again.close();
  });
});

describe("a damaged payload whose place takes no write, and that the journal still has", () => {
  it.each(["unreadable", "zero"] as const)("is not given up as %s, and is brought elsewhere", async (bad) => {
    const lower = new BadSectors(SIZE);
    const device = await openImage(lower, BLOCKS, VALUES);
    await device.write(0, noise(1, 64));
    await device.close();
    lower.heals = false;
    lower.bad.add((DATA + 16 * BLOCK) / SECTOR);
    const { repaired, left } = await repair(lower, work, { bad });
    expect(repaired).toEqual([]);
    expect(left).toMatchObject([{ kind: "extent", advice: expect.stringContaining("recompress") }]);
    const other = new MemoryDevice(SIZE);
    const options = parseOptions(recompressOptions, { journal: JOURNAL });
    expect(await recompress(lower, other, options, work)).toMatchObject({ lost: 0 });
    const copied = await openImage(other, BLOCKS, VALUES);
    expect((await bytesOf(copied)).subarray(0, 64 * BLOCK).equals(noise(1, 64))).toBe(true);
    await copied.close();
  });
});
