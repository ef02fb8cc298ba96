/** Every constant of undo files and of known signatures, worked out from its number: never copied as bytes. */
import { bigEndian, crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { signatures } from "../src/offline/format/signatures.ts";
import { encodeHeader, encodeRecord } from "../src/offline/format/undo-file.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);
const uuid = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");

it("headers of undo files", () => {
  const header = encodeHeader({ uuid, time: 2 ** 41, command: "fsck", devices: [] });
  expect(header.subarray(0, 24)).toEqual(
    Buffer.concat([Buffer.from("dmkit undo file\n"), u32(1), u32(4096)]),
  );
  expect(header.subarray(40, 56)).toEqual(Buffer.concat([littleEndian(2n ** 41n), u32(0), u32(4)]));
  expect(header.subarray(56, 60)).toEqual(u32(crc32cByHand(Buffer.from(header).fill(0, 56, 60))));
});

it("records of undo files", () => {
  const payload = Buffer.alloc(512, 3);
  const record = {
    kind: "data",
    number: 9,
    device: 1,
    offset: 2 ** 45,
    length: 512,
    durable: 2 ** 44,
  } as const;
  const bytes = encodeRecord(uuid, record, payload);
  expect(bytes.subarray(0, 8)).toEqual(Buffer.from("undo rec"));
  expect(bytes.subarray(8, 12)).toEqual(u32(crc32cByHand(Buffer.from(bytes.subarray(0, 80)).fill(0, 8, 12))));
  expect(bytes.subarray(12, 16)).toEqual(u32(1));
  expect(bytes.subarray(32, 80)).toEqual(
    Buffer.concat([
      littleEndian(9n),
      u32(1),
      u32(crc32cByHand(payload)),
      littleEndian(2n ** 45n),
      littleEndian(512n),
      littleEndian(512n),
      littleEndian(2n ** 44n),
    ]),
  );
});

it.each([
  ["an ext2, ext3 or ext4 file system", 1024 + 0x38, littleEndian(0xef53n, 2)],
  ["an F2FS file system", 1024, littleEndian(0xf2f5_2010n, 4)],
  ["a part of a Linux RAID", 4096, littleEndian(0xa92b_4efcn, 4)],
  ["a btrfs file system", 65_536 + 64, littleEndian(0x4d5f_5366_5248_425fn)],
  ["a VDI image", 64, littleEndian(0xbeda_107fn, 4)],
  ["a qcow2 image", 0, bigEndian(0x5146_49fbn, 4)],
  ["a LUKS volume", 0, bigEndian(0x4c55_4b53_baben, 6)],
  ["an MBR partition table or boot sector", 510, littleEndian(0xaa55n, 2)],
])("%s is known by its number", (name, at, bytes) => {
  const places = signatures.filter((signature) => signature.name === name && signature.at === at);
  expect(places.map((signature) => signature.bytes)).toEqual([bytes.toString("hex")]);
});
