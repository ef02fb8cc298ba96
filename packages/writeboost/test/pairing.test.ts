/** Devices that do not belong together are refused by every way of pairing them, and told nothing but that. */
import { BlockIoError, MemoryDevice, crc32c } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { openAt, openWriteboost, replay, viewRange, writeboostImages } from "../src/index.ts";
import { work } from "./support/offline.ts";

const MIB = 1024 * 1024;
const BLOCK = 4096;
const SUPERBLOCK = MIB + 1024;
const IDENTITY = 4096;

type Pair = {
  readonly backing: MemoryDevice;
  readonly cache: MemoryDevice;
};

async function bytesOf(device: MemoryDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}

async function deviceOf(bytes: Buffer, name = "memory"): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length, { name });
  await device.write(0, bytes);
  return device;
}

/** A superblock of ext4: all that matters is that it ends with its own CRC-32C. */
function ext4(mountCount: number): Buffer {
  const superblock = Buffer.alloc(1024);
  superblock.writeUInt16LE(0xef53, 56);
  superblock.writeUInt16LE(mountCount, 52);
  superblock.writeUInt32LE(~crc32c(superblock.subarray(0, 1020)) >>> 0, 1020);
  return superblock;
}

/** A disk of 8 MiB with a file system at 1 MiB, and ten dirty segments in a cache over it. */
async function pair({ close = true } = {}): Promise<Pair> {
  const backing = new MemoryDevice(8 * MIB, { name: "disk" });
  await backing.write(SUPERBLOCK, ext4(1));
  const cache = new MemoryDevice(MIB + 16 * 8192, { name: "cache" });
  const device = await openWriteboost({ backing, cache, plog: undefined }, { order: 4 });
  for (let id = 1; id <= 10; id += 1) {
    await device.write(3 * MIB + id * BLOCK, Buffer.alloc(BLOCK, id));
    await device.flush();
  }
  if (close) await device.close();
  return { backing: await deviceOf(await bytesOf(backing), "disk"), cache };
}

const ways: [string, (pair: Pair) => Promise<unknown>][] = [
  ["opening", ({ backing, cache }) => openWriteboost({ backing, cache, plog: undefined })],
  ["the range of views", viewRange],
  ["a view", (devices) => openAt(devices, 4)],
  ["replay", ({ backing, cache }) => replay(cache, backing)],
  ["replay up to a segment", ({ backing, cache }) => replay(cache, backing, { until: 4 })],
  [
    "restore",
    async (devices) => {
      const { cache } = devices;
      await writeboostImages.restore?.(devices, await writeboostImages.dump?.({ cache }, work), work);
    },
  ],
];

const strangers: [string, (backing: MemoryDevice) => Promise<MemoryDevice>][] = [
  [
    "a disk that was mounted in between",
    async (backing) => {
      await backing.write(SUPERBLOCK, ext4(2));
      return backing;
    },
  ],
  ["a blank disk", async () => new MemoryDevice(8 * MIB, { name: "disk" })],
  ["a smaller disk", async (backing) => deviceOf((await bytesOf(backing)).subarray(0, 4 * MIB), "disk")],
];

describe.each(strangers)("%s", (_stranger, change) => {
  it.each(ways)(
    "is refused by %s, without a hint about damage, and nothing is written",
    async (_way, use) => {
      const { cache, backing } = await pair();
      const other = await change(backing);
      const before = [await bytesOf(cache), await bytesOf(other)];
      const error: unknown = await use({ cache, backing: other }).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(BlockIoError);
      expect(error).toMatchObject({ code: "EFORMAT", device: "disk" });
      // Both are named.
      const { message, hint = "" } = error as BlockIoError;
      expect(message).toMatch(/uuid [0-9a-f]{32}/);
      expect(hint).not.toMatch(/until|damage|check/i);
      expect((await bytesOf(cache)).equals(before[0] as Buffer)).toBe(true);
      expect((await bytesOf(other)).equals(before[1] as Buffer)).toBe(true);
    },
  );

  it("is found by the check, is not taken for damage, and nothing is repaired", async () => {
    const { cache, backing } = await pair();
    const other = await change(backing);
    // Something to repair: the header is lost.
    await cache.write(0, Buffer.alloc(512));
    const before = await bytesOf(cache);
    const problems = [];
    for await (const problem of writeboostImages.check({ cache, backing: other }, work))
      problems.push(problem);
    expect(problems.map(({ kind }) => kind)).toEqual(["superblock", "backing"]);
    await writeboostImages.repair?.({ cache, backing: other }, work);
    // The header stands in the cache device twice, whatever the disk is.
    expect((await bytesOf(cache)).subarray(512).equals(before.subarray(512))).toBe(true);
  });
});

describe("devices that belong together", () => {
  it.each(ways)("are accepted by %s, copied to other places too", async (_way, use) => {
    const { cache, backing } = await pair();
    await use({
      cache: await deviceOf(await bytesOf(cache)),
      backing: await deviceOf(await bytesOf(backing)),
    });
  });

  it("are accepted after a crash, whatever writeback has done to the disk", async () => {
    const { cache, backing } = await pair({ close: false });
    await backing.write(SUPERBLOCK, ext4(2));
    const device = await openWriteboost({ backing, cache, plog: undefined });
    expect(device.statusData.lastFlushedId).toBe(10);
  });

  it("are accepted with the record that was written before there were witnesses, and no others", async () => {
    for (const changed of [false, true]) {
      const { cache, backing } = await pair();
      await asVersion1(cache, backing);
      if (changed) await backing.write(0, Buffer.alloc(512, 1));
      const opening = openWriteboost({ backing, cache, plog: undefined });
      if (changed) await expect(opening).rejects.toMatchObject({ code: "EFORMAT" });
      else expect((await opening).statusData.lastFlushedId).toBe(10);
    }
  });

  it.each(ways)(
    "are accepted by %s where a place of the disk that would tell cannot be read",
    async (way, use) => {
      for (const version of [1, 2]) {
        const { cache, backing } = await pair();
        if (version === 1) await asVersion1(cache, backing);
        const disk = new BadSectors(backing.size, { name: "disk" });
        await disk.write(0, await bytesOf(backing));
        // What the log has nothing of, and the first block that it has.
        disk.bad.add(5).add((3 * MIB + BLOCK) / 512);
        await use({ cache, backing: disk });
        const found = [];
        for await (const problem of writeboostImages.check({ cache, backing: disk }, work))
          found.push(problem);
        expect(found).toEqual([]);
        if (way !== "replay up to a segment") continue;
        expect([...disk.bad]).toEqual([5]);
        for (const id of [1, 4]) {
          const block = Buffer.alloc(BLOCK);
          await disk.read(3 * MIB + id * BLOCK, block);
          expect(block.equals(Buffer.alloc(BLOCK, id))).toBe(true);
        }
      }
    },
  );

  it("are told from others once the cache was closed with a disk that could not be read", async () => {
    const backing = new MemoryDevice(8 * MIB);
    const cache = new MemoryDevice(MIB + 16 * 8192);
    const device = await openWriteboost({ backing, cache, plog: undefined }, { order: 4 });
    await device.write(0, Buffer.alloc(BLOCK, 1));
    await device.flush();
    const read = backing.read.bind(backing);
    backing.read = () => Promise.reject(new BlockIoError("unreadable", { code: "EIO" }));
    await device.close();
    backing.read = read;
    const again = await openWriteboost({ backing, cache, plog: undefined });
    expect(again.statusData.lastFlushedId).toBe(1);
    await again.close();
    await backing.write(0, Buffer.alloc(512, 9));
    await expect(openWriteboost({ backing, cache, plog: undefined })).rejects.toMatchObject({
      code: "EFORMAT",
    });
  });
});

/** The identity record as it was: CRC-32C over the first 64 KiB and 16 blocks spread over the disk. */
async function asVersion1(cache: MemoryDevice, backing: MemoryDevice): Promise<void> {
  const disk = await bytesOf(backing);
  const blocks = disk.length / BLOCK;
  const places = new Set<number>();
  for (let index = 0; index < 16; index += 1) places.add(index).add(Math.floor((blocks * index) / 16));
  let sample = 0;
  for (const place of places) sample = crc32c(disk.subarray(place * BLOCK, (place + 1) * BLOCK), sample);
  const sector = Buffer.alloc(512);
  await cache.read(IDENTITY, sector);
  sector[12] = 1;
  sector.fill(0, 88);
  sector.writeUInt32LE(sample, 56);
  sector.writeUInt32LE(0, 8);
  sector.writeUInt32LE(crc32c(sector), 8);
  await cache.write(IDENTITY, sector);
}
