/** Every option of the handshake: right, wrong and hostile. */
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import {
  CMD,
  FLAG,
  HANDSHAKE_FLAG,
  INFO,
  OPT,
  REP,
  decodeInfoReply,
  decodeMetaContextReply,
  decodeServerEntry,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
} from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import { ProbeDevice } from "./support/devices.ts";
import { type OptionReply, RawClient } from "./support/raw-client.ts";
import { DISK, serve, until } from "./support/serve.ts";

const types = (replies: readonly OptionReply[]): number[] => replies.map(({ type }) => type);
const final = (replies: readonly OptionReply[]): OptionReply => replies.at(-1) as OptionReply;

function expectError(replies: readonly OptionReply[], type: number): void {
  expect(types(replies)).toEqual([type]);
  // Whoever is refused is told why.
  expect(final(replies).data.length).toBeGreaterThan(5);
}

async function greeted(options: Parameters<typeof serve>[0] = {}): Promise<RawClient> {
  const { client } = await serve(options);
  const connected = await client();
  await connected.greet();
  return connected;
}

const info = (name: string, ...requests: number[]): Buffer => encodeInfoRequest({ name, requests });
const meta = (exportName: string, ...queries: string[]): Buffer =>
  encodeMetaContextRequest({ exportName, queries });

describe("greeting", () => {
  it("is fixed newstyle with NO_ZEROES", async () => {
    const { client } = await serve();
    const greeting = await (await client()).greet();
    expect(greeting.toString("latin1", 0, 16)).toBe("NBDMAGICIHAVEOPT");
    expect(greeting.readUInt16BE(16)).toBe(HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES);
  });

  it("drops clients with unknown flags", async () => {
    const { client } = await serve();
    for (const flags of [4, 0x8000_0001, 0xffff_ffff]) {
      const connected = await client();
      await connected.greet(flags >>> 0);
      await connected.closed;
    }
  });

  it("takes clients without fixed newstyle", async () => {
    const { client } = await serve();
    const connected = await client();
    await connected.greet(0);
    connected.send(encodeOption(OPT.EXPORT_NAME, Buffer.from("disk")));
    const answer = await connected.read(10 + 124);
    expect(answer.readBigUInt64BE(0)).toBe(BigInt(DISK));
    expect(answer.subarray(10)).toEqual(Buffer.alloc(124));
    expect(await connected.write(0, Buffer.alloc(512, 1))).toBe(0);
  });
});

describe("EXPORT_NAME", () => {
  it("enters the export, without zeroes", async () => {
    const client = await greeted();
    client.send(encodeOption(OPT.EXPORT_NAME, Buffer.from("disk")));
    const answer = await client.read(10);
    expect(Number(answer.readBigUInt64BE(0))).toBe(DISK);
    expect(answer.readUInt16BE(8) & FLAG.HAS_FLAGS).toBe(FLAG.HAS_FLAGS);
    expect(await client.write(512, Buffer.alloc(512, 1))).toBe(0);
  });

  it("enters the default export", async () => {
    const client = await greeted();
    client.send(encodeOption(OPT.EXPORT_NAME));
    await client.read(10);
    expect(await client.command({ type: CMD.FLUSH })).toBe(0);
  });

  it.each([
    ["an unknown name", Buffer.from("nothing")],
    ["a name over 4096 bytes", Buffer.alloc(5000, "n")],
    ["a name over the option limit", Buffer.alloc(100_000, "n")],
    ["bytes that are not UTF-8", Buffer.from([0xff, 0xfe])],
  ])("hangs up on %s", async (_, name) => {
    const client = await greeted();
    client.send(encodeOption(OPT.EXPORT_NAME, name));
    await client.closed;
  });
});

describe("ABORT", () => {
  it.each([0, 10, 100_000])("is acknowledged, with %d bytes of data", async (length) => {
    const client = await greeted();
    expect(types(await client.option(OPT.ABORT, Buffer.alloc(length)))).toEqual([REP.ACK]);
    await client.closed;
  });
});

describe("LIST", () => {
  it("names every export with its description", async () => {
    const { server, client } = await serve();
    server.addExport({ name: "second", device: new MemoryDevice(DISK), description: "another" });
    const connected = await client();
    await connected.greet();
    const replies = await connected.option(OPT.LIST);
    expect(types(replies)).toEqual([REP.SERVER, REP.SERVER, REP.ACK]);
    expect(replies.slice(0, 2).map(({ data }) => decodeServerEntry(data))).toEqual([
      { name: "disk", description: "" },
      { name: "second", description: "another" },
    ]);
  });

  it("is refused with data", async () => {
    const client = await greeted();
    expectError(await client.option(OPT.LIST, Buffer.from("x")), REP.ERR_INVALID);
    expectError(await client.option(OPT.LIST, Buffer.alloc(100_000)), REP.ERR_INVALID);
    expect(types(await client.option(OPT.LIST))).toEqual([REP.SERVER, REP.ACK]);
  });
});

describe("INFO and GO", () => {
  it("tell size and flags, and only what was asked for", async () => {
    const client = await greeted({ export: { description: "a disk" } });
    const replies = await client.option(OPT.INFO, info("disk"));
    expect(types(replies)).toEqual([REP.INFO, REP.ACK]);
    expect(decodeInfoReply(replies[0]?.data ?? Buffer.alloc(0))).toMatchObject({
      type: INFO.EXPORT,
      size: DISK,
    });
    const all = await client.option(
      OPT.INFO,
      info("", INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE, 77, INFO.NAME),
    );
    expect(all.slice(1, -1).map(({ data }) => decodeInfoReply(data))).toEqual([
      { type: INFO.NAME, name: "disk" },
      { type: INFO.DESCRIPTION, description: "a disk" },
      { type: INFO.BLOCK_SIZE, minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 },
    ]);
  });

  it("GO enters the export, INFO does not", async () => {
    const client = await greeted();
    await client.negotiate(OPT.INFO, info("disk"));
    await client.negotiate(OPT.INFO, info("disk"));
    await client.negotiate(OPT.GO, info("disk"));
    expect(await client.command({ type: CMD.FLUSH })).toBe(0);
  });

  it("strict exports advertise their block size", async () => {
    const client = await greeted({
      export: { strict: true },
      device: new MemoryDevice(DISK, { logicalBlockSize: 4096 }),
    });
    const replies = await client.option(OPT.GO, info("disk", INFO.BLOCK_SIZE));
    expect(decodeInfoReply(replies[1]?.data ?? Buffer.alloc(0))).toMatchObject({
      minimum: 4096,
      preferred: 4096,
    });
  });

  it("unknown exports are refused, and the client may go on", async () => {
    const client = await greeted();
    expectError(await client.option(OPT.GO, info("nothing")), REP.ERR_UNKNOWN);
    expectError(await client.option(OPT.INFO, info("nothing", INFO.NAME)), REP.ERR_UNKNOWN);
    expect(final(await client.option(OPT.GO, info("disk"))).type).toBe(REP.ACK);
  });

  it.each([
    ["no data", ""],
    ["a name longer than the data", "000000ff6469736b0000"],
    ["a huge name", "ffffffff6469736b0000"],
    ["too few requests", "000000046469736b0002 0003"],
    ["too much data", "000000046469736b0000 00"],
    ["a NUL", "0000000464690000 0000"],
  ])("refuse %s", async (_, bytes) => {
    const client = await greeted();
    const data = Buffer.from(bytes.replaceAll(" ", ""), "hex");
    for (const option of [OPT.INFO, OPT.GO]) expectError(await client.option(option, data), REP.ERR_INVALID);
    expect(final(await client.option(OPT.GO, info("disk"))).type).toBe(REP.ACK);
  });

  it("refuse names over 4096 bytes", async () => {
    const client = await greeted();
    const data = Buffer.alloc(4 + 4097 + 2, "n");
    data.writeUInt32BE(4097);
    data.writeUInt16BE(0, 4101);
    expectError(await client.option(OPT.GO, data), REP.ERR_INVALID);
    const most = Buffer.alloc(4 + 4096 + 2, "n");
    most.writeUInt32BE(4096);
    most.writeUInt16BE(0, 4100);
    expectError(await client.option(OPT.GO, most), REP.ERR_UNKNOWN);
  });

  it("refuse data over the option limit, and drain them", async () => {
    const client = await greeted();
    expectError(await client.option(OPT.GO, Buffer.alloc(1_000_000)), REP.ERR_TOO_BIG);
    expect(final(await client.option(OPT.GO, info("disk"))).type).toBe(REP.ACK);
  });

  it("an export without a default under another name", async () => {
    const server = new NbdServer({ defaultExport: "other" });
    expect(server.limits.connections).toBe(100);
    const { client } = await serve({ defaultExport: "other" });
    const connected = await client();
    await connected.greet();
    expectError(await connected.option(OPT.GO, info("")), REP.ERR_UNKNOWN);
  });

  it("connections of one export are limited", async () => {
    const { client } = await serve({ export: { maxConnections: 1 } });
    const first = await (await client()).go("disk");
    const second = await client();
    await second.greet();
    expectError(await second.option(OPT.GO, info("disk")), REP.ERR_POLICY);
    first.request({ type: CMD.DISC });
    await first.closed;
    first.close();
    let replies = await second.option(OPT.GO, info("disk"));
    while (final(replies).type !== REP.ACK) replies = await second.option(OPT.GO, info("disk"));
  });
});

describe("transmission flags", () => {
  const flagsOf = async (options: Parameters<typeof serve>[0], structured = false): Promise<number> => {
    const client = await greeted(options);
    if (structured) await client.negotiate(OPT.STRUCTURED_REPLY);
    const reply = (await client.option(OPT.INFO, info("disk")))[0];
    return (decodeInfoReply(reply?.data ?? Buffer.alloc(0)) as { flags: number }).flags;
  };
  const basic = FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.CAN_MULTI_CONN | FLAG.SEND_CACHE;
  const full = basic | FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO;

  it("say what the device can do", async () => {
    expect(await flagsOf({})).toBe(full);
    expect(await flagsOf({}, true)).toBe(full | FLAG.SEND_DF);
    expect(await flagsOf({ device: new ProbeDevice(DISK, { fastZero: false }) })).toBe(
      full & ~FLAG.SEND_FAST_ZERO,
    );
    expect(await flagsOf({ device: new ProbeDevice(DISK, { discard: "none" }) })).toBe(
      full & ~FLAG.SEND_TRIM,
    );
    expect(await flagsOf({ export: { readOnly: true } })).toBe(basic | FLAG.READ_ONLY);
    // Who is told so opens several connections, and would be refused the second.
    expect(await flagsOf({ export: { maxConnections: 1 } })).toBe(full & ~FLAG.CAN_MULTI_CONN);
    expect(await flagsOf({ limits: { connections: 1 } })).toBe(full & ~FLAG.CAN_MULTI_CONN);
    expect(await flagsOf({ export: { maxConnections: 2 } })).toBe(full);
    expect(await flagsOf({ device: new ProbeDevice(DISK, { readOnly: true }) })).toBe(basic | FLAG.READ_ONLY);
  });
});

describe("STRUCTURED_REPLY", () => {
  it("is acknowledged, refused with data", async () => {
    const client = await greeted();
    expectError(await client.option(OPT.STRUCTURED_REPLY, Buffer.from("x")), REP.ERR_INVALID);
    expect(types(await client.option(OPT.STRUCTURED_REPLY))).toEqual([REP.ACK]);
  });
});

describe("metadata contexts", () => {
  const structured = async (options: Parameters<typeof serve>[0] = {}): Promise<RawClient> => {
    const client = await greeted(options);
    await client.negotiate(OPT.STRUCTURED_REPLY);
    return client;
  };
  const names = (replies: readonly OptionReply[]): string[] =>
    replies.slice(0, -1).map(({ data }) => decodeMetaContextReply(data).name);

  it("need structured replies", async () => {
    const client = await greeted();
    for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
      expectError(await client.option(option, meta("disk", "base:allocation")), REP.ERR_INVALID);
    }
  });

  it("LIST: all, by name, by wildcard", async () => {
    const client = await structured();
    const list = async (...queries: string[]): Promise<string[]> =>
      names(await client.option(OPT.LIST_META_CONTEXT, meta("disk", ...queries)));
    expect(await list()).toEqual(["base:allocation"]);
    expect(await list("base:")).toEqual(["base:allocation"]);
    expect(await list("base:allocation", "base:")).toEqual(["base:allocation"]);
    expect(await list("base:other", "x-none:", "qemu:dirty-bitmap:x")).toEqual([]);
  });

  it("SET: by name only", async () => {
    const client = await structured();
    const set = async (...queries: string[]): Promise<string[]> =>
      names(await client.option(OPT.SET_META_CONTEXT, meta("disk", ...queries)));
    expect(await set("base:allocation", "x-none:y")).toEqual(["base:allocation"]);
    expect(await set()).toEqual([]);
    expect(await set("base:")).toEqual([]);
  });

  it("are pluggable, with ids of their own", async () => {
    const layer = {
      name: "dmkit:layer",
      async *describe(_: unknown, __: number, length: number) {
        yield { length, status: 7 };
      },
    };
    const client = await structured({ export: { metaContexts: [layer] } });
    const replies = await client.option(OPT.SET_META_CONTEXT, meta("disk", "dmkit:layer", "base:allocation"));
    const contexts = replies.slice(0, -1).map(({ data }) => decodeMetaContextReply(data));
    expect(contexts.map(({ name }) => name)).toEqual(["dmkit:layer", "base:allocation"]);
    expect(new Set(contexts.map(({ id }) => id)).size).toBe(2);
    expect(names(await client.option(OPT.LIST_META_CONTEXT, meta("disk", "dmkit:")))).toEqual([
      "dmkit:layer",
    ]);
  });

  it("are those there are when a client asks, each told once", async () => {
    const epochs = ["qemu:dirty-bitmap:a"];
    const metaContexts = (): { name: string; describe: () => AsyncIterable<never> }[] =>
      epochs.map((name) => ({ name, async *describe() {} }));
    const client = await structured({ export: { metaContexts } });
    const listed = async (...queries: string[]): Promise<string[]> =>
      names(await client.option(OPT.LIST_META_CONTEXT, meta("disk", ...queries)));
    expect(await listed()).toEqual(["base:allocation", "qemu:dirty-bitmap:a"]);
    epochs.push("qemu:dirty-bitmap:b");
    for (const query of ["qemu:", "qemu:dirty-bitmap:"])
      expect(await listed(query, "qemu:dirty-bitmap:b")).toEqual(epochs);
    epochs.shift();
    expect(await listed("qemu:dirty-bitmap:a")).toEqual([]);
  });

  it("are refused for unknown exports, malformed queries and inconsistent lengths", async () => {
    const client = await structured();
    for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
      expectError(await client.option(option, meta("nothing", "base:")), REP.ERR_UNKNOWN);
      expectError(await client.option(option, meta("disk", "allocation")), REP.ERR_INVALID);
      expectError(await client.option(option), REP.ERR_INVALID);
      expectError(
        await client.option(option, Buffer.from("000000046469736bffffffff", "hex")),
        REP.ERR_INVALID,
      );
      expectError(
        await client.option(option, Buffer.concat([meta("disk"), Buffer.alloc(1)])),
        REP.ERR_INVALID,
      );
      expectError(await client.option(option, Buffer.alloc(1_000_000)), REP.ERR_TOO_BIG);
    }
  });

  it("a failed SET clears the set before it", async () => {
    for (const wrong of [meta("nothing", "base:allocation"), Buffer.alloc(3), Buffer.alloc(100_000)]) {
      const client = await structured();
      await client.negotiate(OPT.SET_META_CONTEXT, meta("disk", "base:allocation"));
      await client.option(OPT.SET_META_CONTEXT, wrong);
      await client.negotiate(OPT.GO, info("disk"));
      client.structured = true;
      expect(await client.command({ type: CMD.BLOCK_STATUS, length: 512 })).toBe(22);
    }
  });

  it("count only for the export they were chosen for", async () => {
    const { server, client } = await serve();
    server.addExport({ name: "second", device: new MemoryDevice(DISK) });
    for (const [name, error] of [
      ["second", 22],
      ["disk", 0],
      ["", 0],
    ] as const) {
      const connected = await client();
      await connected.greet();
      await connected.negotiate(OPT.STRUCTURED_REPLY);
      await connected.negotiate(OPT.SET_META_CONTEXT, meta("disk", "base:allocation"));
      await connected.negotiate(OPT.GO, info(name));
      expect(await connected.command({ type: CMD.BLOCK_STATUS, length: 512 })).toBe(error);
    }
  });
});

describe("options that are not served", () => {
  it.each([
    ["STARTTLS", OPT.STARTTLS, 0, REP.ERR_UNSUP],
    ["STARTTLS with data", OPT.STARTTLS, 4, REP.ERR_INVALID],
    ["EXTENDED_HEADERS with data", OPT.EXTENDED_HEADERS, 4, REP.ERR_INVALID],
    ["EXTENDED_HEADERS with much data", OPT.EXTENDED_HEADERS, 100_000, REP.ERR_INVALID],
    ["PEEK_EXPORT", OPT.PEEK_EXPORT, 0, REP.ERR_UNSUP],
    ["an unknown one", 0x1234_5678, 0, REP.ERR_UNSUP],
    ["an unknown one with data", 0xffff_ffff, 100, REP.ERR_UNSUP],
    ["an unknown one with much data", 999, 1_000_000, REP.ERR_UNSUP],
  ])("%s", async (_, option, length, type) => {
    const client = await greeted();
    expectError(await client.option(option, Buffer.alloc(length)), type);
    await client.negotiate(OPT.GO, info("disk"));
  });
});

describe("hostile handshakes", () => {
  it("a bad option magic is the end", async () => {
    const client = await greeted();
    client.send(Buffer.from("not the magic number"));
    await client.closed;
  });

  it("a request before an export was entered is the end", async () => {
    const client = await greeted();
    client.send(RawClient.request({ type: CMD.READ, length: 512 }));
    await client.closed;
  });

  it("a request behind an option that fails is the end", async () => {
    const client = await greeted();
    client.send(
      Buffer.concat([encodeOption(OPT.GO, info("nothing")), RawClient.request({ type: CMD.FLUSH })]),
    );
    expectError(await client.replies(), REP.ERR_UNKNOWN);
    await client.closed;
  });

  it("one byte at a time works", async () => {
    const { client } = await serve();
    const connected = await client();
    (connected.stream as import("node:net").Socket).setNoDelay(true);
    const all = Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      encodeOption(OPT.STRUCTURED_REPLY),
      encodeOption(OPT.GO, info("disk", INFO.BLOCK_SIZE)),
    ]);
    await connected.read(18);
    for (const byte of all) {
      connected.send(Buffer.from([byte]));
      await new Promise(setImmediate);
    }
    expect(types(await connected.replies())).toEqual([REP.ACK]);
    expect(types(await connected.replies())).toEqual([REP.INFO, REP.INFO, REP.ACK]);
  });

  it("time, options and bytes are limited", async () => {
    const { client } = await serve({
      limits: { handshakeTime: 50, handshakeOptions: 10, handshakeBytes: 20_000 },
    });
    const silent = await client();
    await silent.closed;
    const flood = await client();
    await flood.greet();
    for (let count = 0; count < 11; count += 1) flood.send(encodeOption(OPT.LIST));
    await flood.closed;
    const fat = await client();
    await fat.greet();
    fat.send(encodeOption(999, Buffer.alloc(20_001)).subarray(0, 100));
    await fat.closed;
  });

  it("a client that reads no option replies is not read either, then dropped", async () => {
    const { server, client } = await serve({
      limits: { handshakeTime: 500, handshakeOptions: 1_000_000, handshakeBytes: 1_000_000_000 },
    });
    server.addExport({
      name: "n".repeat(4000),
      device: new MemoryDevice(DISK),
      description: "d".repeat(4000),
    });
    const connected = await client();
    await connected.greet();
    connected.stream.pause();
    const options = Buffer.concat(Array.from({ length: 1000 }, () => encodeOption(OPT.LIST)));
    const before = process.memoryUsage().rss;
    let taken = 0;
    for (let count = 0; count < 200; count += 1) {
      connected.stream.write(options, (error) => (taken += error ? 0 : 1));
    }
    // 200,000 lists would be 1.6 GB of replies.
    await until(() => server.statistics().connections === 0);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
    expect(taken).toBeLessThan(200);
  });

  it("a client that closes its side gets its answers", async () => {
    const { client } = await serve();
    const connected = await client();
    connected.stream.end(Buffer.concat([Buffer.from([0, 0, 0, 3]), encodeOption(OPT.LIST)]));
    await connected.read(18);
    expect(types(await connected.replies())).toEqual([REP.SERVER, REP.ACK]);
    await connected.closed;
  });
});
