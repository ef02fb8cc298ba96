/** A cache over a slice of a disk that was not closed in order: given the whole disk, replay would write to wrong places. */
import { type BlockIoError, MemoryDevice } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { openWriteboost, replay } from "../src/index.ts";

const MIB = 1024 * 1024;
const SIZE = 4 * MIB;
const START = 2 * MIB;

const block = (byte: number): Buffer => Buffer.alloc(4096, byte);

async function part(from: MemoryDevice, to: MemoryDevice, offset = 0): Promise<void> {
  const bytes = Buffer.alloc(from.size);
  await from.read(0, bytes);
  await to.write(offset, bytes);
}

async function copyOf(device: MemoryDevice): Promise<MemoryDevice> {
  const copy = new MemoryDevice(device.size, { name: device.name });
  await part(device, copy);
  return copy;
}

/** Left by a crash: `before` blocks from an earlier life are written back, two are in the log alone. */
async function left(before: number): Promise<{ slice: MemoryDevice; cache: MemoryDevice }> {
  const [slice, cache] = [new MemoryDevice(SIZE, { name: "slice" }), new MemoryDevice(MIB + 64 * 8192)];
  const devices = { backing: slice, cache, plog: undefined };
  const first = await openWriteboost(devices, { order: 4 });
  for (let at = 0; at < before; at += 1) {
    await first.write(at * 8192, block(at + 1));
    await first.flush();
  }
  await first.dropCaches();
  await first.close();
  const second = await openWriteboost(devices);
  for (const at of [100, 101]) {
    await second.write(at * 8192, block(at));
    await second.flush();
  }
  const found = { slice: await copyOf(slice), cache: await copyOf(cache) };
  await second.close();
  return found;
}

/** The disk that the slice is of; with a partition table that has it as number 3, unless that is left out. */
async function diskOf(slice: MemoryDevice, hasTable: boolean): Promise<MemoryDevice> {
  const disk = new MemoryDevice(START + SIZE + MIB, { name: "/dev/disk" });
  await part(slice, disk, START);
  if (!hasTable) return disk;
  const table = Buffer.alloc(512);
  for (const [index, [first, count]] of [
    [64, 100],
    [200, 300],
    [START / 512, SIZE / 512],
  ].entries()) {
    table[446 + index * 16 + 4] = 0x83;
    table.writeUInt32LE(first as number, 446 + index * 16 + 8);
    table.writeUInt32LE(count as number, 446 + index * 16 + 12);
  }
  table.writeUInt16LE(0xaa55, 510);
  await disk.write(0, table);
  return disk;
}

const refusal = (work: Promise<unknown>): Promise<BlockIoError> =>
  work.then(
    () => Promise.reject(new Error("not refused")),
    (error: unknown) => error as BlockIoError,
  );

it.each([
  ["by what was written back", 8, true, "?partition=3"],
  ["by its length, where nothing of it was written back", 0, true, "?partition=3"],
  ["by what was written back, without a partition table", 8, false, `--sizelimit ${SIZE}`],
] as const)(
  "is known %s: nothing is written, and the hint names the slice",
  async (_how, before, hasTable, named) => {
    const { slice, cache } = await left(before);
    const disk = await diskOf(slice, hasTable);
    const [diskBefore, cacheBefore] = [await copyOf(disk), await copyOf(cache)];
    for (const until of [undefined, before + 1]) {
      const error = await refusal(replay(cache, disk, until === undefined ? {} : { until }));
      expect([error.code, error.device]).toEqual(["EFORMAT", "/dev/disk"]);
      expect(error.hint).toContain(named);
    }
    expect(await same(disk, diskBefore)).toBe(true);
    expect(await same(cache, cacheBefore)).toBe(true);
    // The slice itself is the right one, and so is a device that has grown, where that can be told.
    const grown = new MemoryDevice(SIZE + MIB, { name: "grown" });
    await part(slice, grown);
    const alike = await copyOf(cache);
    await replay(cache, slice);
    const there = block(0);
    await slice.read(100 * 8192, there);
    expect(there.equals(block(100))).toBe(true);
    await replay(alike, grown);
    await grown.read(101 * 8192, there);
    expect(there.equals(block(101))).toBe(true);
  },
);

it("is not looked for where the cache was closed in order: then its witness tells", async () => {
  const [slice, cache] = [new MemoryDevice(SIZE), new MemoryDevice(MIB + 64 * 8192)];
  const device = await openWriteboost({ backing: slice, cache, plog: undefined }, { order: 4 });
  await device.write(0, block(1));
  await device.close();
  const error = await refusal(replay(cache, await diskOf(slice, true)));
  expect(error.reason).toContain("witness");
});

async function same(one: MemoryDevice, other: MemoryDevice): Promise<boolean> {
  const [a, b] = [Buffer.alloc(one.size), Buffer.alloc(other.size)];
  await one.read(0, a);
  await other.read(0, b);
  return a.equals(b);
}
