/** Every constant of the snapshot, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { decodeHeader, encodeEntry, encodeHeader, places, states } from "../src/format/snapshot.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);
const sumOf = (block: Buffer): Buffer =>
  u32(crc32cByHand(Buffer.from(block.subarray(0, 512)).fill(0, 12, 16)));

const header = {
  state: states.complete,
  diskSize: 2 ** 45,
  pages: 2 ** 33,
  bytes: 2 ** 44,
  tableSum: 0x8765_4321,
  algorithm: "zstd",
  secondAlgorithm: "deflate",
  generation: 2 ** 46 + 1,
};

it("header", () => {
  const block = encodeHeader(header);
  expect(block.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from("dmkitZR2"), u32(1)]));
  expect(block.subarray(16, 40)).toEqual(
    Buffer.concat([littleEndian(2n ** 45n), littleEndian(2n ** 33n), littleEndian(2n ** 44n)]),
  );
  expect(block.subarray(40, 44)).toEqual(u32(0x8765_4321));
  expect(block.subarray(112, 120)).toEqual(littleEndian(2n ** 46n + 1n));
  expect(block.subarray(12, 16)).toEqual(sumOf(block));
});

it("header of version 1", () => {
  const block = encodeHeader({ ...header, secondAlgorithm: "", generation: 0 });
  block.write("dmkitZR1");
  sumOf(block).copy(block, 12);
  expect(decodeHeader(block)).toEqual({ ...header, secondAlgorithm: "", generation: 0 });
});

it("entries", () => {
  const bytes = Buffer.alloc(16, 0xff);
  const entry = {
    page: 0xfedc_ba98,
    length: 4096,
    place: places.backing,
    low: 0x8000_0001,
    high: 0x7fff_fffe,
  };
  encodeEntry(bytes, 0, entry);
  expect(bytes).toEqual(
    Buffer.concat([
      u32(0xfedc_ba98),
      littleEndian(4096n, 2),
      littleEndian(2n, 2),
      u32(0x8000_0001),
      u32(0x7fff_fffe),
    ]),
  );
});
