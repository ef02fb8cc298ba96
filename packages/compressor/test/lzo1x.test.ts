import { describe, expect, test } from "vitest";
import { lzo1xDecompress } from "../src/format/lzo1x-decompress.ts";
import { createLzo1xContext, lzo1xBound, lzo1xCompress } from "../src/format/lzo1x-compress.ts";
import { makeSample } from "../src/testing/index.ts";

const END = "110000";

function decode(hex: string, capacity = 100_000): string {
  const dst = Buffer.alloc(capacity);
  return dst
    .subarray(0, lzo1xDecompress(Buffer.from(hex.replaceAll(" ", ""), "hex"), dst))
    .toString("latin1");
}

function literals(length: number): string {
  return makeSample("random", length, length).bytes.toString("hex");
}

function text(hex: string): string {
  return Buffer.from(hex, "hex").toString("latin1");
}

/** A stream that first produces `length` bytes, by a run that leaves s = 4, and what those bytes are. */
function opening(length: number): { stream: string; bytes: string } {
  const hex = literals(length);
  const rest = length - 18;
  const ext = `${"00".repeat(Math.floor((rest - 1) / 255))}${(((rest - 1) % 255) + 1).toString(16).padStart(2, "0")}`;
  return { stream: `00${ext}${hex}`, bytes: text(hex) };
}

describe("each instruction means what the table says", () => {
  test("nothing but the end mark", () => expect(decode(END)).toBe(""));
  test("first byte 12 … 14: 1 … 3 literals", () => {
    expect(decode(`12 61 ${END}`)).toBe("a");
    expect(decode(`14 616263 ${END}`)).toBe("abc");
  });
  test("first byte 15 … ff: 4 … 238 literals", () => {
    expect(decode(`15 61626364 ${END}`)).toBe("abcd");
    expect(decode(`ff ${literals(238)} ${END}`)).toBe(text(literals(238)));
  });
  test("run of L + 3", () => {
    expect(decode(`01 61626364 ${END}`)).toBe("abcd");
    expect(decode(`0f ${literals(18)} ${END}`)).toBe(text(literals(18)));
  });
  test("run with an extension", () => {
    expect(decode(`00 01 ${literals(19)} ${END}`)).toBe(text(literals(19)));
    expect(decode(`00 ff ${literals(273)} ${END}`)).toBe(text(literals(273)));
    expect(decode(`00 00 01 ${literals(274)} ${END}`)).toBe(text(literals(274)));
  });
  test("near match, length 3 and 4, with and without literals after it", () => {
    expect(decode(`15 61626364 4c00 ${END}`)).toBe("abcdabc");
    expect(decode(`15 61626364 6e00 7879 ${END}`)).toBe("abcdabcdxy");
  });
  test("near match, length 5 … 8, overlapping what it makes", () => {
    expect(decode(`15 61626364 8000 ${END}`)).toBe("abcdddddd");
    expect(decode(`15 61626364 e400 ${END}`)).toBe("abcdcdcdcdcd");
  });
  test("near match from the farthest it reaches", () => {
    const { stream, bytes } = opening(2048);
    expect(decode(`${stream} 5cff ${END}`)).toBe(bytes + bytes.slice(0, 3));
  });
  test("middle match, plain and extended", () => {
    expect(decode(`15 61626364 23 0c00 ${END}`)).toBe("abcdabcda");
    expect(decode(`15 61626364 20 01 0000 ${END}`)).toBe(`abcd${"d".repeat(34)}`);
    expect(decode(`15 61626364 20 00 02 0300 313233 ${END}`)).toBe(`abcd${"d".repeat(290)}123`);
  });
  test("middle match from the farthest it reaches", () => {
    const { stream, bytes } = opening(16384);
    expect(decode(`${stream} 21 fcff ${END}`)).toBe(bytes + bytes.slice(0, 3));
  });
  test("far match, nearest and farthest, plain and extended", () => {
    const { stream, bytes } = opening(49151);
    expect(decode(`${stream} 12 0400 ${END}`)).toBe(bytes + bytes.slice(-16385, -16381));
    expect(decode(`${stream} 19 fcff ${END}`)).toBe(bytes + bytes.slice(0, 3));
    expect(decode(`${stream} 18 01 fcff ${END}`)).toBe(bytes + bytes.slice(0, 10));
    expect(decode(`${stream} 1a 0000 ${END}`)).toBe(bytes + bytes.slice(-32768, -32764));
  });
  test("match of 2 after 1 … 3 literals", () => {
    expect(decode(`13 6162 0400 ${END}`)).toBe("abab");
    expect(decode(`13 6162 0100 78 0800 ${END}`)).toBe("abbbxbb");
  });
  test("match of 3 after a run, from 2049 on", () => {
    const { stream, bytes } = opening(3072);
    expect(decode(`${stream} 0000 ${END}`)).toBe(bytes + bytes.slice(-2049, -2046));
    expect(decode(`${stream} 0cff ${END}`)).toBe(bytes + bytes.slice(0, 3));
  });
});

describe("malformed streams are refused", () => {
  test.each([
    ["empty", ""],
    ["no end mark", "15 61626364"],
    ["end mark cut short", "15 61626364 11"],
    ["end mark cut shorter by one", "15 61626364 1100"],
    ["bytes after the end mark", `${END} 00`],
    ["end mark of another length", "120000"],
    ["end mark with literals", "110100"],
    ["first run cut short", "15 616263"],
    ["run cut short", "01 616263"],
    ["length that never ends", "00 0000000000"],
    ["length of a match that never ends", "15 61626364 20 0000"],
    ["match cut short", "15 61626364 4c"],
    ["middle match cut short", "15 61626364 23 0c"],
    ["match before the start", `15 61626364 5000 ${END}`],
    ["middle match before the start", `15 61626364 23 1000 ${END}`],
    ["far match before the start", `15 61626364 12 0400 ${END}`],
    ["match before any output", `4000 ${END}`],
    ["match of 3 before the start", `15 61626364 0000 ${END}`],
    ["the other bitstream version", `1101 61626364 ${END}`],
  ])("%s", (_what, hex) => {
    expect(() => decode(hex)).toThrow(expect.objectContaining({ code: "EFORMAT" }));
  });

  test.each([
    ["first run", `15 61626364 ${END}`, 3],
    ["run", `01 61626364 ${END}`, 3],
    ["near match", `15 61626364 e400 ${END}`, 11],
    ["extended match", `15 61626364 20 01 0000 ${END}`, 37],
  ])("%s longer than the output buffer", (_what, hex, capacity) => {
    expect(() => decode(hex, capacity)).toThrow(expect.objectContaining({ code: "EFORMAT" }));
    expect(decode(hex, capacity + 1)).toHaveLength(capacity + 1);
  });

  test("a length near 2^31 neither allocates nor hangs", () => {
    const bomb = Buffer.concat([
      Buffer.from("156162636420", "hex"),
      Buffer.alloc(9_000_000),
      Buffer.from("010000110000", "hex"),
    ]);
    expect(() => lzo1xDecompress(bomb, Buffer.alloc(4096))).toThrow(
      expect.objectContaining({ code: "EFORMAT" }),
    );
  });
});

describe("what the compressor writes", () => {
  const context = createLzo1xContext();
  function encode(bytes: Buffer): string {
    const dst = Buffer.alloc(lzo1xBound(bytes.length));
    return dst.subarray(0, lzo1xCompress(bytes, dst, context)).toString("hex");
  }

  test("known bytes", () => {
    expect(encode(Buffer.alloc(0))).toBe(END);
    expect(encode(Buffer.from("a"))).toBe(`1261${END}`);
    expect(encode(Buffer.from("abcdabcdx"))).toBe(`15616263646d0078${END}`);
    expect(encode(Buffer.from("a".repeat(64)))).toBe(`1261201e0000${END}`);
  });

  test.each([
    ["near", 2048, 2],
    ["middle", 2049, 3],
    ["middle", 16384, 3],
    ["far", 16385, 3],
    ["far", 32768, 3],
    ["far", 49151, 3],
  ])("a %s match from %s back, and back to the same bytes", (_kind, distance, size) => {
    const marker = Buffer.from("marker#!");
    const bytes = Buffer.concat([marker, Buffer.alloc(distance - marker.length), marker]);
    const compressed = encode(bytes);
    expect(decode(compressed)).toBe(bytes.toString("latin1"));
    const without = encode(bytes.subarray(0, -marker.length));
    expect((compressed.length - without.length) / 2).toBe(size);
  });

  test("no match from farther back than a stream can say", () => {
    const marker = Buffer.from("marker#!");
    const bytes = Buffer.concat([marker, Buffer.alloc(49152 - marker.length), marker]);
    expect(decode(encode(bytes))).toBe(bytes.toString("latin1"));
  });

  test("the first four bytes never announce the other bitstream version", () => {
    for (let length = 0; length < 300; length += 1) {
      expect(encode(makeSample("random", length, length).bytes).startsWith("1101")).toBe(false);
    }
  });

  test("the same bytes when positions have been counted up to the limit", () => {
    const { bytes } = makeSample("mixed", 50_000, 7);
    const fresh = encode(bytes);
    context.base = 0x3fff_ffff - bytes.length;
    expect(encode(bytes)).toBe(fresh);
    expect(encode(bytes)).toBe(fresh);
    expect(context.base).toBe(1 + bytes.length);
  });
});
