/** Every constant of undo files, worked out from its number: never copied as bytes. */
import { crc32cByHand, littleEndian } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { encodeHeader, encodeRecord } from "../src/offline/format/undo-file.ts";

const u32 = (value: number): Buffer => littleEndian(BigInt(value), 4);
const uuid = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");

it("headers of undo files", () => {
  const header = encodeHeader({ uuid, time: 2 ** 41, command: "fsck", devices: [] });
  expect(header.subarray(0, 24)).toEqual(
    Buffer.concat([Buffer.from("dmkit undo file\n"), u32(2), u32(4096)]),
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
