/** Bytes on disk: fixtures are written by hand from the byte tables, never by the code under test. */
import { crc32c } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { EntryCodec, entryStates } from "../src/format/entries.ts";
import { geometryProblem } from "../src/format/geometry.ts";
import { layoutOf } from "../src/format/layout.ts";
import { decodeSuperblock, encodeSuperblock } from "../src/format/superblock.ts";
import { uuidFromText } from "../src/format/uuid.ts";
import {
  decodeConfigurationV1,
  encodeConfigurationV1,
  checksumMatchV1,
  checksumV1,
  foldV1,
  requiredSectorsV1,
} from "../src/format/v1.ts";

import { carriedSum, kernelSum } from "./support/historical.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
console.log(`DMKIT_SEED=${seed}`);

const UUID = "00112233-4455-6677-8899-aabbccddeeff";
const UUID_HEX = "00112233445566778899aabbccddeeff";

/** A superblock by hand: 65536 frames of 8 sectors, 1024 ways, write-back, cleanly closed, 3 dirty. */
function goldenSuperblock(): Buffer {
  const bytes = Buffer.alloc(512);
  bytes.write("DMKASSOC", 0, "latin1");
  bytes.writeUInt32LE(2, 8);
  bytes.writeUInt32LE(1 | 4, 12);
  Buffer.from(UUID_HEX, "hex").copy(bytes, 16);
  bytes.writeBigUInt64LE(7n, 48);
  bytes.writeBigUInt64LE(2_000_001n, 56);
  bytes.writeBigUInt64LE(65_536n, 64);
  bytes.writeUInt32LE(8, 72);
  bytes.writeUInt32LE(1024, 76);
  bytes.writeUInt32LE(1, 80);
  bytes.writeBigUInt64LE(8n, 88);
  // ceil(65536 / 63) = 1041 entry sectors, padded to 1048, after sector 8.
  bytes.writeBigUInt64LE(1056n, 96);
  bytes.writeBigUInt64LE(600_000n, 104);
  bytes.writeBigUInt64LE(3n, 112);
  bytes.writeUInt32LE(0xdeadbeef, 120);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 508)), 508);
  return bytes;
}

function flip(bytes: Buffer, bit: number): void {
  bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
}

describe("superblock", () => {
  it("reads the golden one and writes it again byte for byte", () => {
    const golden = goldenSuperblock();
    const decoded = decodeSuperblock(golden);
    if (typeof decoded === "string") throw new Error(decoded);
    expect(decoded).toEqual({
      clean: true,
      needsCheck: false,
      uuid: UUID,
      sourceUuid: "",
      generation: 7,
      sourceSectors: 2_000_001,
      geometry: { frames: 65_536, blockSectors: 8, ways: 1024 },
      policy: "write-back",
      entryStart: 8,
      dataStart: 1056,
      deviceSectors: 600_000,
      dirty: 3,
      fingerprint: 0xdeadbeef,
      witness: undefined,
    });
    expect(encodeSuperblock(decoded)).toEqual(golden);
    const witness = "0123456789abcdef".repeat(4);
    const later = encodeSuperblock({ ...decoded, fingerprint: undefined, witness });
    expect(later.subarray(128, 160).toString("hex")).toBe(witness);
    expect(later.readUInt32LE(12)).toBe((golden.readUInt32LE(12) & ~4) | 8);
    expect(decodeSuperblock(later)).toEqual({ ...decoded, fingerprint: undefined, witness });
    // Left behind by an exchange: of a version that older programs refuse, and nothing else differs.
    const left = Buffer.from(golden);
    left.writeUInt32LE(3, 8);
    left.writeUInt32LE(crc32c(left.subarray(0, 508)), 508);
    expect(decodeSuperblock(left)).toEqual({ ...decoded, left: true });
    expect(encodeSuperblock({ ...decoded, left: true })).toEqual(left);
  });

  it("refuses every single flipped bit", () => {
    const golden = goldenSuperblock();
    for (let bit = 0; bit < 512 * 8; bit += 1) {
      const bytes = Buffer.from(golden);
      flip(bytes, bit);
      expect(typeof decodeSuperblock(bytes)).toBe("string");
    }
  });

  it("refuses what has a checksum but cannot be", () => {
    const damaged = (change: (bytes: Buffer) => void): string | object => {
      const bytes = goldenSuperblock();
      change(bytes);
      bytes.writeUInt32LE(crc32c(bytes.subarray(0, 508)), 508);
      return decodeSuperblock(bytes);
    };
    for (const change of [
      (bytes: Buffer) => bytes.writeUInt32LE(4, 8),
      (bytes: Buffer) => bytes.writeBigUInt64LE(65_535n, 64),
      (bytes: Buffer) => bytes.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 64),
      (bytes: Buffer) => bytes.writeUInt32LE(0, 72),
      (bytes: Buffer) => bytes.writeUInt32LE(4096, 72),
      (bytes: Buffer) => bytes.writeUInt32LE(131_072, 76),
      (bytes: Buffer) => bytes.writeUInt32LE(5, 80),
      (bytes: Buffer) => bytes.writeBigUInt64LE(1048n, 96),
      (bytes: Buffer) => bytes.writeBigUInt64LE(500_000n, 104),
      (bytes: Buffer) => bytes.writeBigUInt64LE(65_537n, 112),
      (bytes: Buffer) => bytes.fill(0, 16, 32),
    ]) {
      expect(typeof damaged((bytes) => void change(bytes))).toBe("string");
    }
    expect(typeof decodeSuperblock(Buffer.alloc(512))).toBe("string");
  });
});

describe("entry sectors", () => {
  const codec = new EntryCodec(uuidFromText(UUID) as Buffer);

  function golden(index: number): Buffer {
    const bytes = Buffer.alloc(512);
    bytes.writeBigUInt64LE(5n * 4n + 2n, 0);
    bytes.writeBigUInt64LE(2n ** 40n * 4n + 1n, 62 * 8);
    const salt = Buffer.from(`${UUID_HEX}00000000`, "hex");
    salt.writeUInt32LE(index, 16);
    bytes.writeUInt32LE(crc32c(Buffer.concat([salt, bytes.subarray(0, 508)])), 508);
    return bytes;
  }

  it("reads and writes the golden one", () => {
    const bytes = golden(9);
    expect(codec.intact(bytes, 0, 9)).toBe(true);
    expect(codec.state(bytes, 0, 0)).toBe(entryStates.dirty);
    expect(codec.block(bytes, 0, 0)).toBe(5);
    expect(codec.state(bytes, 0, 62)).toBe(entryStates.clean);
    expect(codec.block(bytes, 0, 62)).toBe(2 ** 40);
    expect(codec.state(bytes, 0, 1)).toBe(entryStates.empty);
    const written = Buffer.alloc(512);
    codec.put(written, 0, 0, entryStates.dirty, 5);
    codec.put(written, 0, 62, entryStates.clean, 2 ** 40);
    codec.seal(written, 0, 9);
    expect(written).toEqual(bytes);
  });

  it("is not believed in another place, by another cache, or with a flipped bit", () => {
    const bytes = golden(9);
    expect(codec.intact(bytes, 0, 8)).toBe(false);
    expect(new EntryCodec(Buffer.alloc(16, 1)).intact(bytes, 0, 9)).toBe(false);
    for (let bit = 0; bit < 512 * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flip(flipped, bit);
      expect(codec.intact(flipped, 0, 9)).toBe(false);
    }
    expect(codec.intact(Buffer.alloc(512), 0, 0)).toBe(false);
  });

  it("knows no other states", () => {
    const bytes = Buffer.alloc(512);
    bytes.writeBigUInt64LE(7n, 0);
    bytes.writeBigUInt64LE(4n, 8);
    bytes.writeBigUInt64LE(0xffff_ffff_ffff_fffen, 16);
    for (const slot of [0, 1, 2]) expect(codec.state(bytes, 0, slot)).toBeUndefined();
  });
});

describe("historical configuration", () => {
  it("reads the golden one, whatever follows it", () => {
    const bytes = Buffer.alloc(512, 0xa5);
    bytes.writeBigUInt64LE(64n, 0);
    bytes.writeUInt32LE(8, 8);
    bytes.writeUInt32LE(16, 12);
    bytes.writeUInt32LE(1, 16);
    bytes.writeUInt32LE(0x1008, 20);
    const configuration = {
      geometry: { frames: 64, blockSectors: 8, ways: 16 },
      writeBack: true,
      checksum: 0x1008,
    };
    expect(decodeConfigurationV1(bytes, 514)).toEqual(configuration);
    expect(encodeConfigurationV1(configuration).subarray(0, 24)).toEqual(bytes.subarray(0, 24));
    expect(typeof decodeConfigurationV1(bytes, 513)).toBe("string");
    bytes.writeUInt32LE(2, 16);
    expect(typeof decodeConfigurationV1(bytes, 514)).toBe("string");
  });

  it("does not take zeroes for one", () => {
    expect(typeof decodeConfigurationV1(Buffer.alloc(512), 1_000_000)).toBe("string");
  });

  it("sums as the kernel does, all 32 bits", () => {
    const table = Buffer.alloc(1024);
    expect(checksumV1(table)).toBe(0);
    table.writeBigUInt64LE(8n, 0);
    table.writeBigUInt64LE(4096n, 8);
    expect(checksumV1(table)).toBe(0x1008);
    // A sector beyond 2^16 is where a fold to 16 bits shows.
    table.writeBigUInt64LE(123_456_784n, 16);
    expect(checksumV1(table)).toBe(123_460_888);
    table.writeBigUInt64LE(2n ** 40n + 16n, 1016);
    expect(checksumV1(table)).toBe(123_460_888 + 256 + 16);
    // What is 0 modulo 2^32 - 1, but not made of zeroes, is all ones.
    expect(checksumV1(Buffer.alloc(512, 0xff))).toBe(0xffff_ffff);
    const random = new SeededRandom(seed);
    for (let run = 0; run < 50; run += 1) {
      const some = random.fill(Buffer.alloc(512 * (1 + random.below(8))));
      if (random.chance(0.3)) some.fill(0xff, 0, random.below(some.length));
      expect(checksumV1(some)).toBe(kernelSum(some));
      for (const piece of [512, some.length]) expect(carriedSum(some, piece)).toBe(kernelSum(some));
    }
  });

  it("accepts what agrees in the fold only, and says so", () => {
    const table = Buffer.alloc(512);
    table.writeBigUInt64LE(123_456_784n, 0);
    const sum = kernelSum(table);
    expect(checksumMatchV1(sum, table)).toBe("whole");
    for (const stored of [foldV1(sum), sum + 0xffff, (sum % 65_536) * 65_536 + Math.floor(sum / 65_536)]) {
      expect(checksumMatchV1(stored, table)).toBe("folded");
    }
    expect(checksumMatchV1(sum + 1, table)).toBeUndefined();
    expect(foldV1(0x0001_1007)).toBe(0x1008);
    expect(foldV1(0xffff)).toBe(foldV1(0));
    expect(foldV1(0xffff_ffff)).toBe(foldV1(0));
    expect(checksumMatchV1(0, Buffer.alloc(512, 0xff))).toBe("folded");
  });

  it("needs the room the tables say", () => {
    expect(requiredSectorsV1({ frames: 65_536, blockSectors: 8, ways: 1024 })).toBe(525_313);
    expect(requiredSectorsV1({ frames: 64, blockSectors: 8, ways: 16 })).toBe(514);
  });
});

describe("geometry and layout", () => {
  it("takes powers of two within bounds", () => {
    expect(geometryProblem({ frames: 1, blockSectors: 1, ways: 1 })).toBeUndefined();
    for (const wrong of [
      { frames: 3, blockSectors: 8, ways: 1 },
      { frames: 4, blockSectors: 6, ways: 1 },
      { frames: 4, blockSectors: 8, ways: 8 },
      { frames: 4, blockSectors: 4096, ways: 1 },
      { frames: 0, blockSectors: 8, ways: 1 },
      { frames: Number.NaN, blockSectors: 8, ways: 1 },
      { frames: 2 ** 29, blockSectors: 8, ways: 1 },
    ]) {
      expect(geometryProblem(wrong)).toBeTypeOf("string");
    }
  });

  it("puts data behind the entries, aligned to blocks", () => {
    expect(layoutOf({ frames: 65_536, blockSectors: 8, ways: 1024 })).toEqual({
      entryStart: 8,
      entrySectors: 1048,
      dataStart: 1056,
      requiredSectors: 1056 + 65_536 * 8 + 8,
    });
    expect(layoutOf({ frames: 4, blockSectors: 512, ways: 4 }).dataStart).toBe(512);
  });
});
