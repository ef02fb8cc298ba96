import { describe, expect, test } from "vitest";
import { zstdContentSize } from "../src/format/zstd-frame.ts";

const MAGIC = "28b52ffd";
/** A last block, stored, of three bytes. */
const BLOCK = "190000616263";

function size(hex: string, limit = 1_000_000): number {
  return zstdContentSize(Buffer.from(hex.replaceAll(" ", ""), "hex"), limit);
}

describe("frames are understood", () => {
  test.each([
    ["one byte of size, single segment", `${MAGIC} 20 03 ${BLOCK}`, 3],
    ["two bytes of size count from 256", `${MAGIC} 60 0100 ${BLOCK}`, 257],
    ["four bytes of size", `${MAGIC} a0 00000100 ${BLOCK}`, 65536],
    ["eight bytes of size", `${MAGIC} e0 0300000000000000 ${BLOCK}`, 3],
    ["window and size", `${MAGIC} 80 58 03000000 ${BLOCK}`, 3],
    ["a checksum", `${MAGIC} 24 03 ${BLOCK} 01020304`, 3],
    ["two blocks", `${MAGIC} 20 03 100000 6162 ${BLOCK}`, 3],
    ["one byte repeated", `${MAGIC} 20 03 1b0000 61`, 3],
  ])("%s", (_what, hex, expected) => {
    expect(size(hex)).toBe(expected);
  });

  test("a size up to the limit", () => {
    expect(size(`${MAGIC} 20 03 ${BLOCK}`, 3)).toBe(3);
  });
});

describe("frames are refused", () => {
  test.each([
    ["empty", ""],
    ["magic only", MAGIC],
    ["other magic", `28b52ffe 20 03 ${BLOCK}`],
    ["a skippable frame", "502a4d18 04000000 00000000"],
    ["reserved bit", `${MAGIC} 28 03 ${BLOCK}`],
    ["a dictionary", `${MAGIC} 21 03 ${BLOCK}`],
    ["no content size", `${MAGIC} 00 58 ${BLOCK}`],
    ["a window above 8 MiB", `${MAGIC} 80 70 03000000 ${BLOCK}`],
    ["header cut short in the window", `${MAGIC} 80`],
    ["header cut short in the size", `${MAGIC} e0 03000000`],
    ["no block", `${MAGIC} 20 03`],
    ["block header cut short", `${MAGIC} 20 03 1900`],
    ["block cut short", `${MAGIC} 20 03 1900006162`],
    ["no last block", `${MAGIC} 20 03 180000616263`],
    ["reserved type of block", `${MAGIC} 20 03 1f0000616263`],
    ["block longer than 128 KiB", `${MAGIC} 20 03 0b001061`],
    ["bytes after the frame", `${MAGIC} 20 03 ${BLOCK} 00`],
    ["a second frame", `${MAGIC} 20 03 ${BLOCK} ${MAGIC} 20 03 ${BLOCK}`],
    ["checksum missing", `${MAGIC} 24 03 ${BLOCK}`],
    ["more than 2^53 bytes", `${MAGIC} e0 ffffffffffffffff ${BLOCK}`],
  ])("%s", (_what, hex) => {
    expect(() => size(hex)).toThrow(expect.objectContaining({ code: "EFORMAT" }));
  });

  test("a size above the limit", () => {
    expect(() => size(`${MAGIC} 20 03 ${BLOCK}`, 2)).toThrow(expect.objectContaining({ code: "EFORMAT" }));
  });
});
