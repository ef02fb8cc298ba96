import { readFileSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { findBackend } from "../src/index.ts";
import { LONGEST, lz4Decode } from "../src/format/lz4-decode.ts";
import { compressWith } from "./support/backends.ts";

/** What a block decodes to with `room` bytes; undefined if it is refused. */
function decoded(hex: string, room = 64): string | undefined {
  const dst = Buffer.alloc(room, 0xee);
  const length = lz4Decode(Buffer.from(hex.replaceAll(" ", ""), "hex"), dst);
  if (length < 0) return undefined;
  expect(dst.subarray(length).every((byte) => byte === 0xee)).toBe(true);
  return dst.subarray(0, length).toString("latin1");
}

describe("a block, written by hand", () => {
  test("is literals", () => {
    expect(decoded("00")).toBe("");
    expect(decoded("30 616263")).toBe("abc");
    expect(decoded("f0 00 616263646566676869 6a6b6c6d6e6f")).toBe("abcdefghijklmno");
    expect(decoded(`f0 ff 00${"61".repeat(270)}`, 300)).toBe("a".repeat(270));
  });

  test("repeats what came before, itself included", () => {
    expect(decoded("32 616263 0300 10 64")).toBe("abcabcabcd");
    expect(decoded("10 61 0100 10 62")).toBe("aaaaab");
    expect(decoded("2f 6162 0200 05 10 63")).toBe(`${"ab".repeat(13)}c`);
    for (let offset = 1; offset <= 9; offset += 1) {
      const start = "abcdefghi".slice(0, offset);
      const block = `${offset}f ${Buffer.from(start).toString("hex")} 0${offset}00 14 00`;
      expect(decoded(block)).toBe(start.repeat(50).slice(0, offset + 39));
    }
  });

  test.for([
    ["nothing", ""],
    ["a length that goes on", "f0 ff"],
    ["fewer literals than said", "40 616263"],
    ["half an offset", "10 61 01"],
    ["an offset of 0", "10 61 0000 00"],
    ["an offset before the start", "10 61 0200 00"],
    ["no sequence behind a match", "10 61 0100"],
    ["a match's length that goes on", "1f 61 0100 ff"],
  ])("is refused: %s", ([, block]) => {
    expect(decoded(block as string)).toBeUndefined();
  });

  test("is refused where there is no room for it", () => {
    expect(decoded("30 616263", 2)).toBeUndefined();
    expect(decoded("30 616263", 3)).toBe("abc");
    expect(decoded("10 61 0100 00", 4)).toBeUndefined();
    expect(decoded("10 61 0100 00", 5)).toBe("aaaaa");
  });
});

describe("the decoder", () => {
  const lz4 = findBackend("lz4");
  beforeAll(async () => lz4.load?.());

  test("gives what the library compressed, whatever was decoded before", () => {
    const piece = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 80 }),
      fc
        .tuple(fc.uint8Array({ minLength: 1, maxLength: 20 }), fc.integer({ min: 1, max: 400 }))
        .map(([bytes, times]) => Buffer.alloc(bytes.length * times, bytes)),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const bytes = Buffer.concat(pieces).subarray(0, LONGEST);
        const dst = Buffer.alloc(bytes.length);
        expect(lz4Decode(compressWith(lz4, bytes), dst)).toBe(bytes.length);
        expect(dst.equals(bytes)).toBe(true);
      }),
    );
  });

  test("gives any part of it, and nothing beside", () => {
    const bytes = Buffer.concat([
      Buffer.alloc(3000, "one and the same "),
      Buffer.from(Array.from({ length: 200 }, (_, index) => (index * 37) % 251)),
      Buffer.alloc(LONGEST - 3200),
    ]);
    const block = compressWith(lz4, bytes);
    fc.assert(
      fc.property(fc.nat(LONGEST - 1), fc.nat(9000), fc.boolean(), (start, length, isNear) => {
        const from = isNear ? start % 4000 : start;
        const dst = Buffer.alloc(Math.min(length, LONGEST - from));
        expect(lz4Decode(block, dst, from, LONGEST)).toBe(dst.length);
        expect(dst.equals(bytes.subarray(from, from + dst.length))).toBe(true);
      }),
    );
    // What the content does not have is not given either.
    const dst = Buffer.alloc(100, 0xee);
    expect(lz4Decode(Buffer.from("30616263", "hex"), dst, 1, 200)).toBe(2);
    expect(dst.subarray(0, 3).toString("latin1")).toBe("bc\u00ee");
    expect(lz4Decode(Buffer.from("30616263", "hex"), dst, 4, 200)).toBe(0);
  });

  test("looks no further than a sequence behind a part, and yields no more than there is room for", () => {
    // "abc", a match of 5, then an offset before the start.
    const block = Buffer.from("316162630300 10612000".replaceAll(" ", ""), "hex");
    expect(lz4Decode(block, Buffer.alloc(8), 0, 100)).toBe(8);
    expect(lz4Decode(block, Buffer.alloc(9), 0, 100)).toBe(9);
    expect(lz4Decode(block, Buffer.alloc(10), 0, 100)).toBe(-1);
    expect(lz4Decode(block, Buffer.alloc(8), 0, 8)).toBe(-1);
    expect(lz4Decode(block, Buffer.alloc(4), 0, 7)).toBe(-1);
    expect(lz4Decode(block, Buffer.alloc(3), 0, 7)).toBe(3);
  });

  test("is assembled from its source", async () => {
    const { assembled } = await import("../wasm/assemble.mjs");
    const module = new URL("../src/format/lz4-decode-module.ts", import.meta.url);
    expect(readFileSync(module, "utf8")).toBe(await assembled());
  });
});
