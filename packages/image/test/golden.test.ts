/** Bytes computed by hand from the tables of FORMAT.md. */
import { createHash } from "node:crypto";
import { homedir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { defaultCacheFolder, parseImageReference } from "../src/index.ts";
import { decodeBlob, encodeBlobHead } from "../src/format/blob.ts";
import {
  blobKey,
  blobOfKey,
  decodeTag,
  encodeTag,
  manifestOfKey,
  tagKey,
  tagOfKey,
} from "../src/format/layout.ts";
import { decodeHotList, decodeManifest, encodeHotList, encodeManifest } from "../src/format/manifest.ts";
import { Readahead } from "../src/core/readahead.ts";
import { ChunkMemory } from "../src/core/chunk-memory.ts";

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ""), "hex");
const digest = (byte: string): string => byte.repeat(32);

describe("a manifest", () => {
  // 4096 · 64 KiB + 512 bytes: 4097 chunks, two pages.
  const size = 4096 * 65_536 + 512;
  const manifest = {
    size,
    chunkSize: 65_536,
    parent: digest("aa"),
    hotList: digest("bb"),
    hotCount: 3,
    pages: [undefined, digest("cc")],
  };
  const head = hex(`
    646d6b6974696d67 01000000 00000000
    0002001000000000 00000100 00100000 02000000 03000000
    ${digest("aa")} ${digest("bb")}
    ${digest("00")} ${digest("cc")}`);
  const body = Buffer.concat([head, createHash("sha256").update(head).digest()]);

  test("has these bytes", () => {
    expect(encodeManifest(manifest).toString("hex")).toBe(head.toString("hex"));
    expect(decodeManifest(body)).toEqual(manifest);
  });

  test.each([
    ["another magic", 0, 0x65, "damaged"],
    ["another version", 8, 2, "version"],
    ["a size that is no multiple of 512", 16, 1, "damaged"],
    ["a size of 2^53 and more", 23, 1, "damaged"],
    ["a chunk size that is no power of two", 24, 1, "damaged"],
    ["other pages", 28, 1, "version"],
    ["a wrong number of pages", 32, 3, "damaged"],
    ["a hot list without chunks", 36, 0, "damaged"],
  ])("%s is not believed", (_, at, byte, verdict) => {
    const changed = Buffer.from(body);
    changed[at] = byte;
    expect(decodeManifest(changed)).toBe(verdict);
  });

  test("cut or extended, it is damaged", () => {
    for (let length = 0; length < body.length; length += 1)
      expect(decodeManifest(body.subarray(0, length))).toBe("damaged");
    expect(decodeManifest(Buffer.concat([body, Buffer.alloc(32)]))).toBe("damaged");
  });
});

test("a blob", () => {
  expect(encodeBlobHead("zstd", 524_288).toString("hex")).toBe(
    "646d6b6974626c62 01 000000 00000800".replaceAll(" ", ""),
  );
  const body = Buffer.concat([hex("646d6b6974626c62 00 000000 03000000"), Buffer.from("abc")]);
  expect(decodeBlob(body)).toEqual({ codec: "none", length: 3, contents: Buffer.from("abc") });
  for (const [at, byte] of [
    [0, 0],
    [8, 3],
    [9, 1],
    [12, 4],
    [12, 0],
    [15, 1],
  ] as const) {
    const changed = Buffer.from(body);
    changed[at] = byte;
    expect(decodeBlob(changed)).toBeUndefined();
  }
  expect(decodeBlob(body.subarray(0, 15))).toBeUndefined();
});

test("a hot list", () => {
  expect(encodeHotList([1, 258, 65_536]).toString("hex")).toBe("010000000201000000000100");
  expect(decodeHotList(hex("010000000201000000000100ff"), 300)).toEqual([1, 258]);
});

test("keys", () => {
  const blob = `ab${digest("cd").slice(2)}`;
  expect(blobKey(blob)).toBe(`blobs/ab/${blob}`);
  expect(blobOfKey(`blobs/ab/${blob}`)).toBe(blob);
  expect(blobOfKey(`blobs/ac/${blob}`)).toBeUndefined();
  expect(manifestOfKey(`images/disk/${blob}`)).toEqual({ image: "disk", digest: blob });
  expect(manifestOfKey(`images/disk/x/${blob}`)).toBeUndefined();
  expect(tagKey("disk", "v1.2", 12)).toBe("tags/disk/v1.2/0000000000000012");
  expect(tagOfKey("tags/disk/v1.2/0000000000000012")).toEqual({ image: "disk", tag: "v1.2", version: 12 });
  const record = { digest: blob, time: Date.UTC(2026, 0, 2), token: "t" };
  expect(encodeTag(record).toString()).toBe(`${blob}\n2026-01-02T00:00:00.000Z\nt\n`);
  expect(decodeTag(encodeTag(record))).toEqual(record);
  const noted = { ...record, note: "what is: noted" };
  expect(encodeTag(noted).toString()).toBe(`${blob}\n2026-01-02T00:00:00.000Z\nt what is: noted\n`);
  expect(decodeTag(encodeTag(noted))).toEqual(noted);
  expect(decodeTag(Buffer.from(`${blob}\nyesterday\nt\n`))).toBeUndefined();
});

describe("references", () => {
  const pinned = digest("ab");
  test.each([
    ["image:s3://bucket/golden", { store: "s3://bucket", name: "golden", tag: "latest", digest: undefined }],
    [
      "s3://b/p/q/golden:v1?endpoint=http://h",
      { store: "s3://b/p/q?endpoint=http://h", name: "golden", tag: "v1", digest: undefined },
    ],
    [`/images/golden@${pinned}`, { store: "/images", name: "golden", tag: "latest", digest: pinned }],
    ["./golden", { store: ".", name: "golden", tag: "latest", digest: undefined }],
    ["/golden", { store: "/", name: "golden", tag: "latest", digest: undefined }],
  ])("%s", (text, wanted) => {
    expect(parseImageReference(text)).toEqual({ ...wanted, tagSaid: wanted.tag !== "latest" });
  });

  test.each([
    "golden",
    "image:",
    "s3://bucket",
    "/x/",
    "/x/Golden",
    "/x/a b",
    "/x/a:",
    "/x/a:B",
    "/x/a@12",
    "/x/-a",
  ])("%s is none", (text) => {
    expect(() => parseImageReference(text)).toThrowError(expect.objectContaining({ code: "EPARSE" }));
  });
});

test("readahead grows with a stream, and asks for each chunk once", () => {
  const ahead = new Readahead(65_536, 100, 8);
  const asked: number[] = [];
  for (let offset = 0; offset < 40 * 65_536; offset += 16_384) {
    const { from, to } = ahead.read(offset, 16_384);
    for (let chunk = from; chunk < to; chunk += 1) asked.push(chunk);
    expect(to - Math.floor(offset / 65_536)).toBeLessThanOrEqual(9);
  }
  expect(new Set(asked).size).toBe(asked.length);
  expect(asked).toEqual(Array.from({ length: asked.length }, (_, index) => index + 1));
  expect(asked.length).toBeGreaterThan(40);
  const random = new Readahead(65_536, 100, 8);
  for (const chunk of [5, 80, 3, 44, 17])
    expect(random.read(chunk * 65_536, 4096)).toEqual({ from: 0, to: 0 });
});

test("the node's cache is where XDG has caches", () => {
  expect(defaultCacheFolder({ XDG_CACHE_HOME: "/var/cache/x" })).toBe("/var/cache/x/dmkit/blobs");
  // As XDG says: a relative path means nothing.
  for (const variables of [{}, { XDG_CACHE_HOME: "x" }])
    expect(defaultCacheFolder(variables)).toBe(join(homedir(), ".cache/dmkit/blobs"));
});

test("memory keeps what was used last, within its bound", () => {
  const memory = new ChunkMemory(100);
  for (const name of ["a", "b", "c"]) memory.put(name, Buffer.alloc(30));
  expect(memory.get("a")).toBeDefined();
  memory.put("d", Buffer.alloc(30));
  expect([memory.get("a"), memory.get("b"), memory.get("c"), memory.get("d")].map(Boolean)).toEqual([
    true,
    false,
    true,
    true,
  ]);
  memory.put("e", Buffer.alloc(101));
  expect(memory.get("e")).toBeUndefined();
  expect(memory.bytes).toBe(90);
});
