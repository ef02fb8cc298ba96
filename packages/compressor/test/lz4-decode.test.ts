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

  test("is assembled from its source", async () => {
    const { assembled } = await import("../wasm/assemble.mjs");
    const module = new URL("../src/format/lz4-decode-module.ts", import.meta.url);
    expect(readFileSync(module, "utf8")).toBe(await assembled());
  });
});
