/** Format 1 against its byte tables: every image here is put together by hand, none by the encoder under test. */
import { BlockIoError, MemoryDevice, type TargetDevice, ZeroDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, littleEndian } from "@dmkit/block-io/testing";
import { createCompressor } from "@dmkit/compressor";
import { describe, expect, it } from "vitest";
import { packBlock, unpackEntries } from "../src/format/entries-v1.ts";
import { geometryV1 } from "../src/format/geometry-v1.ts";
import { compressedPart, compressedSectors, compressionLimit } from "../src/format/payload.ts";
import { openOn } from "../src/testing/sim-targets.ts";

const BLOCK = 4096;
const MAGIC = littleEndian(0x1065_26c2_0650_6c09n);

const noise = (seed: number, blocks: number): Buffer =>
  new SeededRandom(seed).fill(Buffer.alloc(blocks * BLOCK));
const text = (seed: number, blocks: number): Buffer =>
  Buffer.from(Array.from({ length: blocks * BLOCK }, (_, at) => 97 + ((at * at + seed) % 19)));

async function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : String(error)),
  );
}

async function read(device: TargetDevice, block: number, blocks = 1): Promise<Buffer> {
  const into = Buffer.alloc(blocks * BLOCK, 1);
  await device.read(block * BLOCK, into);
  return into;
}

function superblock(metaBlocks: number, dataBlocks: number, algorithm = 0): Buffer {
  const block = Buffer.alloc(BLOCK);
  MAGIC.copy(block);
  block.writeUInt32LE(metaBlocks, 8);
  block.writeUInt32LE(dataBlocks, 16);
  block[24] = algorithm;
  return block;
}

/** Entries as the string of bits the table describes. */
function packed(entries: Readonly<Record<number, number>>, bytes = BLOCK): Buffer {
  const into = Buffer.alloc(bytes);
  for (const [index, value] of Object.entries(entries)) {
    for (let bit = 0; bit < 5; bit += 1) {
      const at = Number(index) * 5 + bit;
      if ((value >> bit) & 1) into[at >> 3] = (into[at >> 3] as number) | (1 << (at & 7));
    }
  }
  return into;
}

/** A device of 102 blocks: superblock, 1 of metadata, 100 of data. */
async function image(
  entries: Readonly<Record<number, number>>,
  payloads: Readonly<Record<number, Buffer>>,
  algorithm = 0,
): Promise<MemoryDevice> {
  const lower = new MemoryDevice(102 * BLOCK);
  await lower.write(0, superblock(1, 100, algorithm));
  await lower.write(BLOCK, packed(entries));
  for (const [block, payload] of Object.entries(payloads)) {
    await lower.write((2 + Number(block)) * BLOCK, payload);
  }
  return lower;
}

const open = (lower: MemoryDevice, blocks = 100, values = {}): Promise<TargetDevice> =>
  openOn(lower, blocks * BLOCK, values, realEnvironment);

async function compressed(algorithm: string, data: Buffer): Promise<Buffer> {
  const compressor = await createCompressor(algorithm, { maxStreams: 1 });
  const stream = await compressor.acquire();
  const length = stream.compressSync(data);
  const result = Buffer.from(stream.output.subarray(0, length));
  stream.release();
  await compressor.close();
  return result;
}

/** Compressed data, the length word at the very end, noise between them. */
function payload(data: Buffer, sectors: number): Buffer {
  const into = noise(77, 32).subarray(0, sectors * 512);
  data.copy(into);
  into.writeUInt32LE(data.length, into.length - 4);
  return Buffer.from(into);
}

describe("sizes", () => {
  it.each([
    [3, 1, 1],
    [6554, 1, 6552],
    [6555, 2, 6552],
    [6556, 2, 6553],
    [32_773, 6, 32_766],
    [32_774, 6, 32_767],
    [32_775, 6, 32_768],
    [100_000, 16, 99_983],
    [262_144, 40, 262_103],
    [2 ** 28, 40_954, 268_394_501],
  ])("%i blocks: %i of metadata, %i of data", (total, metaBlocks, dataBlocks) => {
    expect(geometryV1(total)).toMatchObject({ metaBlocks, dataBlocks });
  });

  it("leave no data below three blocks, and metadata that suffices above", () => {
    for (const total of [0, 1, 2]) expect(geometryV1(total).dataBlocks).toBe(0);
    for (let total = 3; total < 70_000; total += 1) {
      const { metaBlocks, dataBlocks, wrapped } = geometryV1(total);
      if (1 + metaBlocks + dataBlocks !== total) throw new Error(`${total}: not all blocks are used`);
      if (dataBlocks * 5 > metaBlocks * BLOCK * 8) throw new Error(`${total}: too little metadata`);
      if ((wrapped !== undefined) !== (((total - 1) % 32_773) % 6554 === 0))
        throw new Error(`${total}: wrapped`);
    }
  });
});

/** k groups of 32773 blocks, j of 6554, and c left; the superblock is one more. */
const around = [0, 1, 2].flatMap((k) =>
  [0, 1, 2, 4, 5].flatMap((j) =>
    [0, 1, 2, 3, 6551, 6552, 6553]
      .map((c) => ({ k, j, c, total: 1 + k * 32_773 + j * 6_554 + c }))
      // Five groups of 6554 and three blocks more are one of 32773.
      .filter(({ total }) => j * 6_554 + (total - 1 - k * 32_773 - j * 6_554) < 32_773 && total >= 3),
  ),
);

describe("devices around the borders of groups", () => {
  it("are divided as the table says", () => {
    expect(around.length).toBeGreaterThan(80);
    for (const { k, j, c, total } of around) {
      expect(geometryV1(total), `${total} blocks`).toMatchObject({
        metaBlocks: 5 * k + j + 1,
        dataBlocks: 32_768 * k + 6_553 * j + c - 1,
      });
    }
  });

  it("are made so, use their last block, and are refused with any other count, but for that of a smaller one", async () => {
    for (const { k, j, c, total } of around.filter(({ total: blocks }) => blocks < 40_000)) {
      const [metaBlocks, dataBlocks] = [5 * k + j + 1, 32_768 * k + 6_553 * j + c - 1];
      const lower = new MemoryDevice(total * BLOCK);
      const device = await open(lower, dataBlocks, { format: "v1" });
      await device.write((dataBlocks - 1) * BLOCK, noise(total, 1));
      await device.close();
      const first = Buffer.alloc(BLOCK);
      await lower.read(0, first);
      expect(first.equals(superblock(metaBlocks, dataBlocks)), `${total} blocks`).toBe(true);
      const last = Buffer.alloc(BLOCK);
      await lower.read((total - 1) * BLOCK, last);
      expect(last.equals(noise(total, 1)), `${total} blocks`).toBe(true);
      const meta = Buffer.alloc(metaBlocks * BLOCK);
      await lower.read(BLOCK, meta);
      expect(meta.equals(packed({ [dataBlocks - 1]: 8 }, meta.length)), `${total} blocks`).toBe(true);
      const again = await open(lower, dataBlocks);
      expect((await read(again, dataBlocks - 1)).equals(noise(total, 1))).toBe(true);
      await again.close();
      expect(await code(open(lower, dataBlocks + 1))).toBe("EINVAL");
      for (const [meta1, data1] of [
        [metaBlocks, dataBlocks + 1],
        [metaBlocks - 1, dataBlocks + 1],
        [metaBlocks + 1, dataBlocks - 1],
      ] as const) {
        await lower.write(0, superblock(meta1, data1));
        expect(await code(open(lower, 1)), `${total} blocks`).toBe("EFORMAT");
      }
      await lower.write(0, superblock(metaBlocks, dataBlocks - 1));
      const smaller = geometryV1(total - 1);
      const isOne = smaller.metaBlocks === metaBlocks && smaller.dataBlocks >= 1;
      expect(await code(open(lower, 1)), `${total} blocks`).toBe(isOne ? "no error" : "EFORMAT");
    }
  });
});

describe("entries", () => {
  it.each([
    [[8, 19, 16], "6842"],
    [[0, 8, 3, 24], "000d0c"],
  ])("%s are bytes %s", (entries, bytes) => {
    const block = Buffer.alloc(BLOCK);
    packBlock(Uint8Array.from(entries), 0, block);
    expect(block.toString("hex").replace(/(00)+$/, "")).toBe(bytes);
    const into = new Uint8Array(entries.length);
    unpackEntries(Buffer.from(`${bytes}00`, "hex"), into);
    expect([...into]).toEqual(entries);
  });

  it("straddle bytes and blocks", () => {
    const entries = Uint8Array.from({ length: 20_000 }, (_, index) => (index * 7) % 32);
    const expected = packed(Object.fromEntries(entries.entries()), 4 * BLOCK);
    const block = Buffer.alloc(BLOCK, 0xff);
    for (let index = 0; index < 4; index += 1) {
      packBlock(entries, index, block);
      expect(block.equals(expected.subarray(index * BLOCK, (index + 1) * BLOCK)), `block ${index}`).toBe(
        true,
      );
    }
    const into = new Uint8Array(entries.length);
    unpackEntries(expected, into);
    expect(into).toEqual(entries);
  });
});

describe("payloads", () => {
  it.each([
    [508, 512],
    [509, 1024],
    [512, 1024],
    [1500, 1536],
    [3580, 3584],
    [130_556, 130_560],
  ])("%i compressed bytes take %i", (length, bytes) => {
    expect(compressedSectors(length) * 512).toBe(bytes);
  });

  it("are raw unless a sector is saved", () => {
    expect(compressionLimit(4096)).toBe(3580);
    expect(compressionLimit(131_072)).toBe(130_556);
  });

  it("have a length word that is looked at", () => {
    const bytes = Buffer.alloc(1024);
    for (const [word, ok] of [
      [1020, true],
      [1021, false],
      [0, false],
      [2 ** 32 - 1, false],
    ] as const) {
      bytes.writeUInt32LE(word, 1020);
      expect(compressedPart(bytes) !== undefined, String(word)).toBe(ok);
    }
  });
});

const tails = (first: number, sectors: readonly number[]): Record<number, number> =>
  Object.fromEntries(sectors.map((count, index) => [first + index, count | (index === 0 ? 0 : 16)]));
const spread = (blocks: number, sectors: number): number[] =>
  Array.from({ length: blocks }, (_, index) => Math.min(8, Math.max(0, sectors - 8 * index)));

describe("images", () => {
  it.each(["lzo", "lz4"])(
    "of extents of 1, 2, 31 and 32 blocks, raw and compressed with %s",
    async (name) => {
      const algorithm = ["lzo", "lz4"].indexOf(name);
      for (const blocks of [1, 2, 31, 32]) {
        const data = text(blocks, blocks);
        const small = await compressed(name, data);
        const sectors = Math.ceil((small.length + 4) / 512);
        expect(sectors).toBeLessThan(blocks * 8);
        const raw = noise(blocks, blocks);
        const lower = await image(
          { ...tails(3, spread(blocks, sectors)), ...tails(50, spread(blocks, blocks * 8)) },
          { 3: payload(small, sectors), 50: raw },
          algorithm,
        );
        const device = await open(lower);
        expect((await read(device, 3, blocks)).equals(data)).toBe(true);
        expect((await read(device, 50, blocks)).equals(raw)).toBe(true);
        expect((await read(device, 3 + blocks - 1)).equals(data.subarray(-BLOCK))).toBe(true);
        const around = Buffer.concat([Buffer.alloc(3 * BLOCK), data, Buffer.alloc(BLOCK)]);
        expect((await read(device, 0, blocks + 4)).equals(around)).toBe(true);
        await device.close();
      }
    },
  );

  it("whose length word just fits, or is one byte too long", async () => {
    // Uncompressible for lz4: literals only. 508 bytes in one sector, 509 need a second one.
    const data = Buffer.concat([noise(3, 1).subarray(0, 380), Buffer.alloc(BLOCK - 380)]);
    const small = await compressed("lz4", data);
    expect(small.length).toBeLessThanOrEqual(508);
    const fits = await open(await image(tails(0, [1]), { 0: payload(small, 1) }, 1));
    expect((await read(fits, 0)).equals(data)).toBe(true);
    const long = payload(small, 1);
    long.writeUInt32LE(509, 508);
    const broken = await open(await image(tails(0, [1]), { 0: long }, 1));
    expect(await code(read(broken, 0))).toBe("EIO");
    expect((await read(broken, 1)).equals(Buffer.alloc(BLOCK))).toBe(true);
  });

  it("whose payload decompresses to another length than that of the extent", async () => {
    for (const [stored, blocks] of [
      [1, 2],
      [3, 2],
    ] as const) {
      const small = await compressed("lzo", text(1, stored));
      const sectors = Math.ceil((small.length + 4) / 512);
      const device = await open(
        await image(tails(4, spread(blocks, sectors)), { 4: payload(small, sectors) }),
      );
      for (let block = 4; block < 4 + blocks; block += 1) expect(await code(read(device, block))).toBe("EIO");
      expect(Number(await device.message(["damaged"]))).toBe(blocks);
      expect((await read(device, 3)).equals(Buffer.alloc(BLOCK))).toBe(true);
    }
  });

  it.each([
    ["payload length impossible", { 5: 9 }, [5]],
    ["tail without head", { 0: 24 }, [0]],
    ["tail behind a hole", { 5: 0, 6: 24 }, [5, 6]],
    ["more than 32 blocks", tails(10, spread(33, 3)), [10, 25, 42]],
    ["noise instead of a payload", tails(5, [3, 0]), [5, 6]],
  ] as const)("that are damaged: %s", async (_, entries, blocks) => {
    const device = await open(await image(entries, { 5: noise(4, 3), 10: noise(5, 40) }));
    for (const block of blocks) expect(await code(read(device, block)), String(block)).toBe("EIO");
    expect((await read(device, 60)).equals(Buffer.alloc(BLOCK))).toBe(true);
    // What is overwritten can be read again; what was lost beside it stays lost, not garbage.
    for (const block of blocks) await device.write(block * BLOCK, noise(block + 1, 1));
    for (const block of blocks) expect((await read(device, block)).equals(noise(block + 1, 1))).toBe(true);
    await device.close();
  });

  it("whose last metadata group is partial", async () => {
    const total = 6556;
    const lower = new MemoryDevice(total * BLOCK);
    await lower.write(0, superblock(2, 6553));
    await lower.write(BLOCK, packed({ 6552: 8, 6551: 8 }, 2 * BLOCK));
    await lower.write((3 + 6551) * BLOCK, noise(8, 2));
    const device = await open(lower, 6553);
    expect((await read(device, 6551, 2)).equals(noise(8, 2))).toBe(true);
    await device.close();
  });
});

describe("superblocks", () => {
  it("that count wrongly, name an unknown algorithm, or are something else, are refused", async () => {
    for (const block of [superblock(1, 101), superblock(2, 100), superblock(1, 100, 9), noise(1, 1)]) {
      const lower = new MemoryDevice(102 * BLOCK);
      await lower.write(0, block);
      expect(await code(open(lower))).toBe("EFORMAT");
    }
    expect(await code(open(await image({}, {}), 101))).toBe("EINVAL");
  });

  it("whose count wrapped are opened read-only", async () => {
    const lower = new MemoryDevice(6555 * BLOCK);
    const block = superblock(2, 0);
    // 6552 and 2^32 too many.
    block.writeUInt32LE(6552, 16);
    block.writeUInt32LE(1, 20);
    await lower.write(0, block);
    const device = await open(lower, 6552);
    expect(await code(device.write(0, Buffer.alloc(BLOCK)))).toBe("EROFS");
  });
});

describe("writing", () => {
  it("produces what the tables say", async () => {
    const lower = new MemoryDevice(102 * BLOCK);
    const device = await open(lower, 100, { format: "v1", mode: "writethrough" });
    const first = Buffer.alloc(BLOCK);
    await lower.read(0, first);
    expect(first.equals(superblock(1, 100))).toBe(true);

    const three = text(1, 3);
    const expected = await compressed("lzo", three);
    const sectors = Math.ceil((expected.length + 4) / 512);
    await device.write(7 * BLOCK, three);
    await device.write(20 * BLOCK, noise(2, 2));
    // Zero blocks are stored as nothing, and divide what is around them.
    await device.write(30 * BLOCK, Buffer.concat([noise(3, 1), Buffer.alloc(BLOCK), noise(4, 1)]));

    const meta = Buffer.alloc(BLOCK);
    await lower.read(BLOCK, meta);
    const entries = { ...tails(7, spread(3, sectors)), ...tails(20, [8, 8]), 30: 8, 32: 8 };
    expect(meta.equals(packed(entries))).toBe(true);
    const stored = Buffer.alloc(sectors * 512);
    await lower.read(9 * BLOCK, stored);
    expect(stored.subarray(0, expected.length).equals(expected)).toBe(true);
    expect(stored.readUInt32LE(stored.length - 4)).toBe(expected.length);
    // No memory that nobody initialised reaches the disk.
    expect(stored.subarray(expected.length, -4).every((byte) => byte === 0)).toBe(true);
    expect(device.status()).toBe(
      `Data Size ${7 * BLOCK} Compressed Data Size ${stored.length + 4 * BLOCK} Meta Size ${3 * BLOCK}`,
    );

    // The middle of a raw extent of three: the whole is stored anew. Its head: the rest only changes in metadata.
    await device.write(50 * BLOCK, noise(5, 3));
    await device.write(51 * BLOCK, noise(6, 1));
    await device.write(50 * BLOCK, noise(7, 1));
    await lower.read(BLOCK, meta);
    expect(meta.equals(packed({ ...entries, 50: 8, 51: 8, 52: 24 }))).toBe(true);
    await device.close();
  });

  it("discards what is dropped, and holes if told so, but only when that is stable", async () => {
    for (const discard_holes of [false, true]) {
      const lower = new MemoryDevice(102 * BLOCK);
      const device = await open(lower, 100, {
        format: "v1",
        mode: "writeback",
        discard_holes,
        algorithm: "lz4",
      });
      const stored = async (block: number): Promise<boolean> => {
        const bytes = Buffer.alloc(BLOCK);
        await lower.read((2 + block) * BLOCK, bytes);
        return bytes.some((byte) => byte !== 0);
      };
      await device.write(0, noise(1, 8));
      await device.write(20 * BLOCK, noise(2, 4));
      await device.flush();
      await device.discard(2 * BLOCK, 2 * BLOCK);
      await device.writeZeroes(6 * BLOCK, BLOCK);
      await device.write(20 * BLOCK, text(2, 4));
      expect([await stored(2), await stored(6), await stored(23)]).toEqual([true, true, true]);
      await device.flush();
      expect([await stored(2), await stored(3), await stored(6)]).toEqual([false, false, false]);
      expect([await stored(1), await stored(4), await stored(7)]).toEqual([true, true, true]);
      // Four blocks of text need less than three.
      expect([await stored(20), await stored(23)]).toEqual([true, !discard_holes]);
      expect((await read(device, 0, 2)).equals(noise(1, 8).subarray(0, 2 * BLOCK))).toBe(true);
      expect((await read(device, 20, 4)).equals(text(2, 4))).toBe(true);
      await device.close();
    }
  });

  it("makes a device superblock last, when everything else is stable", async () => {
    class Recorded extends MemoryDevice {
      readonly log: string[] = [];
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        const magic = offset === 0 && from.subarray(0, 8).equals(MAGIC);
        this.log.push(magic ? "superblock" : offset === 0 ? "wipe" : "metadata");
        return super.doWrite(offset, from);
      }
      protected override doFlush(): Promise<void> {
        this.log.push("flush");
        return super.doFlush();
      }
    }
    const lower = new Recorded(102 * BLOCK);
    await open(lower, 100, { format: "v1" });
    expect(lower.log).toEqual(["wipe", "flush", "metadata", "flush", "superblock", "flush"]);
  });

  it("refuses to make a device over something else", async () => {
    const lower = new MemoryDevice(2 ** 20);
    await lower.write(65_536, noise(1, 1));
    expect(await code(open(lower, 10, { format: "v1" }))).toBe("EFORMAT");
    expect(await code(open(new ZeroDevice(8192) as unknown as MemoryDevice, 1, { format: "v1" }))).toBe(
      "EINVAL",
    );
  });
});
