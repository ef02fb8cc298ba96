/** Every constant of both formats, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { Sets } from "../src/core/sets.ts";
import { EntryCodec, entryStates } from "../src/format/entries.ts";
import { layoutOf } from "../src/format/layout.ts";
import { type Superblock, encodeSuperblock } from "../src/format/superblock.ts";
import {
  encodeConfigurationV1,
  putSectorInTableV1,
  requiredSectorsV1,
  tableSectorsV1,
} from "../src/format/v1.ts";

const u32 = (value: number | bigint): Buffer => littleEndian(BigInt(value), 4);

const superblock: Superblock = {
  clean: true,
  needsCheck: false,
  uuid: "00010203-0405-0607-0809-0a0b0c0d0e0f",
  sourceUuid: "",
  generation: 2 ** 45,
  sourceSectors: 2 ** 46 + 1,
  geometry: { frames: 65_536, blockSectors: 8, ways: 1024 },
  policy: "write-back",
  entryStart: 8,
  dataStart: 1056,
  deviceSectors: 600_000,
  dirty: 3,
  fingerprint: undefined,
  witness: "b1".repeat(32),
};

describe("version 2", () => {
  it("superblock", () => {
    const sector = encodeSuperblock(superblock);
    expect(sector.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from("DMKASSOC"), u32(2)]));
    expect(sector.subarray(48, 64)).toEqual(
      Buffer.concat([littleEndian(2n ** 45n), littleEndian(2n ** 46n + 1n)]),
    );
    expect(sector.subarray(64, 84)).toEqual(
      Buffer.concat([littleEndian(65_536n), u32(8), u32(1024), u32(1)]),
    );
    expect(sector.subarray(128, 160)).toEqual(Buffer.alloc(32, 0xb1));
    expect(sector.subarray(12, 16)).toEqual(u32(1 + 8));
    expect(sector.subarray(508)).toEqual(u32(crc32cByHand(sector.subarray(0, 508))));
  });

  it("entries, their checksum begun with UUID and number", () => {
    const uuid = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
    const codec = new EntryCodec(uuid);
    const sector = Buffer.alloc(512);
    codec.put(sector, 0, 5, entryStates.dirty, 2 ** 43);
    codec.seal(sector, 0, 77);
    expect(sector.subarray(40, 48)).toEqual(littleEndian(2n ** 43n * 4n + 2n));
    const summed = Buffer.concat([uuid, u32(77), sector.subarray(0, 508)]);
    expect(sector.subarray(508)).toEqual(u32(crc32cByHand(summed)));
  });

  it.each([64, 65_536, 2 ** 20])("layout of %d frames", (frames) => {
    const entries = Math.ceil(Math.ceil(frames / 63) / 8) * 8;
    const { entryStart, dataStart, requiredSectors } = layoutOf({ frames, blockSectors: 8, ways: 64 });
    expect([entryStart, dataStart, requiredSectors]).toEqual([8, 8 + entries, 8 + entries + frames * 8 + 8]);
  });
});

describe("version 1", () => {
  it("configuration and table", () => {
    const configuration = { geometry: superblock.geometry, writeBack: true, checksum: 0xfedc_ba98 };
    expect(encodeConfigurationV1(configuration).subarray(0, 24)).toEqual(
      Buffer.concat([littleEndian(65_536n), u32(8), u32(1024), u32(1), u32(0xfedc_ba98n)]),
    );
    const table = Buffer.alloc(24);
    putSectorInTableV1(table, 1, 2 ** 52 + 8);
    expect(table).toEqual(Buffer.concat([Buffer.alloc(8), littleEndian(2n ** 52n + 8n), Buffer.alloc(8)]));
  });

  it.each([
    [65_536, 8, 525_313],
    [64, 8, 514],
  ])("of %d frames of %d sectors needs %d sectors", (frames, blockSectors, needed) => {
    const table = Math.ceil((frames * 8) / 512);
    expect(frames * blockSectors + table + 1).toBe(needed);
    expect(tableSectorsV1(frames)).toBe(table);
    expect(requiredSectorsV1({ frames, blockSectors, ways: 1 })).toBe(needed);
  });

  it("sets by the multiplication of 64 bits", () => {
    for (const { frames, ways, blockSectors } of [
      { frames: 65_536, ways: 1024, blockSectors: 8 },
      { frames: 1024, ways: 8, blockSectors: 64 },
    ]) {
      const sets = new Sets({ frames, ways, blockSectors });
      for (const sector of [0, 4095, 4096, 8192, 40_960, 123_456_789, 2 ** 32, 2 ** 40 + 12_345]) {
        const v = BigInt(Math.floor(sector / blockSectors / Math.min(ways, 512)));
        const product = BigInt.asUintN(64, v * 0x9e37_ffff_fffc_0001n);
        const hash = Number(product >> BigInt(64 - Math.log2(frames)));
        expect(sets.of(Math.floor(sector / blockSectors)), `sector ${sector}`).toBe(Math.floor(hash / ways));
      }
    }
  });
});
