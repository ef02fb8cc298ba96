/** Every constant of the snapshot, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import {
  decodeEntry,
  decodeHeader,
  encodeEntry,
  encodeHeader,
  states,
  versionOf,
} from "../src/format/snapshot.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);
const sumOf = (block: Buffer): Buffer =>
  u32(crc32cByHand(Buffer.from(block.subarray(0, 512)).fill(0, 12, 16)));

const named = (name: string, dictionary?: Buffer): { name: string; dictionary: Buffer | undefined } => ({
  name,
  dictionary,
});

const header = {
  state: states.complete,
  diskSize: 2 ** 45,
  pages: 2 ** 33,
  bytes: 2 ** 44,
  tableSum: 0x8765_4321,
  algorithms: [named("zstd"), named("deflate"), named(""), named("")],
  isExtended: false,
  generation: 2 ** 46 + 1,
};

it("header", () => {
  const block = encodeHeader(header);
  expect(block.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from("dmkitZR2"), u32(1)]));
  expect(block.subarray(16, 40)).toEqual(
    Buffer.concat([littleEndian(2n ** 45n), littleEndian(2n ** 33n), littleEndian(2n ** 44n)]),
  );
  expect(block.subarray(40, 44)).toEqual(u32(0x8765_4321));
  expect(block.toString("latin1", 48, 112)).toBe("zstd".padEnd(32, "\0") + "deflate".padEnd(32, "\0"));
  expect(block.subarray(112, 120)).toEqual(littleEndian(2n ** 46n + 1n));
  expect(block.subarray(120).equals(Buffer.alloc(4096 - 120))).toBe(true);
  expect(block.subarray(12, 16)).toEqual(sumOf(block));
  expect(decodeHeader(block)).toEqual(header);
});

it("header of version 3", () => {
  const hash = Buffer.alloc(32, 0xa5);
  const algorithms = [named("lz4"), named("zstd", hash), named(""), named("deflate")];
  const block = encodeHeader({ ...header, algorithms, isExtended: true });
  expect(block.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from("dmkitZR2"), u32(1)]));
  // What programs that know only version 2 take for the algorithm: no algorithm has a name like that.
  expect(block.toString("latin1", 48, 112)).toBe("a newer dmkit (version 3)".padEnd(64, "\0"));
  expect(block.subarray(120, 128)).toEqual(Buffer.concat([u32(3), u32(0)]));
  const slots = algorithms.map(({ name, dictionary }) =>
    Buffer.concat([Buffer.from(name.padEnd(32, "\0")), dictionary ?? Buffer.alloc(32)]),
  );
  expect(block.subarray(128, 384)).toEqual(Buffer.concat(slots));
  expect(block.subarray(384).equals(Buffer.alloc(4096 - 384))).toBe(true);
  expect(block.subarray(12, 16)).toEqual(sumOf(block));
  expect(decodeHeader(block)).toEqual({ ...header, algorithms, isExtended: true });
});

it.each([1, 2, 4, 2 ** 32 - 1])("header of a version that there is not: %d", (version) => {
  const block = encodeHeader({ ...header, isExtended: true });
  u32(version).copy(block, 120);
  sumOf(block).copy(block, 12);
  expect(decodeHeader(block)).toBeUndefined();
  expect(versionOf(block)).toBe(version > 3 ? version : undefined);
});

it("header of version 1", () => {
  const algorithms = [named("zstd"), named(""), named(""), named("")];
  const block = encodeHeader({ ...header, algorithms, generation: 0 });
  block.write("dmkitZR1");
  sumOf(block).copy(block, 12);
  expect(decodeHeader(block)).toEqual({ ...header, algorithms, generation: 0 });
});

it.each([
  // Byte 6, byte 7, was on the backing device, priority: the first three are all that version 2 has.
  [0, 0, false, 0],
  [1, 0, false, 1],
  [2, 0, true, 0],
  [0, 2, false, 2],
  [0, 3, false, 3],
  [2, 1, true, 1],
  [2, 3, true, 3],
])("entry with %d and %d behind the length", (place, own, isBacked, priority) => {
  const bytes = Buffer.alloc(16, 0xff);
  const entry = {
    page: 0xfedc_ba98,
    length: 3072,
    isBacked,
    priority,
    low: 0x8000_0001,
    high: 0x7fff_fffe,
  };
  encodeEntry(bytes, 0, entry);
  expect(bytes).toEqual(
    Buffer.concat([
      u32(0xfedc_ba98),
      littleEndian(3072n, 2),
      Buffer.from([place, own]),
      u32(0x8000_0001),
      u32(0x7fff_fffe),
    ]),
  );
  expect(decodeEntry(bytes, 0)).toEqual(entry);
});

it.each([
  [3, 0],
  [0, 4],
  [1, 1],
  [0xff, 0xff],
])("entry with %d and %d is none", (place, own) => {
  const bytes = Buffer.alloc(16);
  bytes[6] = place;
  bytes[7] = own;
  expect(decodeEntry(bytes, 0)).toBeUndefined();
});
