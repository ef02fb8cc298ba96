/** Byte tables by hand: nothing here is made by the encoder under test. */
import { portableCrc32c } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { expandAliased } from "../src/format/aliased.ts";
import {
  bitmapDeviceSize,
  bitmapLength,
  identityCandidates,
  identityOffset,
  pageCount,
} from "../src/format/geometry.ts";
import {
  BASE_UUID,
  type Identity,
  decodeIdentity,
  encodeIdentity,
  isIdentityAt,
} from "../src/format/identity.ts";
import { randomUuid } from "@dmkit/block-io";

describe("geometry", () => {
  it.each([
    [1, 1, 98_304],
    [4096, 2, 98_304],
    [262_143, 64, 131_072],
    [2_097_152, 513, 360_448],
    [8_385_866, 2048, 1_146_880],
    [2 ** 31, 524_289, 268_533_760],
  ])("of %i sectors", (sectors, length, offset) => {
    expect(bitmapLength(sectors)).toBe(length);
    expect(identityOffset(length)).toBe(offset);
    expect(bitmapDeviceSize(sectors)).toBe(offset + 4096);
  });

  it("keeps the identity away from the bitmap, and finds it by probing sectors 192 + 64·k", () => {
    for (const sectors of [1, 7, 4095, 4096, 4097, 262_143, 262_144, 1_000_000, 8_385_866]) {
      const offset = identityOffset(bitmapLength(sectors));
      expect(offset).toBeGreaterThanOrEqual(pageCount(sectors) * 512 + 4096);
      expect((offset / 512 - 192) % 64).toBe(0);
      for (const extra of [0, 4096, 1_000_448]) {
        expect([...identityCandidates(bitmapDeviceSize(sectors) + extra)]).toContain(offset);
      }
    }
    expect([...identityCandidates(98_304)]).toEqual([]);
    expect([...identityCandidates(135_168)]).toEqual([131_072, 98_304]);
  });
});

const MAGIC = 0x00ba_be0e_aaba_be11n;

const identity: Identity = {
  uuid: "01020304-0506-4708-890a-0b0c0d0e0f10",
  parent: "11121314-1516-4718-991a-1b1c1d1e1f20",
  sectors: 8_385_866,
  frozen: true,
};

/** The identity above, byte by byte. */
function golden(): Buffer {
  const sector = Buffer.alloc(512);
  sector.writeBigUInt64LE(MAGIC);
  sector.set([0x00, 0x08, 0, 0, 0, 0, 0, 0], 8);
  sector.write("dmkitcow", 16, "latin1");
  sector.set([1, 0, 0, 0], 24);
  sector.set([1, 0, 0, 0], 28);
  sector.write("0102030405064708890a0b0c0d0e0f10", 32, "hex");
  sector.write("1112131415164718991a1b1c1d1e1f20", 48, "hex");
  // 8385866 = 0x7FF54A
  sector.set([0x4a, 0xf5, 0x7f, 0, 0, 0, 0, 0], 64);
  const crc = portableCrc32c(sector.subarray(0, 508));
  sector.set([crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24], 508);
  return sector;
}

describe("identity", () => {
  it("is encoded as the table says", () => {
    expect(encodeIdentity(identity).equals(golden())).toBe(true);
    expect(decodeIdentity(golden())).toEqual({ kind: "layer", identity });
  });

  it("tells new, foreign, original and damaged ones apart", () => {
    expect(decodeIdentity(Buffer.alloc(4096)).kind).toBe("new");
    const late = Buffer.alloc(4096);
    late[4095] = 1;
    expect(decodeIdentity(late).kind).toBe("foreign");
    const original = Buffer.alloc(4096);
    original.writeBigUInt64LE(MAGIC);
    original[8] = 2;
    expect(decodeIdentity(original)).toEqual({ kind: "original", bitmapLength: 2 });
    original[8] = 0;
    expect(decodeIdentity(original).kind).toBe("damaged");
    original[16] = 1;
    expect(decodeIdentity(original).kind).toBe("damaged");
  });

  it("notices any flipped bit", () => {
    for (let bit = 0; bit < 4096; bit += 1) {
      const sector = golden();
      sector[bit >> 3] = (sector[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const { kind } = decodeIdentity(sector);
      expect(["damaged", "foreign"], `bit ${bit}: ${kind}`).toContain(kind);
    }
  });

  it("refuses what only its checksum vouches for", () => {
    for (const [at, value] of [
      [16, 0x44],
      [24, 4],
      [28, 2],
      [64, 0x4b ^ 0x80],
      [8, 1],
      [71, 0xff],
    ] as const) {
      const sector = golden();
      sector[at] = value;
      const crc = portableCrc32c(sector.subarray(0, 508));
      sector.set([crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24], 508);
      const found = decodeIdentity(sector);
      if (at === 64) expect(found.kind).toBe("layer");
      else expect(found.kind, `byte ${at}`).toBe("damaged");
    }
  });

  it("belongs to one place only", () => {
    expect(isIdentityAt(golden(), 1_146_880)).toBe(true);
    expect(isIdentityAt(golden(), 98_304)).toBe(false);
    expect(isIdentityAt(Buffer.alloc(512), 98_304)).toBe(false);
  });

  it("gives random UUIDs of version 4", () => {
    const uuid = randomUuid({ next: () => 0.999 });
    expect(uuid).toBe("ffffffff-ffff-4fff-bfff-ffffffffffff");
    expect(uuid).not.toBe(BASE_UUID);
  });
});

describe("aliased bitmaps", () => {
  it.each([
    [4096, 113],
    [512, 561],
  ] as const)("block size %i keeps sector 5000 in byte %i, dense byte 625 bit 0", (blockSize, byte) => {
    const bitmap = Buffer.alloc(4096);
    bitmap[byte] = 1;
    expandAliased(bitmap, blockSize);
    expect(bitmap[625]).toBe(1);
    const group = 8 * blockSize;
    const set: number[] = [];
    for (let sector = 0; sector < 32_768; sector += 1) {
      if (((bitmap[sector >> 3] ?? 0) >> (sector & 7)) & 1) set.push(sector);
    }
    const start = Math.floor(5000 / group) * group;
    expect(set).toEqual(
      Array.from({ length: 8 }, (_, copy) => start + (5000 % blockSize) + copy * blockSize),
    );
  });
});
