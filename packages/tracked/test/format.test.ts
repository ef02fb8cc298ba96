/** The bytes of FORMAT.md, put together by hand. */
import { crc32c, nameProblem } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import {
  PAGE_CHUNKS,
  bitmapDeviceSize,
  chunksOf,
  geometryProblem,
  pagesOf,
  slotStart,
} from "../src/format/geometry.ts";
import { decodePage, encodePage } from "../src/format/page.ts";
import { type Superblock, decodeSuperblock, encodeSuperblock, hasMagic } from "../src/format/superblock.ts";
import { trackedOptions } from "../src/index.ts";

const uuid = "00112233-4455-6677-8899-aabbccddeeff";
const witness = "5a".repeat(32);
const superblock: Superblock = {
  uuid,
  generation: 7,
  clean: true,
  witness,
  geometry: { size: 0x1_0000_0200, chunk: 65_536, slots: 16 },
  nextNumber: 9,
  epochs: [
    { slot: 0, number: 8, name: "monday", begun: 1_700_000_000_000, excess: false },
    { slot: 15, number: 3, name: "größe", begun: 1, excess: true },
  ],
};

function golden(): Buffer {
  const bytes = Buffer.alloc(8192);
  bytes.write("DMKTRACK", 0, "latin1");
  bytes.writeUInt32LE(1, 8);
  bytes.writeUInt32LE(3, 12);
  bytes.write("00112233445566778899aabbccddeeff", 16, "hex");
  bytes.writeUInt32LE(7, 32);
  bytes.writeUInt32LE(0x200, 40);
  bytes.writeUInt32LE(1, 44);
  bytes.writeUInt32LE(0x10000, 48);
  bytes.writeUInt32LE(16, 56);
  bytes.writeUInt32LE(9, 64);
  bytes.fill(0x5a, 80, 112);
  bytes.writeUInt32LE(8, 512);
  // 1_700_000_000_000 is 0x18b_cfe5_6800.
  bytes.write("0068e5cf8b010000", 520, "hex");
  bytes.writeUInt8(6, 532);
  bytes.write("monday", 533, "latin1");
  const last = 512 + 15 * 96;
  bytes.writeUInt32LE(3, last);
  bytes.writeUInt32LE(1, last + 8);
  bytes.writeUInt32LE(1, last + 16);
  bytes.writeUInt8(7, last + 20);
  bytes.write("6772c3b6c39f65", last + 21, "hex");
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 8188)), 8188);
  return bytes;
}

/** The golden bytes with others in one place, and the checksum that goes with them. */
function changed(at: number, hex: string): Buffer {
  const bytes = golden();
  bytes.write(hex, at, "hex");
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 8188)), 8188);
  return bytes;
}

describe("the superblock", () => {
  it("has the bytes of its table", () => {
    expect(encodeSuperblock(superblock).equals(golden())).toBe(true);
    expect(decodeSuperblock(golden())).toEqual(superblock);
    const plain = { ...superblock, clean: false, witness: undefined, epochs: [] };
    expect(decodeSuperblock(encodeSuperblock(plain))).toEqual(plain);
  });

  it("is none with any byte changed", () => {
    for (let at = 0; at < 8192; at += 37) {
      const bytes = golden();
      bytes[at] = (bytes[at] as number) ^ 0x10;
      expect(typeof decodeSuperblock(bytes), `byte ${at}`).toBe("string");
      expect(hasMagic(bytes)).toBe(at > 7);
    }
    expect(typeof decodeSuperblock(Buffer.alloc(8192))).toBe("string");
    expect(typeof decodeSuperblock(golden().subarray(0, 4096))).toBe("string");
  });

  it.each([
    ["another version", 8, "02"],
    ["unknown flags", 12, "07"],
    ["no bytes to track", 40, "0000000000000000"],
    ["half a sector", 40, "01"],
    ["a size beyond 2^53", 46, "ffff"],
    ["chunks of no power of two", 48, "010001"],
    ["chunks that are too small", 48, "000800"],
    ["no slots", 56, "00"],
    ["too many slots", 56, "41"],
    ["fewer slots than epochs", 56, "0f"],
    ["no next number", 64, "00"],
    ["a number that was not given", 64, "08"],
    ["a generation out of range", 38, "ffff"],
    ["an epoch with unknown flags", 528, "02"],
    ["a name that is empty", 532, "00"],
    ["a name that is too long", 532, "40"],
    ["a name with a line end", 533, "0a"],
    ["a name that is no UTF-8", 533, "ff"],
    ["a time out of range", 526, "ffff"],
    ["an epoch twice", 512 + 96, golden().subarray(512, 608).toString("hex")],
  ])("is refused with %s", (_what, at, hex) => {
    expect(typeof decodeSuperblock(changed(at, hex))).toBe("string");
  });
});

describe("a page", () => {
  const owner = { uuid, number: 8 };
  const bits = Buffer.alloc(480);
  bits[0] = 0x81;
  bits[479] = 0x40;
  const page = (): Buffer => {
    const sector = Buffer.alloc(512);
    sector.writeUInt32LE(5, 4);
    sector.writeUInt32LE(8, 8);
    sector.write("00112233445566778899aabbccddeeff", 16, "hex");
    bits.copy(sector, 32);
    sector.writeUInt32LE(crc32c(sector.subarray(4)), 0);
    return sector;
  };

  it("has the bytes of its table", () => {
    const into = Buffer.alloc(1536);
    encodePage(into, 512, owner, 5, bits);
    expect(into.subarray(512, 1024).equals(page())).toBe(true);
    expect(decodePage(page(), owner, 5)?.equals(bits)).toBe(true);
  });

  it("is lost where it is another one, damaged, or zero", () => {
    expect(decodePage(page(), owner, 4)).toBeUndefined();
    expect(decodePage(page(), { uuid, number: 7 }, 5)).toBeUndefined();
    expect(decodePage(page(), { uuid: uuid.replace("0", "1"), number: 8 }, 5)).toBeUndefined();
    expect(decodePage(Buffer.alloc(512), owner, 5)).toBeUndefined();
    for (let at = 0; at < 512; at += 1) {
      const bytes = page();
      bytes[at] = (bytes[at] as number) ^ 1;
      expect(decodePage(bytes, owner, 5), `byte ${at}`).toBeUndefined();
    }
  });
});

describe("the geometry", () => {
  it("puts things where FORMAT.md says", () => {
    // 1 TiB in chunks of 64 KiB: 16777216 chunks, 4370 pages, 2237440 bytes, in blocks of 4096: 2240512.
    const large = { size: 2 ** 40, chunk: 65_536, slots: 16 };
    expect(PAGE_CHUNKS).toBe(3840);
    expect([chunksOf(large), pagesOf(large)]).toEqual([16_777_216, 4370]);
    expect(slotStart(large, 1)).toBe(131_072 + 2_240_512);
    expect(bitmapDeviceSize(large)).toBe(131_072 + 16 * 2_240_512);
    const small = { size: 512, chunk: 4096, slots: 1 };
    expect([chunksOf(small), pagesOf(small), bitmapDeviceSize(small)]).toEqual([1, 1, 135_168]);
  });

  it("is that of the options", () => {
    const { granularity, epochs } = trackedOptions;
    for (const chunk of [granularity.min, granularity.max])
      expect(geometryProblem({ size: 2 ** 30, chunk, slots: epochs.max })).toBeUndefined();
    expect(geometryProblem({ size: 2 ** 30, chunk: granularity.min / 2, slots: 1 })).toBeDefined();
    expect(geometryProblem({ size: 2 ** 30, chunk: granularity.max * 2, slots: 1 })).toBeDefined();
    expect(geometryProblem({ size: 2 ** 30, chunk: 65_536, slots: epochs.max + 1 })).toBeDefined();
    expect(geometryProblem({ size: 2 ** 52, chunk: 65_536, slots: 1 })).toBeDefined();
  });
});

describe("a name", () => {
  it.each(["a", "2026-11-30T05:00", "größe", "x".repeat(63), "日本"])("can be %s", (name) => {
    expect(nameProblem(name)).toBeUndefined();
  });

  it.each(["", "x".repeat(64), "ü".repeat(32), "a b", "a\tb", "a\n", "a,b", "\u202eabc", "a\0", "\ud800"])(
    "cannot be %j",
    (name) => expect(nameProblem(name)).toBeDefined(),
  );
});
