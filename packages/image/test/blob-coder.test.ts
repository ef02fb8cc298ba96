import { randomFillSync } from "node:crypto";
import { afterAll, describe, expect, it } from "vitest";
import { BlobCoder, digestOf } from "../src/device/blob-coder.ts";
import { BLOB_HEAD, decodeBlob } from "../src/format/blob.ts";

describe("blobs behind bytes of the caller's", () => {
  const coder = new BlobCoder();
  afterAll(() => coder.close());
  const ROOM = 128;

  const noise = (length: number): Buffer => randomFillSync(Buffer.alloc(length));
  const cases: readonly (readonly [string, Buffer, "lz4" | "none"])[] = [
    ["text", Buffer.alloc(1 << 20, "the same again "), "lz4"],
    ["noise", noise(1 << 20), "none"],
    ["a little noise", noise(100), "none"],
    ["a little text", Buffer.alloc(100, "text "), "lz4"],
    ["text with some noise", Buffer.concat([Buffer.alloc(768 << 10, "text "), noise(256 << 10)]), "lz4"],
    ["noise with little text", Buffer.concat([noise(1000 << 10), Buffer.alloc(24 << 10, "text ")]), "none"],
  ];
  it.each(cases)("%s", async (_name, plain, codec) => {
    const body = Buffer.concat([Buffer.alloc(ROOM + BLOB_HEAD, 0xff), plain]);
    const coded = await coder.encodeBehind(ROOM, body, "lz4");
    const blob = coded.subarray(ROOM);
    expect(decodeBlob(blob)).toMatchObject({ codec, length: plain.length });
    expect(plain.equals((await coder.decode(blob, digestOf(plain))) ?? Buffer.alloc(0))).toBe(true);
    // What does not get smaller is not moved.
    expect(coded === body).toBe(codec === "none");
  });
});
