/** The protocol's numbers, each written once more from its public specification, and as bytes on the wire. */
import { bigEndian } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import * as nbd from "../src/protocol.ts";

const u16 = (value: number): Buffer => bigEndian(BigInt(value), 2);
const u32 = (value: number): Buffer => bigEndian(BigInt(value), 4);
const NBDMAGIC = 0x4e42_444d_4147_4943n;
const IHAVEOPT = 0x4948_4156_454f_5054n;

describe("magic numbers", () => {
  it("of the handshake", () => {
    expect(bigEndian(NBDMAGIC)).toEqual(Buffer.from("NBDMAGIC"));
    expect(bigEndian(IHAVEOPT)).toEqual(Buffer.from("IHAVEOPT"));
    expect(nbd.encodeGreeting(3)).toEqual(Buffer.concat([bigEndian(NBDMAGIC), bigEndian(IHAVEOPT), u16(3)]));
    expect(nbd.encodeOption(7)).toEqual(Buffer.concat([bigEndian(IHAVEOPT), u32(7), u32(0)]));
    expect(nbd.encodeOptionReply(7, 1)).toEqual(
      Buffer.concat([bigEndian(0x0003_e889_0455_65a9n), u32(7), u32(1), u32(0)]),
    );
    const oldstyle = Buffer.concat([bigEndian(NBDMAGIC), bigEndian(0x0000_4202_8186_1253n), u16(0)]);
    expect(() => nbd.decodeGreeting(oldstyle)).toThrow("oldstyle");
  });

  it("of requests and replies", () => {
    const bytes = Buffer.alloc(28);
    const header = {
      flags: 1,
      type: 6,
      cookieHigh: 0xfedc_ba98,
      cookieLow: 2,
      offset: 2 ** 50,
      length: 2 ** 31,
    };
    nbd.encodeRequest(bytes, 0, header);
    const cookie = bigEndian(0xfedc_ba98_0000_0002n);
    expect(bytes).toEqual(
      Buffer.concat([u32(0x2560_9513), u16(1), u16(6), cookie, bigEndian(2n ** 50n), u32(2 ** 31)]),
    );
    const simple = Buffer.alloc(16);
    nbd.encodeSimpleReply(simple, 0, 28, 0xfedc_ba98, 2);
    expect(simple).toEqual(Buffer.concat([u32(0x6744_6698), u32(28), cookie]));
    const chunk = Buffer.alloc(20);
    nbd.encodeChunkHeader(chunk, 0, header, 1, 0x8001, 6);
    expect(chunk).toEqual(Buffer.concat([u32(0x668e_33ef), u16(1), u16(0x8001), cookie, u32(6)]));
    const [request, reply] = [Buffer.alloc(32), Buffer.alloc(32)];
    const long = { ...header, extended: true, length: 2 ** 52 + 1 };
    nbd.encodeRequest(request, 0, long);
    const offset = bigEndian(2n ** 50n);
    expect(request).toEqual(
      Buffer.concat([u32(0x21e4_1c71), u16(1), u16(6), cookie, offset, bigEndian(2n ** 52n + 1n)]),
    );
    nbd.encodeChunkHeader(reply, 0, long, 1, 6, 24);
    expect(reply).toEqual(Buffer.concat([u32(0x6e8a_278c), u16(1), u16(6), cookie, offset, bigEndian(24n)]));
  });
});

const bits = (...numbers: readonly number[]): number[] => numbers.map((bit) => 2 ** bit);

describe("numbers by their order in the specification", () => {
  it("flags are bits", () => {
    expect(Object.values(nbd.HANDSHAKE_FLAG)).toEqual(bits(0, 1));
    expect(nbd.FLAG).toEqual({
      HAS_FLAGS: 2 ** 0,
      READ_ONLY: 2 ** 1,
      SEND_FLUSH: 2 ** 2,
      SEND_FUA: 2 ** 3,
      ROTATIONAL: 2 ** 4,
      SEND_TRIM: 2 ** 5,
      SEND_WRITE_ZEROES: 2 ** 6,
      SEND_DF: 2 ** 7,
      CAN_MULTI_CONN: 2 ** 8,
      SEND_RESIZE: 2 ** 9,
      SEND_CACHE: 2 ** 10,
      SEND_FAST_ZERO: 2 ** 11,
      BLOCK_STATUS_PAYLOAD: 2 ** 12,
    });
    expect(nbd.CMD_FLAG).toEqual({
      FUA: 2 ** 0,
      NO_HOLE: 2 ** 1,
      DF: 2 ** 2,
      REQ_ONE: 2 ** 3,
      FAST_ZERO: 2 ** 4,
      PAYLOAD_LEN: 2 ** 5,
    });
    expect(nbd.STATE).toEqual({ HOLE: 2 ** 0, ZERO: 2 ** 1 });
    expect(nbd.REPLY_FLAG).toEqual({ DONE: 2 ** 0 });
  });

  it("options, replies, commands, chunks and errors count", () => {
    const { OPT, REP, INFO, CMD, CHUNK, ERRNO } = nbd;
    expect(Object.values(OPT)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect([OPT.LIST, OPT.STARTTLS, OPT.GO, OPT.SET_META_CONTEXT]).toEqual([3, 5, 7, 10]);
    expect([REP.ACK, REP.SERVER, REP.INFO, REP.META_CONTEXT]).toEqual([1, 2, 3, 4]);
    const errors = Object.entries(REP).filter(([name]) => name.startsWith("ERR_"));
    expect(errors.map(([, number]) => number)).toEqual(errors.map((_, index) => 2 ** 31 + index + 1));
    expect(errors.map(([name]) => name.slice(4))).toEqual(
      ["UNSUP", "POLICY", "INVALID", "PLATFORM", "TLS_REQD", "UNKNOWN"].concat([
        "SHUTDOWN",
        "BLOCK_SIZE_REQD",
        "TOO_BIG",
        "EXT_HEADER_REQD",
      ]),
    );
    expect(INFO).toEqual({ EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 });
    expect(CMD).toMatchObject({ READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, WRITE_ZEROES: 6 });
    expect([CMD.BLOCK_STATUS, CMD.RESIZE]).toEqual([7, 8]);
    expect(CHUNK).toMatchObject({
      NONE: 0,
      OFFSET_DATA: 1,
      OFFSET_HOLE: 2,
      BLOCK_STATUS: 5,
      BLOCK_STATUS_EXT: 6,
    });
    expect([CHUNK.ERROR, CHUNK.ERROR_OFFSET]).toEqual([2 ** 15 + 1, 2 ** 15 + 2]);
    expect(ERRNO).toMatchObject({ EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75 });
    expect([ERRNO.ENOTSUP, ERRNO.ESHUTDOWN]).toEqual([95, 108]);
  });
});
