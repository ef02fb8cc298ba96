/** Every constant of the format, worked out from its number: never copied as bytes. */
import { MemoryDevice, SECTOR } from "@dmkit/block-io";
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { expandAliased } from "../src/format/aliased.ts";
import { bitmapDeviceSize, bitmapLength, identityOffset } from "../src/format/geometry.ts";
import { decodeIdentity, encodeIdentity, encodeOriginal } from "../src/format/identity.ts";
import { cowImages } from "../src/images.ts";

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
