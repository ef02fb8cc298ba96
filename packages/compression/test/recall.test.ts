/** Places of format 2 that do not give their payload, while the journal still has it: nothing is lost, and they are healed. */
import { SECTOR, type TargetDevice, healthOf } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { layoutV2 } from "../src/format/layout-v2.ts";
import {
  BLOCK,
  ReadOnly,
  bytesOf,
  code,
  crashedCopy,
  noise,
  openImage,
  problemsOf,
  text,
} from "./support/images.ts";

const SIZE = 2 ** 22;
const JOURNAL = 2 * 200 * BLOCK;
const BLOCKS = 300;
const DATA = (layoutV2(SIZE / BLOCK, JOURNAL)?.dataStart ?? 0) * BLOCK;
const VALUES = { format: "v2", journal: JOURNAL, max_extent: 65_536, interval: 3600 };

interface Made {
  readonly lower: BadSectors;
  readonly device: TargetDevice;
  readonly model: Buffer;
}

/** Text in 0–15, noise in 16–31, in place and in the journal; open. */
async function made(logicalBlockSize: 512 | 4096 = 512): Promise<Made> {
  const lower = new BadSectors(SIZE, { logicalBlockSize });
  const device = await openImage(lower, BLOCKS, VALUES);
  const model = Buffer.alloc(BLOCKS * BLOCK);
  text(1, 16).copy(model);
  noise(2, 16).copy(model, 16 * BLOCK);
  await device.write(0, model.subarray(0, 32 * BLOCK));
  await device.flush();
  await device.suspend();
  await device.resume();
  return { lower, device, model };
}

async function put({ device, model }: Made, block: number, data: Buffer): Promise<void> {
  data.copy(model, block * BLOCK);
  await device.write(block * BLOCK, data);
  await device.flush();
}

const spoil = (lower: BadSectors, block: number): unknown => lower.bad.add((DATA + block * BLOCK) / SECTOR);

async function matches(lower: BadSectors, model: Buffer): Promise<void> {
  const device = await openImage(lower, BLOCKS, VALUES);
  expect((await bytesOf(device)).equals(model)).toBe(true);
  await device.close();
}

describe.each([512, 4096] as const)("a bad sector of blocks of %i bytes that the journal has", (unit) => {
  it.each([
    ["compressed", 0],
    ["stored as it is", 20],
  ] as const)("is read from there, and written anew: %s", async (_name, block) => {
    const all = await made(unit);
    const { lower, device, model } = all;
    spoil(lower, block);
    expect((await bytesOf(device)).equals(model)).toBe(true);
    expect(device.facts()).toMatchObject({ recalled: 1, damaged: 0 });
    expect(healthOf(device).state).toBe("ok");
    await device.flush();
    expect(lower.bad.size).toBe(0);
    for (const at of [100, 200, 250]) await put(all, at, text(at, 1));
    await device.close();
    await matches(lower, model);
    expect(await problemsOf(lower)).toEqual([]);
  });

  it("is stored anew with neighbours that are written, although nobody has read it", async () => {
    for (const block of [3, 20]) {
      const all = await made(unit);
      spoil(all.lower, block < 16 ? 0 : 19);
      await put(all, block, text(9, 1));
      for (const at of [100, 200]) await put(all, at, text(at, 1));
      expect((await bytesOf(all.device)).equals(all.model)).toBe(true);
      await all.device.close();
      await matches(all.lower, all.model);
    }
  });
});

describe("a bad sector that the journal has", () => {
  it("is found where the extent was described anew since", async () => {
    const all = await made();
    // What is stored as it is stays, in two extents.
    await put(all, 20, noise(5, 1));
    spoil(all.lower, 25);
    expect((await bytesOf(all.device)).equals(all.model)).toBe(true);
    await put(all, 100, text(3, 1));
    await put(all, 101, text(3, 1));
    await all.device.close();
    await matches(all.lower, all.model);
  });

  it("is healed by a close, and found after an orderly one", async () => {
    const all = await made();
    await all.device.close();
    spoil(all.lower, 0);
    const device = await openImage(all.lower, BLOCKS, VALUES);
    expect((await bytesOf(device)).equals(all.model)).toBe(true);
    await device.close();
    expect(all.lower.bad.size).toBe(0);
  });

  it("is read where nothing can be written", async () => {
    const all = await made();
    await all.device.close();
    spoil(all.lower, 0);
    const device = await openImage(new ReadOnly(all.lower), BLOCKS, VALUES);
    for (let round = 0; round < 2; round += 1) expect((await bytesOf(device)).equals(all.model)).toBe(true);
    await device.close();
    expect(all.lower.bad.size).toBe(1);
  });

  it("is kept in the journal where its place takes no write, through crashes and many records", async () => {
    for (const block of [0, 20]) {
      const all = await made();
      all.lower.heals = false;
      spoil(all.lower, block);
      expect((await bytesOf(all.device)).equals(all.model)).toBe(true);
      for (const [round, at] of [100, 200, block + 1, 250].entries()) {
        await put(all, at, round === 1 ? noise(round, 2) : text(round, 2));
        expect((await bytesOf(all.device)).equals(all.model)).toBe(true);
        all.lower.gives = true;
        const crashed = await crashedCopy(all.lower);
        all.lower.gives = false;
        crashed.heals = false;
        spoil(crashed, block);
        await matches(crashed, all.model);
      }
      expect(healthOf(all.device).state).toBe("degraded");
      await all.device.close();
      await matches(all.lower, all.model);
    }
  });

  it("is given up when it is overwritten before it was healed", async () => {
    const all = await made();
    spoil(all.lower, 0);
    await all.device.read(0, Buffer.alloc(BLOCK));
    await put(all, 0, noise(7, 16));
    expect((await bytesOf(all.device)).equals(all.model)).toBe(true);
    await all.device.close();
    await matches(all.lower, all.model);
  });

  it("is lost when two more records were written and nobody had looked", async () => {
    const all = await made();
    await put(all, 100, text(3, 1));
    await put(all, 101, text(3, 1));
    spoil(all.lower, 0);
    expect(await code(all.device.read(0, Buffer.alloc(BLOCK)))).toBe("EIO");
    await all.device.close();
  });
});
