/** Logs that other drivers wrote, built by hand here: no identity record, other dialects, other habits. */
import { MemoryDevice, crc32c } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { openWriteboost } from "../src/index.ts";
import { check } from "./support/check.ts";

const MIB = 1024 * 1024;

interface Block {
  readonly sector: number;
  readonly bits: number;
  readonly byte: number;
}

/** A slot, byte by byte. */
function slot(id: number, blocks: readonly Block[], inverted: boolean): Buffer {
  const bytes = Buffer.alloc(4096 * (1 + blocks.length), 0xcc);
  bytes.fill(0, 0, 4096);
  for (const [index, { sector, bits, byte }] of blocks.entries()) {
    bytes.writeUInt32LE(sector, 512 + 16 * index);
    bytes[512 + 16 * index + 8] = bits;
    for (let at = 0; at < 8; at += 1) {
      const start = 4096 * (1 + index) + at * 512;
      // What is not valid is rubbish, yet covered by the checksum.
      if (bits === 0 || ((bits >> at) & 1) === 1) bytes.fill(byte, start, start + 512);
    }
  }
  const crc = crc32c(bytes.subarray(512));
  bytes.writeUInt32LE(id, 0);
  bytes.writeUInt32LE(inverted ? crc : ~crc >>> 0, 8);
  bytes[12] = blocks.length;
  return bytes;
}

async function cacheOf(
  order: number,
  head: number[],
  slots: readonly Buffer[],
  count = 6,
): Promise<MemoryDevice> {
  const size = 512 * 2 ** order;
  const cache = new MemoryDevice(MIB + count * size);
  const sector = Buffer.alloc(512);
  Buffer.from([0x74, 0x73, 0x42, 0x57, ...head]).copy(sector);
  await cache.write(0, sector);
  for (const [index, bytes] of slots.entries()) await cache.write(MIB + index * size, bytes);
  return cache;
}

async function sectors(
  device: { read(offset: number, into: Buffer): Promise<void> },
  at: number,
): Promise<number[]> {
  const into = Buffer.alloc(4096);
  await device.read(at, into);
  return Array.from({ length: 8 }, (_, index) => into.readUInt8(index * 512));
}

describe("a classic log with dirty sectors in older copies only", () => {
  const log = [
    slot(1, [{ sector: 8, bits: 0xff, byte: 1 }], false),
    slot(2, [{ sector: 8, bits: 0x3c, byte: 2 }], false),
    slot(3, [{ sector: 8, bits: 0x18, byte: 3 }], false),
  ];
  const expected = [1, 1, 2, 3, 3, 2, 1, 1];

  it("reads as its segments overlay each other, and so does the backing device in the end", async () => {
    const backing = new MemoryDevice(MIB);
    const cache = await cacheOf(5, [5], log);
    expect((await check(cache, backing)).map(({ kind }) => kind)).toEqual(["split"]);
    const device = await openWriteboost({ backing, cache, plog: undefined });
    expect(await sectors(device, 4096)).toEqual(expected);
    await device.dropCaches();
    expect(await sectors(backing, 4096)).toEqual(expected);
    expect(device.statusData.dirtyBlocks).toBe(0);
    await device.close();
  });

  it("gives the same when it is opened again before anything was written", async () => {
    const backing = new MemoryDevice(MIB);
    const cache = await cacheOf(5, [5], log);
    await openWriteboost({ backing, cache, plog: undefined });
    const again = await openWriteboost({ backing, cache, plog: undefined });
    expect(await sectors(again, 4096)).toEqual(expected);
    await again.close();
  });

  it("survives in a ring of three slots, all of them needed", async () => {
    const backing = new MemoryDevice(MIB);
    const cache = await cacheOf(5, [5], log, 3);
    const device = await openWriteboost({ backing, cache, plog: undefined });
    expect(await sectors(device, 4096)).toEqual(expected);
    for (let at = 16; at < 64; at += 1) await device.write(at * 4096, Buffer.alloc(4096, at));
    expect(await sectors(device, 4096)).toEqual(expected);
    await device.close();
    const again = await openWriteboost({ backing, cache, plog: undefined });
    expect(await sectors(again, 4096)).toEqual(expected);
    await again.close();
  });
});

describe("a v2 log", () => {
  it("is recognised by its checksums, with rubbish in the order byte and clean blocks", async () => {
    const backing = new MemoryDevice(MIB);
    const cache = await cacheOf(
      10,
      [0xee, 0xee],
      [
        slot(1, [{ sector: 8, bits: 0xff, byte: 7 }], true),
        slot(2, [{ sector: 64, bits: 0, byte: 9 }], true),
      ],
      4,
    );
    const device = await openWriteboost({ backing, cache, plog: undefined });
    expect(JSON.parse(await device.message(["info"]))).toMatchObject({
      dialect: "v2",
      segment_size_order: 10,
    });
    expect(device.statusData).toMatchObject({ lastFlushedId: 2, dirtyBlocks: 1 });
    expect(await sectors(device, 4096)).toEqual([7, 7, 7, 7, 7, 7, 7, 7]);
    expect(await sectors(device, 64 * 512)).toEqual([9, 9, 9, 9, 9, 9, 9, 9]);
    await device.write(0, Buffer.alloc(4096, 3));
    await device.close();
    // What it wrote has the inverted checksum too.
    const third = Buffer.alloc(8192);
    await cache.read(MIB + 2 * 524_288, third);
    expect(third.readUInt32LE(8)).toBe(crc32c(third.subarray(512)));
  });
});

describe("plogs that must not be believed", () => {
  const record = (id: number, sector: number, byte: number, checksum = true): Buffer => {
    const bytes = Buffer.alloc(1024, byte);
    bytes.fill(0, 0, 512);
    bytes.writeUInt32LE(id, 0);
    bytes.writeUInt32LE(sector, 8);
    bytes.writeUInt32LE(checksum ? ~crc32c(bytes.subarray(512)) >>> 0 : 1, 16);
    bytes[21] = 1;
    return bytes;
  };

  async function opened(plogSegments: readonly Buffer[]) {
    const backing = new MemoryDevice(MIB);
    const cache = await cacheOf(4, [4], [slot(1, [{ sector: 8, bits: 0xff, byte: 1 }], false)]);
    const plog = new MemoryDevice(4 * 9 * 512);
    for (const [index, bytes] of plogSegments.entries()) await plog.write(index * 9 * 512, bytes);
    return openWriteboost({ backing, cache, plog });
  }

  it.each([
    ["the log has it already", [record(1, 8, 9)], 1],
    ["it goes on", [record(1, 8, 9), record(2, 8, 9)], 9],
    ["a segment in between is missing", [record(1, 8, 9), Buffer.alloc(512), record(3, 8, 9)], 1],
    ["the smallest id has no checksum that holds", [record(1, 8, 9, false), record(2, 8, 9)], 9],
    ["its own checksum does not hold", [record(1, 8, 9), record(2, 8, 9, false)], 1],
  ] as const)("%s", async (_name, plogSegments, byte) => {
    const device = await opened(plogSegments);
    expect((await sectors(device, 4096))[0]).toBe(byte);
    await device.close();
  });
});
