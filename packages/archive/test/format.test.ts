/** Bytes by hand, as FORMAT.md has them; and what must not be taken for them. */
import { crc32c } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { decodeContents, decodeLogHead, encodeContents, encodeLogHead } from "../src/format/log-object.ts";
import {
  decodeCheckpoint,
  decodeDisk,
  decodeEpoch,
  decodeFence,
  decodeMoment,
  encodeCheckpoint,
  encodeDisk,
  encodeEpoch,
  encodeFence,
  encodeMoment,
} from "../src/format/records.ts";

const TOKEN = "00112233445566778899aabbccddeeff";
const NONCE = "ffeeddccbbaa99887766554433221100";
const DIGEST = "0123456789abcdef".repeat(4);

const u64 = (value: number): string => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes.toString("hex");
};
const zero = (bytes: number): string => "00".repeat(bytes);

/** Magic, version, checksum, and the rest in hexadecimal digits. */
function record(magic: string, rest: string): Buffer {
  const bytes = Buffer.concat([Buffer.from(magic), Buffer.from(`0100000000000000${rest}`, "hex")]);
  bytes.writeUInt32LE(crc32c(bytes), 12);
  return bytes;
}

const position = { epoch: 3, n: 70_000 };
const disk = { token: TOKEN, size: 2 ** 40, time: 1_700_000_000_000, base: DIGEST };
const epoch = { token: TOKEN, nonce: NONCE, time: 5, host: "knöt" };
const fence = { epoch: 4, nonce: NONCE };
const checkpoint = { position, id: 9, local: 7, token: TOKEN, digest: DIGEST, time: 6 };
const moment = { position, id: 9, time: 6 };
const head = { position, id: 9, local: 7, token: TOKEN, nonce: NONCE, time: 6, segments: 2, digest: DIGEST };

const cases = [
  [
    "disk",
    encodeDisk(disk),
    decodeDisk,
    disk,
    record("dmkitdsk", TOKEN + u64(2 ** 40) + u64(1_700_000_000_000) + DIGEST + zero(16)),
  ],
  [
    "epoch",
    encodeEpoch(epoch),
    decodeEpoch,
    epoch,
    record("dmkitepo", TOKEN + NONCE + u64(5) + Buffer.from("knöt").toString("hex") + zero(59 + 8)),
  ],
  ["fence", encodeFence(fence), decodeFence, fence, record("dmkitfnc", u64(4) + NONCE + zero(24))],
  [
    "checkpoint",
    encodeCheckpoint(checkpoint),
    decodeCheckpoint,
    checkpoint,
    record("dmkitchk", u64(3) + u64(70_000) + u64(9) + u64(7) + TOKEN + DIGEST + u64(6) + zero(8)),
  ],
  [
    "moment",
    encodeMoment(moment),
    decodeMoment,
    moment,
    record("dmkitkep", u64(3) + u64(70_000) + u64(9) + u64(6) + zero(16)),
  ],
  [
    "log",
    encodeLogHead(head),
    decodeLogHead,
    head,
    record(
      "dmkitlog",
      u64(3) + u64(70_000) + u64(9) + u64(7) + TOKEN + NONCE + u64(6) + "0200000000000000" + DIGEST,
    ),
  ],
] as const;

describe("records", () => {
  it.each(cases)("%s", (_name, bytes, decode, value, golden) => {
    expect(bytes.toString("hex")).toBe(golden.toString("hex"));
    expect(decode(golden)).toEqual(value);
    for (let at = 0; at < golden.length; at += 1) {
      const bad = Buffer.from(golden);
      bad[at] = (bad[at] as number) ^ 0x10;
      // The version comes before the checksum.
      if (at >= 8 && at < 12) expect(() => decode(bad)).toThrow("cannot read");
      else expect(decode(bad), `byte ${at}`).toBeUndefined();
    }
    for (const length of [0, 7, 16, golden.length - 1])
      expect(decode(golden.subarray(0, length))).toBeUndefined();
  });
});

it("a long name of a host is cut between characters", () => {
  const host = "é".repeat(40);
  expect(decodeEpoch(encodeEpoch({ ...epoch, host }))?.host).toBe("é".repeat(32));
});

describe("contents", () => {
  const segments = [
    {
      time: 5,
      sectors: [8, 0],
      bits: [0xff, 1],
      data: Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096, 2)]),
    },
    { time: 6, sectors: [], bits: [], data: Buffer.alloc(0) },
  ];
  const plain = Buffer.concat([
    Buffer.from(
      u64(5) + "0200000000000000" + u64(8) + "ff00000000000000" + u64(0) + "0100000000000000",
      "hex",
    ),
    Buffer.alloc(4096, 1),
    Buffer.alloc(4096, 2),
    Buffer.from(u64(6) + zero(8), "hex"),
  ]);

  it("are as FORMAT.md has them", () => {
    expect(encodeContents(segments).equals(plain)).toBe(true);
    expect(decodeContents(plain, 2, 8192)).toEqual(segments);
  });

  it.each([
    ["another number of segments", (bytes: Buffer) => [bytes, 3, 8192] as const],
    ["a block behind the end", (bytes: Buffer) => [bytes, 2, 7680] as const],
    ["cut off", (bytes: Buffer) => [bytes.subarray(0, -1), 2, 8192] as const],
    ["a sector that is no block's first", (bytes: Buffer) => [changed(bytes, 16, 9), 2, 8192] as const],
    ["a sector above 2^53", (bytes: Buffer) => [changed(bytes, 23, 0xff), 2, 8192] as const],
    ["no sector that counts", (bytes: Buffer) => [changed(bytes, 24, 0), 2, 8192] as const],
    ["something where zeroes belong", (bytes: Buffer) => [changed(bytes, 25, 1), 2, 8192] as const],
    ["more blocks than there are", (bytes: Buffer) => [changed(bytes, 11, 0xff), 2, 8192] as const],
  ])("%s: refused", (_what, make) => {
    const [bytes, count, size] = make(Buffer.from(plain));
    expect(decodeContents(bytes, count, size)).toBeUndefined();
  });

  function changed(bytes: Buffer, at: number, value: number): Buffer {
    bytes[at] = value;
    return bytes;
  }
});
