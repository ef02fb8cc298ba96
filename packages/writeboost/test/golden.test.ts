/** The format against byte tables and numbers written down by hand: never against our own encoder. */
import { MemoryDevice, rawCrc32c } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { checksum } from "../src/format/checksum.ts";
import {
  blocksPerSegment,
  geometryOf,
  plogSegmentSize,
  plogSegments,
  slotOf,
  slotStart,
} from "../src/format/geometry.ts";
import { decodeRecords, encodeRecord as encodePlogRecord, resemblesRecord } from "../src/format/plog.ts";
import { dialectOf, sealSegment, setMetablock } from "../src/format/segment.ts";
import {
  decodeHeader,
  decodeRecord,
  encodeHeader,
  encodeLeft,
  encodeRecord,
  isBareHeader,
} from "../src/format/superblock.ts";
import { openWriteboost } from "../src/index.ts";

const MIB = 1024 * 1024;
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

/** A cache device of order 8 with 4 slots and the given bytes at the given places, on otherwise zeroes. */
async function image(pieces: Record<number, Buffer>, slots = 4, order = 8): Promise<MemoryDevice> {
  const device = new MemoryDevice(MIB + slots * 512 * 2 ** order);
  for (const [at, bytes] of Object.entries(pieces)) {
    const start = Number(at);
    const from = Math.floor(start / 512) * 512;
    const sectors = Buffer.alloc(Math.ceil((start + bytes.length - from) / 512) * 512);
    bytes.copy(sectors, start - from);
    await device.write(from, sectors);
  }
  return device;
}

async function bytesAt(device: MemoryDevice, offset: number, length: number): Promise<string> {
  const from = Math.floor(offset / 512) * 512;
  const sectors = Buffer.alloc(Math.ceil((offset + length - from) / 512) * 512);
  await device.read(from, sectors);
  return sectors.toString("hex", offset - from, offset - from + length);
}

const superblock8 = hex("74734257 08");

describe("checksums", () => {
  it.each([
    ["123456789", Buffer.from("123456789"), 486108540, 0xe3069283],
    ["512 zero bytes", Buffer.alloc(512), 3473084991, 821882304],
    ["3584 zero bytes", Buffer.alloc(3584), 4151263722, 143703573],
    ["4096 zero bytes", Buffer.alloc(4096), 1728495222, 2566472073],
  ])("of %s", (_name, bytes, classic, v2) => {
    expect(checksum("classic", bytes)).toBe(classic);
    expect(checksum("v2", bytes)).toBe(v2);
    expect(rawCrc32c(bytes)).toBe(classic);
  });
});

describe("geometry", () => {
  it("has 2^(order - 3) - 1 blocks in a segment", () => {
    expect([4, 5, 6, 7, 8, 9, 10].map(blocksPerSegment)).toEqual([1, 3, 7, 15, 31, 63, 127]);
  });

  it("has plog segments of 9 sectors for each block", () => {
    const sectors = [4, 5, 6, 7, 8, 9, 10].map((order) => plogSegmentSize(order) / 512);
    expect(sectors).toEqual([9, 27, 63, 135, 279, 567, 1143]);
  });

  it("lays segments out as a ring", () => {
    const at = (order: number) => geometryOf(MIB + 31 * 512 * 2 ** order, order);
    expect([1, 31, 32, 1000].map((id) => slotOf(at(10), id))).toEqual([0, 30, 0, 7]);
    expect(slotStart(at(10), 7) / 512).toBe(9216);
    expect(slotStart(at(8), 7) / 512).toBe(3840);
  });

  it("reaches beyond 2 TiB", () => {
    const at = (slot: number): bigint => 2n ** 20n + BigInt(slot) * 524_288n;
    const geometry = geometryOf(4 * 2 ** 40, 10);
    // As the original counted: sectors in 32 bits.
    const wrapped = (slot: number): number => ((2048 + slot * 1024) >>> 0) * 512;
    for (const slot of [0, 1, 2 ** 22 - 3, 2 ** 22 - 2, 2 ** 22, geometry.slots - 1]) {
      expect(BigInt(slotStart(geometry, slot))).toBe(at(slot));
      expect(slotOf(geometry, 5 * geometry.slots + slot + 1)).toBe(slot);
    }
    expect(BigInt(wrapped(2 ** 22 - 3))).toBe(at(2 ** 22 - 3));
    expect(BigInt(wrapped(2 ** 22 - 2))).not.toBe(at(2 ** 22 - 2));
  });

  it("chooses P", () => {
    const pairs = [
      [8, 7],
      [8, 9],
      [32, 12],
      [32, 40],
      [16, 9],
      [4, 4],
    ] as const;
    expect(pairs.map(([pool, fit]) => plogSegments(pool, fit))).toEqual([7, 8, 8, 32, 8, 4]);
  });
});

describe("superblock", () => {
  it("has magic and order in sector 0, the record in sector 2047", () => {
    expect(encodeHeader(10).toString("hex", 0, 8)).toBe("747342570a000000");
    expect(
      encodeHeader(10)
        .subarray(5)
        .every((byte) => byte === 0),
    ).toBe(true);
    const record = encodeRecord(0x0102_0304_0506);
    expect(record.toString("hex", 3584, 3592)).toBe("0605040302010000");
    expect(record.length).toBe(4096);
    expect(decodeRecord(record)).toBe(0x0102_0304_0506);
  });

  it("ignores what old drivers left behind the order, and knows an order from rubbish", () => {
    const sector = Buffer.alloc(512, 0xee);
    hex("74734257 04").copy(sector);
    expect(decodeHeader(sector)).toEqual({ kind: "writeboost", order: 4 });
    sector[4] = 0xee;
    expect(decodeHeader(sector)).toEqual({ kind: "writeboost", order: undefined });
    expect(decodeHeader(Buffer.alloc(512))).toEqual({ kind: "blank" });
    // Left behind by an exchange: "dmkL" and the order, which earlier versions take for a header that was damaged.
    const left = Buffer.alloc(4096);
    left.write("dmkL\x04", 0, "latin1");
    expect(encodeLeft(4).equals(left)).toBe(true);
    expect(decodeHeader(left)).toEqual({ kind: "foreign", magic: 0x4c_6b_6d_64 });
    expect(isBareHeader(left)).toBe(true);
    expect(decodeHeader(Buffer.alloc(512, 1)).kind).toBe("foreign");
  });

  it("is where it belongs on a device that was formatted, and everything else of the first MiB is zero", async () => {
    const cache = new MemoryDevice(MIB + 4 * 131_072);
    await cache.write(8192, Buffer.alloc(MIB, 0xaa));
    const device = await openWriteboost(
      { backing: new MemoryDevice(MIB), cache, plog: undefined },
      { order: 8, force: true },
    );
    await device.close();
    const head = Buffer.alloc(MIB);
    await cache.read(0, head);
    expect(head.toString("hex", 0, 5)).toBe("7473425708");
    head.fill(0, 0, 5);
    // dmkit's identity record, in sector 8.
    expect(head.toString("latin1", 4096, 4104)).toBe("dmkitWB1");
    head.fill(0, 4096, 4608);
    expect(head.equals(Buffer.alloc(MIB))).toBe(true);
    expect(await bytesAt(cache, MIB, 4096)).toBe("00".repeat(4096));
  });
});

describe("segment", () => {
  it("empty, id 5, classic", () => {
    const slot = Buffer.alloc(4096);
    sealSegment("classic", slot, 5, 0);
    expect(slot.toString("hex", 0, 16)).toBe("0500000000000000ea416ff700000000");
  });

  it("one block of 0xAA at sector 8, id 1, classic", () => {
    const slot = Buffer.alloc(8192);
    slot.fill(0xaa, 4096);
    setMetablock(slot, 0, 8, 0xff);
    sealSegment("classic", slot, 1, 1);
    expect(slot.toString("hex", 0, 13)).toBe("01000000000000007e5d917c01");
    expect(slot.toString("hex", 512, 528)).toBe("0800000000000000ff00000000000000");
    expect(dialectOf(slot)).toBe("classic");
  });

  it("is what the device writes", async () => {
    const cache = new MemoryDevice(MIB + 4 * 131_072);
    const device = await openWriteboost(
      { backing: new MemoryDevice(MIB), cache, plog: undefined },
      { order: 8 },
    );
    await device.write(4096, Buffer.alloc(4096, 0xaa));
    await device.flush();
    expect(await bytesAt(cache, MIB, 16)).toBe("01000000000000007e5d917c01000000");
    expect(await bytesAt(cache, MIB + 512, 16)).toBe("0800000000000000ff00000000000000");
    expect(await bytesAt(cache, MIB + 4096, 4)).toBe("aaaaaaaa");
    await device.close();
  });

  it("is what recovery reads, without any record of dmkit's own", async () => {
    const data = Buffer.alloc(4096, 0xaa);
    const cache = await image({
      0: superblock8,
      [MIB]: hex("0100000000000000 7e5d917c 01"),
      [MIB + 512]: hex("0800000000000000 ff"),
      [MIB + 4096]: data,
    });
    const device = await openWriteboost({ backing: new MemoryDevice(MIB), cache, plog: undefined });
    const into = Buffer.alloc(8192);
    await device.read(0, into);
    expect(into.subarray(0, 4096).equals(Buffer.alloc(4096))).toBe(true);
    expect(into.subarray(4096).equals(data)).toBe(true);
    expect(device.statusData).toMatchObject({
      lastFlushedId: 1,
      currentId: 2,
      dirtyBlocks: 1,
      lastWritebackId: 0,
    });
    await device.close();
  });
});

describe("plog", () => {
  it("record of 3 sectors of 0x11 at sector 13, id 1", () => {
    const segment = Buffer.alloc(9 * 512);
    encodePlogRecord(segment, 0, 1, 13, 0, Buffer.alloc(1536, 0x11));
    expect(segment.toString("hex", 0, 24)).toBe("01000000000000000d00000000000000ade321b200030000");
    expect(segment.toString("hex", 512, 516)).toBe("11111111");
  });

  it("is replayed into the slot: block at sector 8, bits 0xE0, data at byte 6656", async () => {
    const backing = new MemoryDevice(MIB);
    const cache = await image({ 0: superblock8 });
    const plog = new MemoryDevice(3 * 279 * 512);
    const segment = Buffer.alloc(4 * 512, 0x11);
    segment.fill(0, 0, 512);
    hex("0100000000000000 0d00000000000000 ade321b2 00 03").copy(segment);
    await plog.write(0, segment);
    const device = await openWriteboost({ backing, cache, plog });
    expect(await bytesAt(cache, MIB, 8)).toBe("0100000000000000");
    expect(await bytesAt(cache, MIB + 12, 1)).toBe("01");
    expect(await bytesAt(cache, MIB + 512, 16)).toBe("0800000000000000e000000000000000");
    expect(await bytesAt(cache, MIB + 6656, 1536)).toBe("11".repeat(1536));
    const into = Buffer.alloc(4096);
    await device.read(4096, into);
    expect(into.equals(Buffer.concat([Buffer.alloc(2560), Buffer.alloc(1536, 0x11)]))).toBe(true);
    await device.close();
  });

  it("is what a barrier writes", async () => {
    const cache = new MemoryDevice(MIB + 4 * 131_072);
    const plog = new MemoryDevice(3 * 279 * 512);
    const device = await openWriteboost({ backing: new MemoryDevice(MIB), cache, plog }, { order: 8 });
    await device.write(13 * 512, Buffer.alloc(1536, 0x11));
    await device.flush();
    expect(await bytesAt(plog, 0, 24)).toBe("01000000000000000d00000000000000ade321b200030000");
    expect(await bytesAt(cache, MIB, 16)).toBe("00".repeat(16));
    await device.close();
  });

  it("bounds what it reads: length, index, sector, place", () => {
    const bounds = { blocks: 31, backing: 64 };
    const good = (): Buffer => {
      const segment = Buffer.alloc(279 * 512);
      encodePlogRecord(segment, 0, 1, 13, 0, Buffer.alloc(1536, 0x11));
      return segment;
    };
    expect(decodeRecords(good(), bounds)).toHaveLength(1);
    const damage: ((segment: Buffer) => void)[] = [
      (segment) => void (segment[21] = 0),
      (segment) => void (segment[21] = 4),
      (segment) => void (segment[21] = 255),
      (segment) => void (segment[20] = 31),
      (segment) => void (segment[8] = 63),
      (segment) => void (segment[14] = 1),
      (segment) => void segment.fill(0, 0, 8),
      (segment) => void (segment[600] = 0),
    ];
    for (const harm of damage) {
      const segment = good();
      harm(segment);
      expect(decodeRecords(segment, bounds)).toEqual([]);
    }
    expect(decodeRecords(good().subarray(0, 1024), bounds)).toEqual([]);
  });

  it("of a later segment are found in user data, wherever they begin", () => {
    const data = (at: number, id: number, length: number): Buffer => {
      const bytes = Buffer.alloc(4096, 0xff);
      bytes.writeUInt32LE(id, at);
      bytes.writeUInt32LE(0, at + 4);
      bytes[at + 21] = length;
      return bytes;
    };
    for (let at = 0; at < 4096; at += 512) {
      for (let length = 1; length <= 8; length += 1) {
        expect(resemblesRecord(data(at, 8, length), 7)).toBe(true);
        expect(resemblesRecord(data(at, 7, length), 7)).toBe(false);
      }
      for (const length of [0, 9, 255]) expect(resemblesRecord(data(at, 8, length), 7)).toBe(false);
    }
    expect(resemblesRecord(Buffer.alloc(4096), 1)).toBe(false);
    expect(resemblesRecord(Buffer.alloc(4096, "text that is not a record "), 1)).toBe(false);
  });
});
