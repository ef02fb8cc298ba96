/** Every constant of the format, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { checksum } from "../src/format/checksum.ts";
import { blocksPerSegment, geometryOf, plogSegmentSize, slotStart } from "../src/format/geometry.ts";
import { IDENTITY_START, encodeIdentity } from "../src/format/identity.ts";
import { encodeRecord as encodePlogRecord } from "../src/format/plog.ts";
import { sealSegment, setMetablock } from "../src/format/segment.ts";
import { HEADER_START, MAGIC, RECORD_START, encodeHeader, encodeRecord } from "../src/format/superblock.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);

describe("superblock", () => {
  it("has the magic's number and the order in sector 0, and the record in the last sector of the first MiB", () => {
    expect(MAGIC).toBe(0x5742_7374);
    expect(MAGIC).toBe(Number(`0x${Buffer.from("WBst").toString("hex")}`));
    const header = encodeHeader(7);
    expect(HEADER_START).toBe(0);
    expect(header).toEqual(
      Buffer.concat([littleEndian(0x5742_7374n, 4), Buffer.from([7]), Buffer.alloc(4091)]),
    );
    const id = 2n ** 52n + 12_345n;
    expect(RECORD_START + encodeRecord(1).findIndex((byte) => byte !== 0)).toBe(2 ** 20 - 512);
    expect(
      encodeRecord(Number(id)).subarray(2 ** 20 - 512 - RECORD_START, 2 ** 20 - 504 - RECORD_START),
    ).toEqual(littleEndian(id));
  });
});

describe("checksums", () => {
  it.each([
    [Buffer.from("123456789"), 486108540, 0xe306_9283],
    [Buffer.alloc(512), 3473084991, 821882304],
    [Buffer.alloc(3584), 4151263722, 143703573],
    [Buffer.alloc(4096), 1728495222, 2566472073],
  ])("by long division", (bytes, classic, v2) => {
    expect(crc32cByHand(bytes, false)).toBe(classic);
    expect(crc32cByHand(bytes)).toBe(v2);
    expect(checksum("classic", bytes)).toBe(classic);
    expect(checksum("v2", bytes)).toBe(v2);
  });
});

describe("segments", () => {
  it("have id, checksum and length in their first sector, and 16 bytes a metablock behind it", () => {
    const slot = Buffer.alloc(4096 * 3);
    slot.fill(0xaa, 4096);
    setMetablock(slot, 0, 8, 0xff);
    setMetablock(slot, 1, 2 ** 41, 0x0f);
    sealSegment("classic", slot, 2 ** 40 + 3, 2);
    expect(slot.subarray(512, 544)).toEqual(
      Buffer.concat([littleEndian(8n), littleEndian(0xffn), littleEndian(2n ** 41n), littleEndian(0x0fn)]),
    );
    const sum = crc32cByHand(slot.subarray(512), false);
    expect(slot.subarray(0, 13)).toEqual(
      Buffer.concat([littleEndian(2n ** 40n + 3n), u32(sum), Buffer.from([2])]),
    );
    expect(slot.subarray(13, 512)).toEqual(Buffer.alloc(499));
  });

  it.each([4, 5, 6, 7, 8, 9, 10])("of order %d lie where the formula puts them", (order) => {
    const blocks = 2 ** (order - 3) - 1;
    expect(blocksPerSegment(order)).toBe(blocks);
    expect(plogSegmentSize(order)).toBe((1 + 8) * blocks * 512);
    const geometry = geometryOf((2048 + 5 * 2 ** order) * 512 + 511, order);
    expect(geometry.slots).toBe(5);
    expect(BigInt(slotStart(geometry, 4))).toBe((2048n + 4n * 2n ** BigInt(order)) * 512n);
  });

  it("of the persistent log: records", () => {
    const image = Buffer.alloc(8192);
    const data = Buffer.alloc(3 * 512, 0x11);
    encodePlogRecord(image, 512, 1, 13, 0, data);
    const sum = crc32cByHand(data, false);
    const record = Buffer.concat([littleEndian(1n), littleEndian(13n), u32(sum), Buffer.from([0, 3])]);
    expect(image.subarray(512, 512 + 22)).toEqual(record);
    expect(image.subarray(1024, 1024 + data.length)).toEqual(data);
  });
});

describe("the identity record", () => {
  it("has its numbers in their places, in sector 8", () => {
    const block = encodeIdentity({
      version: 2,
      dialect: "v2",
      order: 10,
      clean: true,
      cache: "000102030405060708090a0b0c0d0e0f",
      plog: "101112131415161718191a1b1c1d1e1f",
      backingSize: 2 ** 50,
      backingSample: 0x8000_0001,
      plogSegments: 7,
      coveredId: 2 ** 45,
      lastId: 2 ** 46,
      recordedId: 2 ** 47,
      slots: 2 ** 33,
      plogSize: 2 ** 41,
      nameAtStart: true,
      archive: "0f".repeat(16),
      witness: "a0".repeat(32),
      through: true,
    });
    expect(IDENTITY_START).toBe(8 * 512);
    expect(block.subarray(0, 8)).toEqual(Buffer.from("dmkitWB1"));
    expect(block.subarray(48, 56)).toEqual(littleEndian(2n ** 50n));
    for (const [at, id] of [
      [64, 2n ** 45n],
      [72, 2n ** 46n],
      [80, 2n ** 47n],
      [88, 2n ** 33n],
      [96, 2n ** 41n],
    ] as const) {
      expect(block.subarray(at, at + 8)).toEqual(littleEndian(id));
    }
    expect(block[12]).toBe(2);
    expect(block.subarray(112, 144)).toEqual(Buffer.alloc(32, 0xa0));
    expect(block.subarray(144, 164)).toEqual(Buffer.concat([Buffer.alloc(16, 0x0f), Buffer.alloc(4)]));
    expect(block.subarray(104, 112)).toEqual(Buffer.from([1, 0, 1, 0, 0, 0, 0, 0]));
    const sector = Buffer.from(block.subarray(0, 512)).fill(0, 8, 12);
    expect(block.subarray(8, 12)).toEqual(u32(crc32cByHand(sector)));
  });
});
