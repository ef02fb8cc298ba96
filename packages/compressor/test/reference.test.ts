import { crc32 } from "node:zlib";
import { beforeAll, describe, expect, test } from "vitest";
import { findBackend } from "../src/index.ts";
import { compressWith, decompressWith } from "./support/backends.ts";
import { corpus, some } from "./support/inputs.ts";
import { filter, needs } from "./support/tools.ts";

const inputs = some(corpus(), 65_536, 7);

describe("lz4, in the program's legacy container: magic, then blocks of length u32 and bytes", () => {
  const lz4 = findBackend("lz4");
  beforeAll(async () => lz4.load?.());
  const magic = Buffer.from("02214c18", "hex");

  test("the program reads what we write", ({ skip }) => {
    needs(skip, "lz4");
    for (const { name, bytes } of inputs) {
      const block = compressWith(lz4, bytes);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(block.length);
      const file = Buffer.concat(bytes.length === 0 ? [magic] : [magic, length, block]);
      expect(filter("lz4", ["-dc"], file).equals(bytes), name).toBe(true);
    }
  });

  test.for(["-1", "-9"])("we read what the program writes with %s", (level, { skip }) => {
    needs(skip, "lz4");
    for (const { name, bytes } of inputs) {
      if (bytes.length === 0) continue;
      const file = filter("lz4", ["-l", "-c", level], bytes);
      const block = file.subarray(8, 8 + file.readUInt32LE(4));
      expect(decompressWith(lz4, block, bytes.length).equals(bytes), name).toBe(true);
    }
  });
});

describe("deflate, in gzip's container: 10 bytes of header, the stream, CRC-32 and length", () => {
  const deflate = findBackend("deflate");

  test("gzip reads what we write", ({ skip }) => {
    needs(skip, "gzip");
    for (const { name, bytes } of inputs) {
      const tail = Buffer.alloc(8);
      tail.writeUInt32LE(crc32(bytes), 0);
      tail.writeUInt32LE(bytes.length, 4);
      const header = Buffer.from("1f8b08000000000000ff", "hex");
      const file = Buffer.concat([header, compressWith(deflate, bytes), tail]);
      expect(filter("gzip", ["-dc"], file).equals(bytes), name).toBe(true);
    }
  });

  test("we read what gzip writes", ({ skip }) => {
    needs(skip, "gzip");
    for (const { name, bytes } of inputs) {
      const stream = filter("gzip", ["-c", "-n"], bytes).subarray(10, -8);
      expect(decompressWith(deflate, stream, bytes.length).equals(bytes), name).toBe(true);
    }
  });
});

describe("zstd", () => {
  const zstd = findBackend("zstd");
  beforeAll(async () => zstd.load?.());

  test("the program reads what we write", ({ skip }) => {
    needs(skip, "zstd");
    for (const { name, bytes } of inputs) {
      expect(filter("zstd", ["-dc"], compressWith(zstd, bytes)).equals(bytes), name).toBe(true);
    }
  });

  test.for(["-1", "-19", "--no-check"])("we read what the program writes with %s", (option, { skip }) => {
    needs(skip, "zstd");
    for (const { name, bytes } of inputs) {
      const frame = filter("zstd", ["-c", option, `--stream-size=${bytes.length}`], bytes);
      expect(decompressWith(zstd, frame, bytes.length).equals(bytes), name).toBe(true);
    }
  });
});
