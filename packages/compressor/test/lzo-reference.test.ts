import { describe, expect, test } from "vitest";
import { lzo } from "../src/backends/lzo.ts";
import { CompressorError } from "../src/errors.ts";
import { SeededRandom, makeSample } from "../src/testing/index.ts";
import { mutate } from "../src/testing/mutate.ts";
import { corpus, some } from "./support/inputs.ts";
import { type Request, askLiblzo2, needsLiblzo2 } from "./support/liblzo2.ts";
import { readLzop, writeLzop } from "./support/lzop.ts";
import { filter, needs } from "./support/tools.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 1_000_000);
const inputs = corpus();
const context = lzo.createContext({ level: 0 });

function compress(bytes: Buffer): Buffer {
  const dst = Buffer.alloc(lzo.bound(bytes.length));
  return dst.subarray(0, lzo.compress(bytes, dst, context));
}

function decompress(bytes: Buffer, length: number): Buffer {
  const dst = Buffer.alloc(length);
  expect(lzo.decompress(bytes, dst)).toBe(length);
  return dst;
}

function request(kind: Request["kind"], data: Buffer): Request {
  return { kind, data, capacity: lzo.bound(data.length) };
}

describe("liblzo2", () => {
  test("reads what we write, on the whole corpus", ({ skip }) => {
    needsLiblzo2(skip);
    const answers = askLiblzo2(inputs, ({ bytes }) => ({
      kind: "decompress",
      data: compress(bytes),
      capacity: bytes.length,
    }));
    for (const { item, answer } of answers) {
      expect([item.name, answer.status]).toEqual([item.name, 0]);
      expect(answer.data.equals(item.bytes), item.name).toBe(true);
    }
  });

  for (const kind of ["compress", "compress999"] as const) {
    test(`writes (${kind}) what we read, on the whole corpus`, ({ skip }) => {
      needsLiblzo2(skip);
      for (const { item, answer } of askLiblzo2(inputs, ({ bytes }) => request(kind, bytes))) {
        expect([item.name, answer.status]).toEqual([item.name, 0]);
        expect(decompress(answer.data, item.bytes.length).equals(item.bytes), item.name).toBe(true);
      }
    });
  }

  test("compresses hardly better than we do", ({ skip }) => {
    needsLiblzo2(skip);
    let ours = 0;
    let theirs = 0;
    const large = inputs.filter(({ bytes }) => bytes.length >= 4096);
    for (const { item, answer } of askLiblzo2(large, ({ bytes }) => request("compress", bytes))) {
      ours += compress(item.bytes).length;
      theirs += answer.data.length;
    }
    expect(ours / theirs).toBeLessThan(1.05);
  });

  test(`yields the same for every damaged stream that we accept, seed ${seed}`, ({ skip }) => {
    needsLiblzo2(skip);
    const random = new SeededRandom(seed);
    // The library's streams too: LZO1X-999 uses instructions that we never write.
    const short = inputs.filter(({ bytes }) => bytes.length <= 4097);
    const theirs = askLiblzo2(short, ({ bytes }) => request("compress999", bytes));
    const streams = [
      ...short.map(({ bytes }) => compress(bytes)),
      ...theirs.map(({ answer }) => answer.data),
    ];
    const damaged = Array.from({ length: 20_000 }, (_, n) => ({
      n,
      data: mutate(random.pick(streams), random.pick(streams), random),
    }));
    const capacity = 5000;
    for (const { item, answer } of askLiblzo2(damaged, ({ data }) => ({
      kind: "decompress",
      data,
      capacity,
    }))) {
      const { n, data } = item;
      const dst = Buffer.alloc(capacity);
      try {
        const length = lzo.decompress(data, dst);
        expect([n, answer.status]).toEqual([n, 0]);
        expect(dst.subarray(0, length).equals(answer.data), `stream ${n}`).toBe(true);
      } catch (error) {
        if (!(error instanceof CompressorError)) throw error;
        // All we are stricter about: the end mark is 11 00 00, of no other length and without literals.
        if (answer.status === 0) expect([n, error.offset]).toEqual([n, data.length]);
      }
    }
  });
});

describe("lzop", () => {
  const chosen = some(inputs, 131_072, 5);
  const compressible = chosen
    .map(({ name, bytes }) => ({ name, bytes, compressed: compress(bytes) }))
    .filter(({ bytes, compressed }) => compressed.length < bytes.length);

  test("reads what we write", ({ skip }) => {
    needs(skip, "lzop");
    for (const { name, bytes, compressed } of compressible) {
      expect(filter("lzop", ["-dc"], writeLzop(bytes, compressed)).equals(bytes), name).toBe(true);
    }
  });

  test("notices if we hand it a wrong byte: the container's checksum works", ({ skip }) => {
    needs(skip, "lzop");
    const { bytes } = makeSample("text", 4096, 1);
    const compressed = compress(bytes);
    const other = Buffer.from(bytes).fill("x", 100, 101);
    expect(filter("lzop", ["-dc"], writeLzop(bytes, compressed)).equals(bytes)).toBe(true);
    expect(() => filter("lzop", ["-dc"], writeLzop(other, compressed))).toThrow();
  });

  for (const level of ["-1", "-3", "-9"]) {
    test(`${level} writes what we read`, ({ skip }) => {
      needs(skip, "lzop");
      for (const { name, bytes } of chosen) {
        if (bytes.length === 0) continue;
        const pieces = readLzop(filter("lzop", [level, "-c"], bytes)).map(({ length, stored }) =>
          stored.length < length ? decompress(stored, length) : stored,
        );
        expect(Buffer.concat(pieces).equals(bytes), name).toBe(true);
      }
    });
  }
});
