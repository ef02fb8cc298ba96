/** Every constant of both formats, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { packBlock } from "../src/format/entries-v1.ts";
import { geometryV1 } from "../src/format/geometry-v1.ts";
import { changeKinds, encodeHeader } from "../src/format/journal-v2.ts";
import { GROUP, layoutV2 } from "../src/format/layout-v2.ts";
import { encodeGroup, payloadSum } from "../src/format/metadata-v2.ts";
import { encodePayload } from "../src/format/payload.ts";
import { checkOrMend } from "../src/format/single-bit.ts";
import { encodeSuperblockV1, isSuperblockV1 } from "../src/format/superblock-v1.ts";
import { encodeSuperblockV2 } from "../src/format/superblock-v2.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);
const uuid = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");

describe("format 1", () => {
  it("superblock", () => {
    const block = encodeSuperblockV1({ metaBlocks: 40, dataBlocks: 262_103, algorithm: 1 });
    const magic = littleEndian(0x1065_26c2_0650_6c09n);
    expect(block).toEqual(
      Buffer.concat([magic, littleEndian(40n), littleEndian(262_103n), Buffer.from([1]), Buffer.alloc(4071)]),
    );
    expect(isSuperblockV1(magic)).toBe(true);
  });

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
  ])("%d blocks are %d of metadata and %d of data", (total, meta, data) => {
    const rest = BigInt(total) - 1n;
    const [large, small] = [32_768n + 5n, 6553n + 1n];
    const smalls = (rest % large) / small;
    const left = (rest % large) % small;
    expect((rest / large) * 5n + smalls + 1n).toBe(BigInt(meta));
    expect((rest / large) * 32_768n + smalls * 6553n + left - 1n).toBe(BigInt(data));
    expect(geometryV1(total)).toMatchObject({ metaBlocks: meta, dataBlocks: data });
  });

  it("entries are 5 bits each, from the lowest upward", () => {
    const entries = [8, 19, 16, 0, 31, 1, 24, 3, 8];
    const number = entries.reduce((sum, entry, index) => sum | (BigInt(entry) << BigInt(5 * index)), 0n);
    const block = Buffer.alloc(4096);
    packBlock(Uint8Array.from(entries), 0, block);
    expect(block.subarray(0, 6)).toEqual(littleEndian(number, 6));
  });

  it.each([
    [508, 512],
    [509, 1024],
    [512, 1024],
    [1500, 1536],
    [3580, 3584],
  ])("%d compressed bytes take %d, and say so in the last word", (length, bytes) => {
    const payload = encodePayload(Buffer.alloc(length, 7), length);
    expect(payload.length).toBe(bytes);
    expect(payload.subarray(bytes - 4)).toEqual(u32(length));
  });
});

describe("format 2", () => {
  it("superblock", () => {
    const layout = layoutV2(65_536, 4 * 2 ** 20);
    if (layout === undefined) throw new Error("no layout");
    const facts = {
      layout,
      uuid,
      generation: 2 ** 45,
      applied: 2 ** 46,
      closed: true,
      features: 0,
      algorithm: "zstd",
    };
    const sector = encodeSuperblockV2(facts);
    expect(sector.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from("dmkitCP2"), u32(2)]));
    expect(sector.subarray(32, 48)).toEqual(Buffer.concat([littleEndian(2n ** 45n), littleEndian(65_536n)]));
    expect(sector.subarray(96, 104)).toEqual(littleEndian(2n ** 46n));
    expect(sector.subarray(108, 112)).toEqual(u32(1));
    // 2 superblocks, 1024 of journal; then one block of metadata for 512 of data.
    const rest = 65_536 - 2 - 1024;
    expect(layout).toMatchObject({ journalStart: 2, journalBlocks: 1024, metaStart: 1026 });
    expect(layout.metaBlocks).toBe(Math.ceil(rest / 513));
    expect(sector.subarray(12, 16)).toEqual(u32(crc32cByHand(Buffer.from(sector).fill(0, 12, 16))));
  });

  it("metadata, its checksum begun with UUID and number", () => {
    const sector = Buffer.alloc(512);
    const states = new Uint8Array(GROUP).fill(3);
    encodeGroup(sector, 0, uuid, 0, 2 ** 44, states, new Uint32Array(GROUP).fill(0x8765_4321));
    const summed = Buffer.concat([uuid, littleEndian(0n), sector.subarray(4)]);
    expect(sector.subarray(0, 4)).toEqual(u32(crc32cByHand(summed)));
    expect(sector.subarray(8, 16)).toEqual(littleEndian(2n ** 44n));
    expect(sector.subarray(80, 84)).toEqual(u32(0x8765_4321));
    const payload = Buffer.alloc(512, 9);
    expect(payloadSum(uuid, 2 ** 33, payload)).toBe(
      crc32cByHand(Buffer.concat([uuid, littleEndian(2n ** 33n), payload])),
    );
  });

  it("journal records", () => {
    const record = Buffer.alloc(1024, 5);
    const change = { kind: changeKinds.payload, first: 7, blocks: 1, sectors: 1, sum: 0x9abc_def0 };
    encodeHeader(record, 512, uuid, 2 ** 43, [change]);
    expect(record.subarray(4, 8)).toEqual(Buffer.from("JRNL"));
    expect(record.subarray(4, 8)).toEqual(u32(0x4c4e_524a));
    expect(record.subarray(8, 24)).toEqual(Buffer.concat([littleEndian(2n ** 43n), u32(1), u32(1)]));
    expect(record.subarray(24, 28)).toEqual(u32(crc32cByHand(record.subarray(512))));
    expect(record.subarray(32, 48)).toEqual(
      Buffer.concat([u32(7), u32(1), u32(0x9abc_def0), littleEndian(1n, 2), Buffer.from([1, 0])]),
    );
    const piece = Buffer.concat([uuid, littleEndian(0n), record.subarray(0, 508)]);
    expect(record.subarray(508, 512)).toEqual(u32(crc32cByHand(piece)));
    const header = Buffer.concat([uuid, littleEndian(2n ** 43n), record.subarray(4, 52)]);
    expect(record.subarray(0, 4)).toEqual(u32(crc32cByHand(header)));
  });

  it("a flipped bit is found by the polynomial", () => {
    const bytes = Buffer.from("a block of a journal, some bytes long");
    const sum = crc32cByHand(bytes);
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(checkOrMend(flipped, 0, sum)).toBe(true);
      expect(flipped).toEqual(bytes);
    }
  });
});
