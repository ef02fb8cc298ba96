/** Every constant of the format, worked out from its number: never copied as bytes. */
import { createHash } from "node:crypto";
import { MemoryDevice, SECTOR } from "@dmkit/block-io";
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { expandAliased } from "../src/format/aliased.ts";
import { bitmapDeviceSize, bitmapLength, identityOffset } from "../src/format/geometry.ts";
import { decodeIdentity, encodeIdentity, encodeOriginal } from "../src/format/identity.ts";
import { decodeLabel, encodeLabel, labelPlace } from "../src/format/label.ts";
import { hashOf } from "../src/format/samples.ts";
import { cowImages } from "../src/image.ts";

const MAGIC = 0x00ba_be0e_aaba_be11n;
/** What dmkit once wrote in its place. */
const OLD_MAGIC = 0x00ba_eb0e_aaba_be11n;

const identity = {
  uuid: "01020304-0506-4708-890a-0b0c0d0e0f10",
  parent: "11121314-1516-4718-991a-1b1c1d1e1f20",
  sectors: 2_097_152,
  frozen: true,
};

/** Puts a number into bytes, and their CRC behind them. */
function put(sector: Buffer, at: number, number: bigint, length = 8): Buffer {
  littleEndian(number, length).copy(sector, at);
  littleEndian(BigInt(crc32cByHand(sector.subarray(0, 508))), 4).copy(sector, 508);
  return sector;
}

describe("the identity", () => {
  it("begins with the magic's number, and ends with the CRC of what is in front of it", () => {
    const sector = encodeIdentity(identity);
    expect(sector.subarray(0, 8)).toEqual(littleEndian(MAGIC));
    expect(sector.subarray(8, 16)).toEqual(littleEndian(1n + (2_097_152n >> 12n)));
    expect(sector.subarray(16, 24)).toEqual(Buffer.from("dmkitcow"));
    expect(sector.subarray(64, 72)).toEqual(littleEndian(2_097_152n));
    expect(sector.subarray(508)).toEqual(littleEndian(BigInt(crc32cByHand(sector.subarray(0, 508))), 4));
    expect(encodeOriginal(513)).toEqual(
      Buffer.concat([littleEndian(MAGIC), littleEndian(513n), Buffer.alloc(496)]),
    );
  });

  it("of the original is known by the number", async () => {
    const block = Buffer.alloc(4096);
    littleEndian(MAGIC).copy(block);
    littleEndian(513n).copy(block, 8);
    expect(decodeIdentity(block)).toEqual({ kind: "original", bitmapLength: 513 });
    const bitmap = new MemoryDevice(bitmapDeviceSize(2_097_152));
    await bitmap.write(360_448, block);
    expect(await cowImages.detect(bitmap)).toMatchObject({ certainty: "magic" });
  });

  it("with the wrong magic of earlier versions counts where tag and checksum are ours", () => {
    const old = put(encodeIdentity(identity), 0, OLD_MAGIC);
    expect(decodeIdentity(old)).toMatchObject({ kind: "layer", identity, oldMagic: true });
    expect(decodeIdentity(encodeIdentity(identity))).not.toHaveProperty("oldMagic");
    old[40] = (old[40] ?? 0) ^ 1;
    expect(decodeIdentity(old).kind).toBe("damaged");
    const original = encodeOriginal(513);
    littleEndian(OLD_MAGIC).copy(original);
    expect(decodeIdentity(original).kind).toBe("foreign");
  });
});

describe("version 2 of the identity", () => {
  const sample = { sector: 2_000_000, hash: "" };
  const uuid = Buffer.from("0102030405064708890a0b0c0d0e0f10", "hex");
  const bytes = Buffer.alloc(512, "sector");
  const digest = createHash("sha256")
    .update(Buffer.concat([uuid, littleEndian(2_000_000n), bytes]))
    .digest();

  it("has what it adds in its places, and is written only where there is something", () => {
    const samples = [{ ...sample, hash: digest.toString("hex", 0, 8) }];
    expect(hashOf(uuid, sample.sector, bytes)).toBe(samples[0]?.hash);
    const full = { ...identity, dataOffset: 2 ** 40 + 1, baseOffset: 2 ** 41 + 3, labelled: true, samples };
    const sector = encodeIdentity(full);
    expect(sector.subarray(24, 32)).toEqual(
      Buffer.concat([littleEndian(2n, 4), littleEndian(1n | 2n | 4n | 8n, 4)]),
    );
    expect(sector.subarray(72, 96)).toEqual(
      Buffer.concat([littleEndian(2n ** 40n + 1n), littleEndian(2n ** 41n + 3n), littleEndian(1n)]),
    );
    expect(sector.subarray(96, 112)).toEqual(
      Buffer.concat([littleEndian(2_000_000n), digest.subarray(0, 8)]),
    );
    expect(sector.subarray(112, 508)).toEqual(Buffer.alloc(396));
    expect(decodeIdentity(sector)).toEqual({ kind: "layer", identity: full });
    expect(encodeIdentity(identity).subarray(24, 32)).toEqual(
      Buffer.concat([littleEndian(1n, 4), littleEndian(1n, 4)]),
    );
    expect(encodeIdentity(identity).subarray(72, 508)).toEqual(Buffer.alloc(436));
  });

  it("is refused where its numbers cannot be", () => {
    const samples = [sample, { sector: 2_000_001, hash: "" }].map((one) => ({
      ...one,
      hash: "00".repeat(8),
    }));
    const sector = encodeIdentity({ ...identity, samples });
    expect(decodeIdentity(sector).kind).toBe("layer");
    for (const [at, number, length] of [
      [24, 4n, 4],
      [28, 16n, 4],
      [72, 2n ** 44n, 8],
      [80, 2n ** 53n, 8],
      [88, 17n, 4],
      [88, 3n, 4],
      [96, 2_097_152n, 8],
      [112, 2_000_000n, 8],
    ] as const) {
      expect(decodeIdentity(put(Buffer.from(sector), at, number, length)).kind, `byte ${at}`).toBe("damaged");
    }
    expect(decodeIdentity(put(encodeIdentity(identity), 28, 2n, 4)).kind).toBe("damaged");
  });
});

describe("version 3 of the identity", () => {
  const names = {
    contents: "21222324-2526-2728-292a-2b2c2d2e2f30",
    changedBy: "31323334-3536-3738-393a-3b3c3d3e3f40",
    contentsBelow: "41424344-4546-4748-494a-4b4c4d4e4f50",
    baseWitness: "5152535455565758595a5b5c5d5e5f60",
  };

  it("has what it adds in its places, and is written only where there is something", () => {
    const sector = encodeIdentity({ ...identity, ...names });
    expect(sector.subarray(24, 32)).toEqual(Buffer.concat([littleEndian(3n, 4), littleEndian(1n, 4)]));
    expect(sector.subarray(72, 352)).toEqual(Buffer.alloc(280));
    // 0x21 … 0x30, 0x31 … 0x40, and so on.
    expect(sector.subarray(352, 416)).toEqual(
      Buffer.from(Array.from({ length: 64 }, (_, index) => 0x21 + index)),
    );
    expect(sector.subarray(416, 508)).toEqual(Buffer.alloc(92));
    expect(decodeIdentity(sector)).toEqual({ kind: "layer", identity: { ...identity, ...names } });
  });

  it.each(Object.entries(names))("is that with %s alone", (field, value) => {
    const one = { ...identity, [field]: value };
    const sector = encodeIdentity(one);
    expect(sector.subarray(24, 28)).toEqual(littleEndian(3n, 4));
    expect(decodeIdentity(sector)).toEqual({ kind: "layer", identity: one });
  });
});

describe("the label", () => {
  it("has its numbers in their places, behind the last sector", () => {
    const sector = encodeLabel({ uuid: identity.uuid, sectors: 2_097_153 });
    expect(sector.subarray(0, 16)).toEqual(
      Buffer.concat([Buffer.from("dmkitdat"), littleEndian(1n, 4), littleEndian(0n, 4)]),
    );
    expect(sector.subarray(16, 32).toString("hex")).toBe("0102030405064708890a0b0c0d0e0f10");
    expect(sector.subarray(32, 40)).toEqual(littleEndian(2_097_153n));
    expect(sector.subarray(508)).toEqual(littleEndian(BigInt(crc32cByHand(sector.subarray(0, 508))), 4));
    expect(decodeLabel(sector, 2_097_153)?.uuid).toBe(identity.uuid);
    expect(decodeLabel(sector, 2_097_152)).toBeUndefined();
    for (let bit = 0; bit < 4096; bit += 7) {
      const flipped = Buffer.from(sector);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(decodeLabel(flipped, 2_097_153), `bit ${bit}`).toBeUndefined();
    }
    expect(labelPlace(3 * 512, 2_097_153)).toBe(3 * 512 + 2_097_152 * 512 + 4096);
  });
});

describe("geometry", () => {
  it.each([1n, 4096n, 262_143n, 2_097_152n, 8_385_866n, 2n ** 31n, 2n ** 40n + 5n])(
    "of %d sectors",
    (sectors) => {
      const length = 1n + (sectors >> 12n);
      const offset = 512n * ((length & ~63n) + 192n);
      expect(BigInt(bitmapLength(Number(sectors)))).toBe(length);
      expect(BigInt(identityOffset(Number(length)))).toBe(offset);
      expect(BigInt(bitmapDeviceSize(Number(sectors)))).toBe(offset + 4096n);
      expect(offset % BigInt(SECTOR)).toBe(0n);
    },
  );

  it.each([512, 1024, 2048, 4096] as const)("of an aliased bitmap, block size %d", (blockSize) => {
    for (const sector of [0, 1, 5000, 32_767]) {
      const bitmap = Buffer.alloc(4096);
      const byte = Math.floor(sector / (8 * blockSize)) * blockSize + Math.floor((sector % blockSize) / 8);
      bitmap[byte] = 1 << (sector % 8);
      expandAliased(bitmap, blockSize);
      expect((bitmap[sector >> 3] ?? 0) & (1 << (sector % 8)), `sector ${sector}`).not.toBe(0);
    }
  });
});
