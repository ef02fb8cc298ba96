/** The codec against bytes written by hand from the public protocol text. */
import { errorCodes } from "@dmkit/block-io";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as nbd from "../src/protocol.ts";
import { runs } from "./support/runs.ts";

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ""), "hex");
const ascii = (text: string): string => Buffer.from(text).toString("hex");

function code(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return "none";
}

describe("handshake frames", () => {
  const greeting = hex("4e42444d41474943 49484156454f5054 0003");

  it("greets", () => {
    expect(nbd.encodeGreeting(3)).toEqual(greeting);
    expect(nbd.decodeGreeting(greeting)).toBe(3);
  });

  it("refuses what is no newstyle server", () => {
    expect(code(() => nbd.decodeGreeting(hex("4e42444d41474944 49484156454f5054 0003")))).toBe("EPROTO");
    expect(code(() => nbd.decodeGreeting(hex("4e42444d41474943 0000420281861253 0003")))).toBe("EPROTO");
    expect(code(() => nbd.decodeGreeting(hex("4e42444d41474943 49484156454f5055 0003")))).toBe("EPROTO");
  });

  it("client flags", () => {
    expect(nbd.encodeClientFlags(3)).toEqual(hex("00000003"));
    expect(nbd.decodeClientFlags(hex("80000001"))).toBe(0x8000_0001);
  });

  it("options", () => {
    const abort = hex("49484156454f5054 00000002 00000000");
    expect(nbd.encodeOption(nbd.OPT.ABORT)).toEqual(abort);
    expect(nbd.decodeOptionHeader(abort)).toEqual({ option: 2, length: 0 });
    expect(nbd.encodeOption(1, Buffer.from("ab"))).toEqual(hex("49484156454f5054 00000001 00000002 6162"));
    expect(code(() => nbd.decodeOptionHeader(hex("49484156454f5053 00000002 00000000")))).toBe("EPROTO");
  });

  it("option replies", () => {
    const ack = hex("0003e889045565a9 00000003 00000001 00000000");
    expect(nbd.encodeOptionReply(nbd.OPT.LIST, nbd.REP.ACK)).toEqual(ack);
    expect(nbd.decodeOptionReplyHeader(ack)).toEqual({ option: 3, type: 1, length: 0 });
    expect(nbd.encodeOptionError(7, nbd.REP.ERR_UNKNOWN, "no")).toEqual(
      hex("0003e889045565a9 00000007 80000006 00000002 6e6f"),
    );
    expect(code(() => nbd.decodeOptionReplyHeader(hex("0003e889045565aa 00000003 00000001 00000000")))).toBe(
      "EPROTO",
    );
  });

  it("the answer to EXPORT_NAME", () => {
    const answer = hex("0000000040000000 0125");
    const value = { size: 0x4000_0000, flags: 0x125 };
    expect(nbd.encodeExportAnswer(value, false)).toEqual(answer);
    expect(nbd.encodeExportAnswer(value, true)).toEqual(Buffer.concat([answer, Buffer.alloc(124)]));
    expect(nbd.decodeExportAnswer(answer)).toEqual(value);
    expect(nbd.decodeExportAnswer(hex("001fffffffffffff 0001")).size).toBe(Number.MAX_SAFE_INTEGER);
    expect(Number.isSafeInteger(nbd.decodeExportAnswer(hex("0020000000000001 0001")).size)).toBe(false);
  });
});

describe("option data", () => {
  it("INFO and GO", () => {
    const data = hex(`00000004 ${ascii("disk")} 0002 0003 0001`);
    const value = { name: "disk", requests: [3, 1] };
    expect(nbd.encodeInfoRequest(value)).toEqual(data);
    expect(nbd.decodeInfoRequest(data)).toEqual(value);
    expect(nbd.decodeInfoRequest(hex("00000000 0000"))).toEqual({ name: "", requests: [] });
  });

  it.each([
    ["no length", ""],
    ["half a length", "0000"],
    ["a name longer than the data", "00000005 61626364"],
    ["a name of 4 GiB", "ffffffff 6162 0000"],
    ["no count", "00000002 6162"],
    ["half a count", "00000002 6162 00"],
    ["a count above what is there", "00000002 6162 0002 0003"],
    ["bytes left over", "00000002 6162 0001 0003 00"],
    ["a NUL in the name", "00000002 6100 0000"],
    ["a name that is not UTF-8", "00000002 c328 0000"],
  ])("INFO and GO with %s", (_, bytes) => {
    expect(code(() => nbd.decodeInfoRequest(hex(bytes)))).toBe("EPROTO");
  });

  it("names end at 4096 bytes", () => {
    const named = (length: number): Buffer => {
      const data = Buffer.alloc(6 + length, "n");
      data.writeUInt32BE(length);
      data.writeUInt16BE(0, 4 + length);
      return data;
    };
    expect(nbd.decodeInfoRequest(named(4096)).name).toHaveLength(4096);
    expect(code(() => nbd.decodeInfoRequest(named(4097)))).toBe("EPROTO");
    expect(code(() => nbd.encodeInfoRequest({ name: "n".repeat(4097), requests: [] }))).toBe("EINVAL");
    expect(code(() => nbd.decodeExportName(Buffer.alloc(4097, "n")))).toBe("EPROTO");
  });

  it("metadata contexts", () => {
    const data = hex(`00000001 78 00000002 00000005 ${ascii("base:")} 0000000f ${ascii("base:allocation")}`);
    const value = { exportName: "x", queries: ["base:", "base:allocation"] };
    expect(nbd.encodeMetaContextRequest(value)).toEqual(data);
    expect(nbd.decodeMetaContextRequest(data)).toEqual(value);
    const reply = hex(`00000007 ${ascii("base:allocation")}`);
    expect(nbd.encodeMetaContextReply({ id: 7, name: "base:allocation" })).toEqual(reply);
    expect(nbd.decodeMetaContextReply(reply)).toEqual({ id: 7, name: "base:allocation" });
    expect(code(() => nbd.decodeMetaContextReply(hex("000007")))).toBe("EPROTO");
  });

  it.each([
    ["no count", "00000001 78"],
    ["a huge count", "00000001 78 ffffffff 00000000"],
    ["a missing query", "00000001 78 00000002 00000001 61"],
    ["a query longer than the data", "00000001 78 00000001 00000002 61"],
    ["bytes left over", "00000001 78 00000001 00000001 61 00"],
  ])("metadata contexts with %s", (_, bytes) => {
    expect(code(() => nbd.decodeMetaContextRequest(hex(bytes)))).toBe("EPROTO");
  });

  it("LIST entries", () => {
    const data = hex(`00000001 61 ${ascii("text")}`);
    expect(nbd.encodeServerEntry({ name: "a", description: "text" })).toEqual(data);
    expect(nbd.decodeServerEntry(data)).toEqual({ name: "a", description: "text" });
    expect(code(() => nbd.decodeServerEntry(hex("00000002 61")))).toBe("EPROTO");
  });

  it("information", () => {
    expect(nbd.encodeInfoExport(0x10000, 0x23)).toEqual(hex("0000 0000000000010000 0023"));
    expect(nbd.decodeInfoReply(hex("0000 0000000000010000 0023"))).toEqual({
      type: 0,
      size: 0x10000,
      flags: 0x23,
    });
    expect(nbd.encodeInfoText(nbd.INFO.NAME, "ab")).toEqual(hex("0001 6162"));
    expect(nbd.decodeInfoReply(hex("0001 6162"))).toEqual({ type: 1, name: "ab" });
    expect(nbd.encodeInfoText(nbd.INFO.DESCRIPTION, "d")).toEqual(hex("0002 64"));
    expect(nbd.decodeInfoReply(hex("0002 64"))).toEqual({ type: 2, description: "d" });
    const sizes = { minimum: 512, preferred: 4096, maximumPayload: 0x200_0000 };
    expect(nbd.encodeInfoBlockSize(sizes)).toEqual(hex("0003 00000200 00001000 02000000"));
    expect(nbd.decodeInfoReply(hex("0003 00000200 00001000 02000000"))).toEqual({ type: 3, ...sizes });
    expect(nbd.decodeInfoReply(hex("0063 00"))).toEqual({ type: "unknown", number: 99 });
    for (const bytes of ["", "00", "0000 00", "0003 00000200", `0000 ${"00".repeat(11)}`]) {
      expect(code(() => nbd.decodeInfoReply(hex(bytes)))).toBe("EPROTO");
    }
  });
});

describe("transmission", () => {
  const asked = { cookieHigh: 1, cookieLow: 2, offset: 0x600 };
  const header = {
    flags: 1,
    type: 1,
    cookieHigh: 0xdead_beef,
    cookieLow: 0x8000_0001,
    offset: 0x1_0000_0200,
    length: 0xffff_ffff,
  };
  const bytes = hex("25609513 0001 0001 deadbeef80000001 0000000100000200 ffffffff");

  it("requests", () => {
    const into = Buffer.alloc(30, 0x55);
    nbd.encodeRequest(into, 1, header);
    expect(into).toEqual(Buffer.concat([hex("55"), bytes, hex("55")]));
    const decoded = { flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    expect(nbd.decodeRequest(into, 1, decoded)).toBe(true);
    expect(decoded).toEqual(header);
    expect(nbd.decodeRequest(hex(`25609514${"00".repeat(24)}`), 0, decoded)).toBe(false);
  });

  it("offsets of 2^53 and more are past every device", () => {
    const decoded = { ...header };
    for (const offset of ["0020000000000000", "0020000000000001", "7fffffffffffffff", "ffffffffffffffff"]) {
      nbd.decodeRequest(hex(`25609513 0000 0000 0000000000000000 ${offset} 00000001`), 0, decoded);
      expect(Number.isSafeInteger(decoded.offset)).toBe(false);
      expect(decoded.offset).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
    }
  });

  it("simple replies", () => {
    const into = Buffer.alloc(16);
    nbd.encodeSimpleReply(into, 0, nbd.ERRNO.ENOSPC, 1, 2);
    expect(into).toEqual(hex("67446698 0000001c 0000000100000002"));
    const reply = emptyReply();
    expect(nbd.replyHeaderLength(into, 0)).toBe(16);
    expect(nbd.decodeReplyHeader(into, 0, reply)).toBe(true);
    expect(reply).toEqual({ ...emptyReply(), cookieHigh: 1, cookieLow: 2, error: 28, flags: 1 });
  });

  it("data and hole chunks", () => {
    const into = Buffer.alloc(28);
    nbd.encodeDataChunkHeader(into, 0, asked, 1, 0x200, 4096);
    expect(into).toEqual(hex("668e33ef 0001 0001 0000000100000002 00001008 0000000000000200"));
    const reply = emptyReply();
    expect(nbd.replyHeaderLength(into, 0)).toBe(20);
    expect(nbd.decodeReplyHeader(into, 0, reply)).toBe(true);
    expect(reply).toMatchObject({
      structured: true,
      flags: 1,
      type: 1,
      length: 4104,
      cookieHigh: 1,
      cookieLow: 2,
    });
    expect(nbd.decodeChunkOffset(into, 20)).toBe(0x200);
    const hole = Buffer.alloc(32);
    nbd.encodeHoleChunk(hole, 0, asked, 0, 0x200, 512);
    expect(hole).toEqual(hex("668e33ef 0000 0002 0000000100000002 0000000c 0000000000000200 00000200"));
    expect(nbd.decodeHoleChunk(hole.subarray(20))).toEqual({ offset: 0x200, length: 512 });
    expect(code(() => nbd.decodeHoleChunk(hex("0000000000000200 00000000")))).toBe("EPROTO");
    expect(code(() => nbd.decodeHoleChunk(hex("0000000000000200 000000")))).toBe("EPROTO");
  });

  it("error chunks", () => {
    const plain = hex("668e33ef 0001 8001 0000000100000002 00000008 00000016 0002 6e6f");
    expect(nbd.encodeErrorChunk(asked, 22, "no")).toEqual(plain);
    expect(nbd.decodeErrorChunk(0x8001, plain.subarray(20))).toEqual({
      error: 22,
      text: "no",
      offset: undefined,
    });
    const placed = hex("668e33ef 0001 8002 0000000100000002 00000010 00000005 0002 6e6f 0000000000000400");
    expect(nbd.encodeErrorChunk(asked, 5, "no", 0x400)).toEqual(placed);
    expect(nbd.decodeErrorChunk(0x8002, placed.subarray(20))).toEqual({
      error: 5,
      text: "no",
      offset: 0x400,
    });
    // An unknown error type begins like the known ones.
    expect(nbd.decodeErrorChunk(0x8055, plain.subarray(20)).error).toBe(22);
    for (const [type, payload] of [
      [0x8001, "00000016 00"],
      [0x8001, "00000016 0003 6e6f"],
      [0x8002, "00000016 0002 6e6f 00000000"],
      [0x8001, "00000016 ffff 6e6f"],
      [0x0001, "00000016 0000"],
    ] as const) {
      expect(code(() => nbd.decodeErrorChunk(type, hex(payload)))).toBe("EPROTO");
    }
  });

  it("error texts end at 4096 bytes, at a character", () => {
    const chunk = nbd.encodeErrorChunk(asked, 5, "€".repeat(2000));
    const { text } = nbd.decodeErrorChunk(0x8001, chunk.subarray(20));
    expect(text).toBe("€".repeat(1365));
  });

  it("block status", () => {
    const chunk = nbd.encodeBlockStatusChunk(asked, 1, 9, [0x1000, 0, 0xffff_ffff, 3]);
    expect(chunk).toEqual(
      hex("668e33ef 0001 0005 0000000100000002 00000014 00000009 00001000 00000000 ffffffff 00000003"),
    );
    expect(nbd.decodeBlockStatusChunk(chunk.subarray(20))).toEqual({
      contextId: 9,
      descriptors: [0x1000, 0, 0xffff_ffff, 3],
    });
    for (const payload of ["", "00000009", "00000009 00001000", "00000009 00000000 00000000"]) {
      expect(code(() => nbd.decodeBlockStatusChunk(hex(payload)))).toBe("EPROTO");
    }
  });

  const long = { ...asked, extended: true };

  it("extended requests", () => {
    const bytes = hex("21e41c71 0021 0001 deadbeef80000001 0000000100000200 001fffffffffffff");
    const value = { ...header, extended: true, flags: 0x21, length: Number.MAX_SAFE_INTEGER };
    const into = Buffer.alloc(34, 0x55);
    nbd.encodeRequest(into, 1, value);
    expect(into).toEqual(Buffer.concat([hex("55"), bytes, hex("55")]));
    const decoded = { ...value, flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    expect(nbd.decodeRequest(into, 1, decoded)).toBe(true);
    expect(decoded).toEqual(value);
    // Each kind of header only where it was agreed on.
    expect(nbd.decodeRequest(into, 1, { ...decoded, extended: false })).toBe(false);
    expect(nbd.decodeRequest(hex(`25609513${"00".repeat(28)}`), 0, decoded)).toBe(false);
    for (const length of ["0020000000000000", "8000000000000000", "ffffffffffffffff"]) {
      nbd.decodeRequest(hex(`21e41c71 0020 0001 ${"00".repeat(16)} ${length}`), 0, decoded);
      expect(nbd.payloadLength(decoded)).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
    }
    expect(nbd.payloadLength({ ...value, flags: 0x1 })).toBe(0);
    expect(nbd.payloadLength({ ...value, extended: false, length: 7 })).toBe(7);
    expect(nbd.payloadLength({ ...value, extended: false, type: 7, flags: 0x20 })).toBe(0);
  });

  it("extended chunks", () => {
    const head = (type: string, length: string, flags = "0001"): string =>
      `6e8a278c ${flags} ${type} 0000000100000002 0000000000000600 ${length}`;
    const data = Buffer.alloc(40);
    nbd.encodeDataChunkHeader(data, 0, long, 1, 0x200, 4096);
    expect(data).toEqual(hex(`${head("0001", "0000000000001008")} 0000000000000200`));
    const reply = emptyReply();
    expect(nbd.replyHeaderLength(data, 0)).toBe(32);
    expect(nbd.decodeReplyHeader(data, 0, reply)).toBe(true);
    const numbers = { cookieHigh: 1, cookieLow: 2, error: 0, flags: 1, type: 1, offset: 0x600, length: 4104 };
    expect(reply).toEqual({ structured: true, extended: true, ...numbers });
    const hole = Buffer.alloc(44);
    nbd.encodeHoleChunk(hole, 0, long, 0, 0x200, 512);
    expect(hole).toEqual(hex(`${head("0002", "000000000000000c", "0000")} 0000000000000200 00000200`));
    expect(nbd.encodeErrorChunk(long, 22, "no")).toEqual(
      hex(`${head("8001", "0000000000000008")} 00000016 0002 6e6f`),
    );
    expect(nbd.encodeErrorChunk(long, 5, "no", 0x700)).toEqual(
      hex(`${head("8002", "0000000000000010")} 00000005 0002 6e6f 0000000000000700`),
    );
    nbd.decodeReplyHeader(hex(head("0001", "ffffffffffffffff")), 0, reply);
    expect(reply.length).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
  });

  it("extended block status", () => {
    const chunk = nbd.encodeBlockStatusChunk(long, 1, 9, [2 ** 42, 0, 512, 3]);
    expect(chunk).toEqual(
      hex(`6e8a278c 0001 0006 0000000100000002 0000000000000600 0000000000000028 00000009 00000002
        0000040000000000 0000000000000000 0000000000000200 0000000000000003`),
    );
    expect(nbd.decodeBlockStatusChunk(chunk.subarray(32), true)).toEqual({
      contextId: 9,
      descriptors: [2 ** 42, 0, 512, 3],
    });
    const [extent, state] = ["0000000000001000", "0000000000000003"];
    const one = `00000009 00000001 ${extent}`;
    const wrong = [
      "",
      "00000009",
      "00000009 00000000",
      "00000009 00000001",
      one,
      `${one} ${state} 00`,
    ].concat(
      `00000009 00000002 ${extent} ${state}`,
      `00000009 00000000 ${extent} ${state}`,
      `00000009 00000001 0000000000000000 ${state}`,
      `${one} 0000000100000003`,
    );
    for (const payload of wrong) {
      expect(code(() => nbd.decodeBlockStatusChunk(hex(payload), true))).toBe("EPROTO");
    }
    expect(nbd.decodeStatusQuery(hex("0000040000000000 00000001 00000007"))).toEqual({
      length: 2 ** 42,
      contextIds: [1, 7],
    });
    for (const payload of [
      "",
      "0000040000000000",
      "0000040000000000 000001",
      `${extent} 00000001 00000001`,
    ]) {
      expect(code(() => nbd.decodeStatusQuery(hex(payload)))).toBe("EPROTO");
    }
  });

  it("tells that something is no reply", () => {
    expect(nbd.replyHeaderLength(hex("25609513"), 0)).toBe(0);
    expect(nbd.decodeReplyHeader(Buffer.alloc(20), 0, emptyReply())).toBe(false);
  });
});

describe("error numbers", () => {
  it("every code has one, and those of the protocol come back as themselves", () => {
    for (const errorCode of Object.keys(errorCodes)) {
      expect(Object.values(nbd.ERRNO)).toContain(nbd.errnoOf(errorCode as keyof typeof errorCodes));
    }
    for (const [name, number] of Object.entries(nbd.ERRNO)) expect(nbd.codeOfErrno(number)).toBe(name);
  });

  it("maps by the book", () => {
    expect([nbd.errnoOf("EROFS"), nbd.errnoOf("EIO"), nbd.errnoOf("EFORMAT")]).toEqual([1, 5, 5]);
    expect([nbd.codeOfErrno(999), nbd.codeOfErrno(4)]).toEqual(["EINVAL", "EINVAL"]);
  });
});

describe("any bytes", () => {
  const decoders: ((bytes: Buffer) => unknown)[] = [
    nbd.decodeInfoRequest,
    nbd.decodeMetaContextRequest,
    nbd.decodeExportName,
    nbd.decodeServerEntry,
    nbd.decodeInfoReply,
    nbd.decodeMetaContextReply,
    nbd.decodeHoleChunk,
    (bytes) => nbd.decodeBlockStatusChunk(bytes),
    (bytes) => nbd.decodeBlockStatusChunk(bytes, true),
    nbd.decodeStatusQuery,
    (bytes) => nbd.decodeErrorChunk(0x8001, bytes),
    (bytes) => nbd.decodeErrorChunk(0x8002, bytes),
  ];

  it("a decoder returns or throws EPROTO, nothing else", () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 64 }),
      // Small numbers in the right places get further.
      fc
        .array(fc.constantFrom(0, 0, 0, 1, 2, 4, 5, 58, 97), { maxLength: 64 })
        .map((all) => Uint8Array.from(all)),
    );
    fc.assert(
      fc.property(bytes, (data) => {
        for (const decode of decoders) {
          expect(["none", "EPROTO"]).toContain(code(() => decode(Buffer.from(data))));
        }
      }),
      { numRuns: runs(400) },
    );
  });

  it("what is encoded is decoded", () => {
    const name = fc.string({ unit: "grapheme", maxLength: 40 }).filter((text) => !text.includes("\0"));
    fc.assert(
      fc.property(
        name,
        fc.array(fc.nat(65535), { maxLength: 8 }),
        fc.array(name, { maxLength: 8 }),
        (text, list, queries) => {
          const info = { name: text, requests: list };
          expect(nbd.decodeInfoRequest(nbd.encodeInfoRequest(info))).toEqual(info);
          const contexts = { exportName: text, queries };
          expect(nbd.decodeMetaContextRequest(nbd.encodeMetaContextRequest(contexts))).toEqual(contexts);
        },
      ),
    );
  });
});

function emptyReply(): nbd.ReplyHeader {
  const numbers = { cookieHigh: 0, cookieLow: 0, error: 0, flags: 0, type: 0, offset: 0, length: 0 };
  return { structured: false, extended: false, ...numbers };
}
