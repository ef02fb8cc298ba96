/** Every constant of the write log and of the checksums, worked out from its number: never copied as bytes. */
import { describe, expect, it } from "vitest";
import { acceleratedCrc32c, crc32c, portableCrc32c, rawCrc32c } from "../src/bytes/crc32c.ts";
import { encodeEntry, encodeSuperblock } from "../src/format/write-log.ts";
import { SeededRandom, bigEndian, crc32cByHand, littleEndian } from "../src/testing/index.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);

describe("numbers by hand", () => {
  it("agree with what everybody knows of them", () => {
    expect([...littleEndian(0x0102_0304n, 4)]).toEqual([4, 3, 2, 1]);
    expect([...bigEndian(0x0102_0304n, 4)]).toEqual([1, 2, 3, 4]);
    expect(() => littleEndian(256n, 1)).toThrow(RangeError);
    expect(crc32cByHand(Buffer.from("123456789"))).toBe(0xe306_9283);
  });
});

describe("CRC-32C", () => {
  it("is that of the long division", () => {
    const random = new SeededRandom(1);
    for (const length of [0, 1, 7, 8, 9, 511, 512, 4096]) {
      const bytes = random.fill(Buffer.alloc(length));
      const sum = crc32cByHand(bytes);
      expect(crc32c(bytes)).toBe(sum);
      expect(portableCrc32c(bytes)).toBe(sum);
      expect(acceleratedCrc32c()?.(bytes) ?? sum).toBe(sum);
      expect(rawCrc32c(bytes)).toBe(crc32cByHand(bytes, false));
    }
  });
});

describe("the write log", () => {
  it("has the kernel's magic and version, and its sector size", () => {
    const sector = encodeSuperblock({ entries: 2 ** 40 + 1, session: 0x8765_4321 });
    expect(sector.subarray(0, 28)).toEqual(
      Buffer.concat([
        littleEndian(0x6a_7366_7773_6872n),
        littleEndian(1n),
        littleEndian(2n ** 40n + 1n),
        u32(512),
      ]),
    );
    expect(sector.subarray(504, 508)).toEqual(u32(0x8765_4321));
  });

  it("has the kernel's flags, and an extension with a checksum", () => {
    const flags = { flush: 1n, write: 0n, discard: 4n, mark: 8n };
    for (const kind of ["flush", "write", "discard", "mark"] as const) {
      for (const fua of [false, true]) {
        const entry = { kind, offset: 2 ** 44, length: 4096, fua, text: kind === "mark" ? "here" : "" };
        const bytes = encodeEntry({ ...entry, submitted: 2 ** 42, answered: 2 ** 43, failed: true }, 7);
        const length = kind === "write" ? 4096n : kind === "mark" ? 4n : 0n;
        expect(bytes.subarray(0, 32)).toEqual(
          Buffer.concat([
            littleEndian(2n ** 44n / 512n),
            littleEndian(8n),
            littleEndian(flags[kind] | (fua ? 2n : 0n)),
            littleEndian(length),
          ]),
        );
        expect(bytes.subarray(480, 484)).toEqual(Buffer.from("dmlw"));
        expect(bytes.subarray(484, 488)).toEqual(u32(crc32cByHand(Buffer.from(bytes).fill(0, 484, 488))));
        expect(bytes.subarray(488, 512)).toEqual(
          Buffer.concat([littleEndian(2n ** 42n), littleEndian(2n ** 43n), u32(7), u32(1)]),
        );
      }
    }
  });
});
