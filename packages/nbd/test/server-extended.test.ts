/** Extended headers against the server: bytes written by hand, what is refused, and what ends a connection. */
import { realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import {
  CHUNK,
  CMD,
  CMD_FLAG,
  ERRNO,
  FLAG,
  INFO,
  OPT,
  REP,
  decodeBlockStatusChunk,
  decodeInfoReply,
  encodeExportName,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
} from "../src/protocol.ts";
import { ProbeDevice, VastDevice } from "./support/devices.ts";
import { RawClient, type RequestFields } from "./support/raw-client.ts";
import { DISK, type ServeOptions, type Served, pattern, serve, until } from "./support/serve.ts";

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;
const TiB = 1024 * GiB;
// What a device is given at a time.
const PIECE = 16 * GiB;
const ALLOCATION = ["base:allocation"];
const { PAYLOAD_LEN } = CMD_FLAG;

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ""), "hex");
const u64 = (value: bigint): Buffer => hex(value.toString(16).padStart(16, "0"));

interface Connected extends Served {
  readonly raw: RawClient;
}

async function connected(
  options: ServeOptions = {},
  kind: { structured?: boolean; extended?: boolean; contexts?: readonly string[] } = { extended: true },
): Promise<Connected> {
  const served = await serve(options);
  return { ...served, raw: await (await served.client()).go("disk", kind) };
}

/** The connection is in step: it answers, and nothing else comes before the answer. */
async function expectInStep(raw: RawClient): Promise<void> {
  raw.request({ type: CMD.FLUSH, cookie: 4711 });
  expect(await raw.status()).toMatchObject({ cookie: 4711, error: 0 });
}

describe("bytes written by hand", () => {
  it("a whole conversation", async () => {
    const device = new VastDevice(8 * TiB);
    const raw = await (await serve({ device })).client();
    const says = async (answer: string): Promise<void> => {
      const expected = hex(answer);
      expect((await raw.read(expected.length)).toString("hex")).toBe(expected.toString("hex"));
    };
    await says("4e42444d41474943 49484156454f5054 0003");
    raw.send(hex("00000003 49484156454f5054 0000000b 00000000"));
    await says("0003e889045565a9 0000000b 00000001 00000000");
    const allocation = Buffer.from("base:allocation").toString("hex");
    const disk = Buffer.from("disk").toString("hex");
    raw.send(
      hex(`49484156454f5054 0000000a 0000001f 00000004 ${disk} 00000001 0000000f ${allocation}`),
      hex(`49484156454f5054 00000007 0000000a 00000004 ${disk} 0000`),
    );
    await says(`0003e889045565a9 0000000a 00000004 00000013 00000001 ${allocation}`);
    await says("0003e889045565a9 0000000a 00000001 00000000");
    // 8 TiB; all flags that were there before, and bit 12.
    await says("0003e889045565a9 00000007 00000003 0000000c 0000 0000080000000000 1ded");
    await says("0003e889045565a9 00000007 00000001 00000000");
    // WRITE: its data follow because flag 5 says so.
    raw.send(hex("21e41c71 0020 0001 0000000000000001 0000000000000200 0000000000000004 61626364"));
    await says("6e8a278c 0001 0000 0000000000000001 0000000000000200 0000000000000000");
    raw.send(hex("21e41c71 0000 0000 fedcba9800000002 0000000000000200 0000000000000004"));
    await says("6e8a278c 0001 0001 fedcba9800000002 0000000000000200 000000000000000c");
    await says("0000000000000200 61626364");
    // BLOCK_STATUS of 8 TiB.
    raw.send(hex("21e41c71 0000 0007 0000000000000003 0000000000000000 0000080000000000"));
    await says("6e8a278c 0001 0006 0000000000000003 0000000000000000 0000000000000038 00000001 00000003");
    await says("0000000000000200 0000000000000003 0000000000000200 0000000000000000");
    await says("000007fffffffc00 0000000000000003");
    // WRITE_ZEROES of 8 TiB, TRIM of 5 TiB at 1 TiB, CACHE of 8 TiB, FLUSH.
    raw.send(hex("21e41c71 0000 0006 0000000000000004 0000000000000000 0000080000000000"));
    await says("6e8a278c 0001 0000 0000000000000004 0000000000000000 0000000000000000");
    raw.send(hex("21e41c71 0001 0004 0000000000000005 0000010000000000 0000050000000000"));
    await says("6e8a278c 0001 0000 0000000000000005 0000010000000000 0000000000000000");
    raw.send(hex("21e41c71 0000 0005 0000000000000006 0000000000000000 0000080000000000"));
    await says("6e8a278c 0001 0000 0000000000000006 0000000000000000 0000000000000000");
    raw.send(hex("21e41c71 0000 0003 0000000000000007 0000000000000000 0000000000000000"));
    await says("6e8a278c 0001 0000 0000000000000007 0000000000000000 0000000000000000");
    // BLOCK_STATUS with a payload: 2 TiB, context 1.
    raw.send(hex("21e41c71 0020 0007 0000000000000008 0000000000000000 000000000000000c"));
    raw.send(hex("0000020000000000 00000001"));
    await says("6e8a278c 0001 0006 0000000000000008 0000000000000000 0000000000000018 00000001 00000001");
    await says("0000020000000000 0000000000000003");
    // A READ past the end: error 22, with a text.
    raw.send(hex("21e41c71 0000 0000 0000000000000009 0000080000000000 0000000000000200"));
    await says("6e8a278c 0001 8001 0000000000000009 0000080000000000 00000000000000");
    const [length = 0] = await raw.read(1);
    await says(`00000016 00${(length - 6).toString(16)}`);
    expect((await raw.read(length - 6)).toString()).toContain("past the end");
    const pieces = (op: string, from: number, to: number): string[] =>
      Array.from({ length: (to - from) / PIECE }, (_, piece) => `${op} ${from + piece * PIECE} ${PIECE}`);
    expect(device.calls).toEqual([
      ...pieces("extents", 0, 8 * TiB),
      ...pieces("zero", 0, 8 * TiB),
      ...pieces("discard", TiB, 6 * TiB),
      ...pieces("extents", 0, 2 * TiB),
    ]);
    raw.send(hex("21e41c71 0000 0002 000000000000000a 0000000000000000 0000000000000000"));
    await raw.closed;
    expect(raw.buffered).toBe(0);
  });

  it("a sparse READ has an extended header on every chunk, with the offset of the request", async () => {
    const { raw } = await connected();
    await raw.write(128 * 1024, pattern(64 * 1024));
    const reply = await raw.readBack(4096, 512 * 1024);
    expect(reply.chunks.map(({ extended, offset, type }) => [extended, offset, type])).toEqual(
      [CHUNK.OFFSET_HOLE, CHUNK.OFFSET_DATA, CHUNK.OFFSET_HOLE].map((type) => [true, 4096, type]),
    );
    expect(reply.data.subarray(124 * 1024, 188 * 1024).equals(pattern(64 * 1024))).toBe(true);
  });
});

describe("the handshake", () => {
  const context = encodeMetaContextRequest({ exportName: "disk", queries: ALLOCATION });
  const go = encodeInfoRequest({ name: "disk", requests: [] });

  async function flagsAfter(...options: readonly (readonly [number, Buffer?])[]): Promise<number> {
    const raw = await (await serve()).client();
    await raw.greet();
    for (const [option, data] of options) await raw.negotiate(option, data);
    const info = decodeInfoReply((await raw.negotiate(OPT.GO, go))[0]?.data ?? Buffer.alloc(0));
    if (info.type !== INFO.EXPORT) throw new Error("no information of the export");
    return info.flags & (FLAG.SEND_DF | FLAG.BLOCK_STATUS_PAYLOAD);
  }

  it("contexts may be chosen before or behind, and only then the payload of BLOCK_STATUS is offered", async () => {
    const both = FLAG.SEND_DF | FLAG.BLOCK_STATUS_PAYLOAD;
    const [extended, structured] = [[OPT.EXTENDED_HEADERS], [OPT.STRUCTURED_REPLY]] as const;
    const chosen = [OPT.SET_META_CONTEXT, context] as const;
    expect(await flagsAfter(extended)).toBe(FLAG.SEND_DF);
    expect(await flagsAfter(extended, extended, chosen)).toBe(both);
    expect(await flagsAfter(structured, extended, chosen)).toBe(both);
    expect(await flagsAfter(structured, chosen, extended)).toBe(both);
    expect(await flagsAfter(structured, chosen)).toBe(FLAG.SEND_DF);
    expect(await flagsAfter()).toBe(0);
  });

  it("what was granted is not taken back by STRUCTURED_REPLY, which is refused", async () => {
    const raw = await (await serve()).client();
    await raw.greet();
    await raw.negotiate(OPT.EXTENDED_HEADERS);
    expect((await raw.option(OPT.STRUCTURED_REPLY))[0]?.type).toBe(REP.ERR_EXT_HEADER_REQD);
    expect((await raw.option(OPT.EXTENDED_HEADERS, Buffer.alloc(1)))[0]?.type).toBe(REP.ERR_INVALID);
    await raw.negotiate(OPT.GO, go);
    raw.structured = raw.extended = true;
    await expectInStep(raw);
  });

  it("EXPORT_NAME behind it is the end", async () => {
    const raw = await (await serve()).client();
    await raw.greet();
    await raw.negotiate(OPT.EXTENDED_HEADERS);
    raw.send(encodeOption(OPT.EXPORT_NAME, encodeExportName("disk")));
    await raw.closed;
    expect(raw.buffered).toBe(0);
  });
});

const BEYOND = [2 ** 53, 2 ** 53 + 2, 2 ** 63, 0xffff_ffff * 2 ** 32 + 0xffff_f000];
const bigger = (type: number, error: number): [string, RequestFields, Buffer | undefined, number][] =>
  [...BEYOND, DISK + 512].map((length) => [
    `command ${type} of ${length}`,
    { type, length },
    undefined,
    error,
  ]);
const query = (length: bigint, ...ids: number[]): Buffer =>
  Buffer.concat([u64(length), ...ids.map((id) => hex(id.toString(16).padStart(8, "0")))]);
const asks = (payload: Buffer): [RequestFields, Buffer, number] => [
  { type: CMD.BLOCK_STATUS, flags: PAYLOAD_LEN, length: payload.length },
  payload,
  ERRNO.EINVAL,
];
const flagged = (type: number, length = 512): [RequestFields, Buffer, number] => [
  { type, flags: PAYLOAD_LEN, length },
  Buffer.alloc(length, 0x21),
  ERRNO.EINVAL,
];

describe("is refused, and the connection goes on:", () => {
  it.each<[string, RequestFields, Buffer | undefined, number]>([
    ...bigger(CMD.READ, ERRNO.EINVAL),
    ...bigger(CMD.TRIM, ERRNO.EINVAL),
    ...bigger(CMD.CACHE, ERRNO.EINVAL),
    ...bigger(CMD.BLOCK_STATUS, ERRNO.EINVAL),
    ...bigger(CMD.WRITE_ZEROES, ERRNO.ENOSPC),
    ...bigger(CMD.FLUSH, ERRNO.EINVAL),
    ...bigger(77, ERRNO.EINVAL),
    ...BEYOND.map((offset): [string, RequestFields, undefined, number] => [
      `READ at ${offset}`,
      { type: CMD.READ, offset, length: 512 },
      undefined,
      ERRNO.EINVAL,
    ]),
    [
      "WRITE past every end",
      { type: CMD.WRITE, flags: PAYLOAD_LEN, offset: 2 ** 63, length: 512 },
      pattern(512),
      28,
    ],
    [
      "a sum that comes round to 0",
      { type: CMD.TRIM, offset: 2 ** 63, length: 2 ** 63 },
      undefined,
      ERRNO.EINVAL,
    ],
    ["READ with a payload", ...flagged(CMD.READ)],
    ["FLUSH with a payload", ...flagged(CMD.FLUSH)],
    ["TRIM with a payload", ...flagged(CMD.TRIM)],
    ["TRIM with the longest payload", ...flagged(CMD.TRIM, 32 * MiB)],
    ["CACHE with a payload", ...flagged(CMD.CACHE)],
    ["WRITE_ZEROES with a payload", ...flagged(CMD.WRITE_ZEROES)],
    ["an unknown command with a payload", ...flagged(77, 100_001)],
    ["TRIM with an empty payload", ...flagged(CMD.TRIM, 0)],
    ["a payload of no contexts", ...asks(query(512n))],
    ["a payload of no length", ...asks(hex("00000001"))],
    ["an empty payload", ...asks(Buffer.alloc(0))],
    ["a payload with half an id", ...asks(Buffer.concat([query(512n), hex("0001")]))],
    ["a payload with an unknown id", ...asks(query(512n, 7))],
    ["a payload with an id twice", ...asks(query(512n, 1, 1))],
    ["a payload with more ids than there are", ...asks(query(512n, 1, 2, 3))],
    ["a payload of 1 MiB", ...asks(Buffer.alloc(MiB, 1))],
    ["a status of no bytes", ...asks(query(0n, 1))],
    ["a status past the end", ...asks(query(BigInt(DISK) + 1n, 1))],
    ["a status past every end", ...asks(query(2n ** 64n - 1n, 1))],
  ])("%s", async (_, fields, payload, errno) => {
    const device = new ProbeDevice(DISK);
    const other = { name: "x:y", async *describe() {} };
    const { raw, server } = await connected(
      { device, export: { metaContexts: [other] } },
      { extended: true, contexts: ["base:allocation", "x:y"] },
    );
    raw.request({ cookie: 1, ...fields }, payload);
    const { error, cookie, text, chunk } = await raw.status();
    expect({ error, cookie, extended: chunk.extended }).toEqual({ error: errno, cookie: 1, extended: true });
    expect(text.length).toBeGreaterThan(5);
    expect(device.calls).toEqual([]);
    await expectInStep(raw);
    await until(() => server.statistics().bytesInFlight === 0);
  });

  it("a payload for BLOCK_STATUS without contexts, and where headers are compact", async () => {
    for (const kind of [{ extended: true }, { structured: true, contexts: ALLOCATION }]) {
      const { raw } = await connected({}, kind);
      const [fields, payload, errno] = asks(query(512n, 1));
      expect(await raw.command(fields, kind.extended ? payload : undefined)).toBe(errno);
      await expectInStep(raw);
    }
  });

  it("the flag in a compact WRITE, whose data follow with or without it", async () => {
    for (const structured of [false, true]) {
      const { raw, device } = await connected({}, { structured });
      const there = Buffer.alloc(512);
      const fields = { type: CMD.WRITE, flags: PAYLOAD_LEN, length: 512 };
      expect(await raw.command(fields, pattern(512))).toBe(ERRNO.EINVAL);
      await device.read(0, there);
      expect(there.equals(Buffer.alloc(512))).toBe(true);
      await expectInStep(raw);
    }
  });

  it("a WRITE above a maximum payload of less than 32 MiB, up to that", async () => {
    const { raw } = await connected({ limits: { maximumPayload: MiB } });
    expect(await raw.write(0, Buffer.alloc(2 * MiB))).not.toBe(0);
    expect(await raw.write(0, Buffer.alloc(32 * MiB))).not.toBe(0);
    await expectInStep(raw);
  });
});

describe("ends the connection without an answer:", () => {
  const write = (length: number): RequestFields => ({ type: CMD.WRITE, flags: PAYLOAD_LEN, length });

  it.each<[string, RequestFields, { extended?: boolean; structured?: boolean }]>([
    [
      "a compact header behind an extended handshake",
      { extended: false, type: CMD.FLUSH },
      { extended: true },
    ],
    ["an extended header behind a simple handshake", { extended: true, type: CMD.FLUSH }, {}],
    [
      "an extended header behind a structured handshake",
      { extended: true, type: CMD.FLUSH },
      { structured: true },
    ],
    ["a WRITE that does not say that its data follow", { type: CMD.WRITE, length: 512 }, { extended: true }],
    ["a payload above the maximum", write(32 * MiB + 1), { extended: true }],
    ["a payload of 4 GiB", write(4 * GiB), { extended: true }],
    ["a payload of 2^53", write(2 ** 53), { extended: true }],
    ["a payload of 2^63", write(2 ** 63), { extended: true }],
    ["a payload of 2^64 - 1", write(2 ** 64), { extended: true }],
    ["as much payload with another command", { ...write(2 ** 63), type: CMD.TRIM }, { extended: true }],
    ["as much payload with BLOCK_STATUS", { ...write(2 ** 40), type: CMD.BLOCK_STATUS }, { extended: true }],
    ["as much payload with an unknown command", { ...write(2 ** 32), type: 99 }, { extended: true }],
  ])("%s", async (_, fields, kind) => {
    const device = new ProbeDevice(DISK);
    const { raw, server, client } = await connected({ device }, kind);
    const header = RawClient.request({ extended: raw.extended, ...fields });
    // What is 2^64 for a number is all ones on the wire.
    if (fields.length === 2 ** 64) header.fill(0xff, 24);
    raw.send(header, Buffer.alloc(64, 0x21));
    await raw.closed;
    expect(raw.buffered).toBe(0);
    expect(device.calls).toEqual([]);
    await until(() => server.statistics().connections === 0 && server.statistics().bytesInFlight === 0);
    await expectInStep(await (await client()).go("disk"));
  });
});

describe("BLOCK_STATUS", () => {
  const layer = {
    name: "x:layer",
    async *describe(_: unknown, __: number, length: number) {
      yield { length, status: 5 };
    },
  };

  it("tells of the contexts a payload names, in its order", async () => {
    const { raw } = await connected(
      { export: { metaContexts: [layer] } },
      { extended: true, contexts: ["base:allocation", "x:layer"] },
    );
    const told = async (payload?: Buffer, flags = 0): Promise<unknown[]> => {
      const fields =
        payload === undefined ? { length: 4096, flags } : { ...asks(payload)[0], flags: flags | PAYLOAD_LEN };
      raw.request({ type: CMD.BLOCK_STATUS, offset: 512, ...fields }, payload);
      const chunks: unknown[] = [];
      for (;;) {
        const { payload: body, flags: done, type } = await raw.reply();
        expect(type).toBe(CHUNK.BLOCK_STATUS_EXT);
        const { contextId, descriptors } = decodeBlockStatusChunk(body, true);
        chunks.push([contextId, ...descriptors]);
        if (done === 1) return chunks;
      }
    };
    expect(await told()).toEqual([
      [1, 4096, 3],
      [2, 4096, 5],
    ]);
    expect(await told(query(8192n, 2))).toEqual([[2, 8192, 5]]);
    expect(await told(query(8192n, 2, 1), CMD_FLAG.REQ_ONE)).toEqual([
      [2, 8192, 5],
      [1, 8192, 3],
    ]);
    // The next request is not narrowed any more.
    expect(await told()).toHaveLength(2);
  });

  it("of any length looks at a bounded number of extents", async () => {
    let yielded = 0;
    const crumbs = {
      name: "x:crumbs",
      async *describe() {
        for (;;) {
          yielded += 1;
          yield { length: 512, status: 1 };
        }
      },
    };
    let turns = 0;
    const defer = (callback: () => void): void => {
      turns += 1;
      realEnvironment.scheduler.defer(callback);
    };
    const { raw } = await connected(
      {
        device: new VastDevice(1024 * TiB),
        export: { metaContexts: [crumbs] },
        environment: { ...realEnvironment, scheduler: { defer } },
      },
      { extended: true, contexts: ["x:crumbs"] },
    );
    raw.request({ type: CMD.BLOCK_STATUS, length: 1024 * TiB });
    const { descriptors } = decodeBlockStatusChunk((await raw.reply()).payload, true);
    expect(descriptors).toEqual([yielded * 512, 1]);
    expect(yielded).toBeLessThanOrEqual(MiB);
    expect(turns).toBeGreaterThanOrEqual(yielded / 256 - 1);
  });
});

describe("a long range", () => {
  it.each([
    ["WRITE_ZEROES", CMD.WRITE_ZEROES],
    ["TRIM", CMD.TRIM],
  ])("of any offset and length: %s changes exactly that, whatever pieces it is done in", async (_, type) => {
    const { raw } = await connected({ device: new VastDevice(64 * GiB) });
    const places = [0, PIECE - 512, PIECE, 2 * PIECE - 512, 2 * PIECE];
    for (const place of places) await raw.write(place, pattern(512));
    expect(await raw.command({ type, flags: CMD_FLAG.FUA, offset: 3, length: 2 * PIECE + 97 })).toBe(0);
    const there: Buffer[] = [];
    for (const place of places) there.push((await raw.readBack(place, 512)).data);
    // A TRIM leaves blocks that it does not cover as they are.
    const trims = type === CMD.TRIM;
    const head = trims ? pattern(512) : pattern(512).fill(0, 3);
    const tail = trims ? pattern(512) : pattern(512).fill(0, 0, 100);
    expect(there).toEqual([head, ...[1, 2, 3].map(() => Buffer.alloc(512)), tail]);
  });
});

describe("WRITE_ZEROES that means writing them", () => {
  it("is done piece by piece, and ends when its client is hung up on", async () => {
    const device = new VastDevice(8 * TiB, { writeZeroes: "emulated" });
    const { raw, server } = await connected({ device });
    expect(await raw.command({ type: CMD.WRITE_ZEROES, length: 3 * GiB + 512 })).toBe(0);
    expect(device.calls).toEqual(
      [0, 1, 2].map((piece) => `zero ${piece * GiB} ${GiB}`).concat(`zero ${3 * GiB} 512`),
    );
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    device.gate = () => held;
    raw.request({ type: CMD.WRITE_ZEROES, length: 8 * TiB });
    await until(() => device.calls.length === 5);
    const removed = server.removeExport("disk", "hard");
    await until(() => server.statistics().connections === 0);
    release();
    await removed;
    expect(device.calls).toHaveLength(5);
  });
});
