/** Servers that break the protocol: refused in the handshake, hung up on later, and never believed. */
import { once } from "node:events";
import { type Socket, createServer } from "node:net";
import { BlockIoError, type ErrorCode } from "@dmkit/block-io";
import { afterEach, describe, expect, it } from "vitest";
import { type NbdClientOptions, type NbdDevice, listNbdExports, nbdInfo, openNbd } from "../src/index.ts";
import {
  CHUNK,
  CMD,
  ERRNO,
  FLAG,
  OPT,
  REP,
  REPLY_FLAG,
  type RequestHeader,
  encodeErrorChunk,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeMetaContextReply,
  encodeOptionError,
  encodeOptionReply,
} from "../src/protocol.ts";
import {
  type Behaviour,
  COMMON_FLAGS,
  FakeServer,
  chunk,
  dataChunk,
  okReply,
  readReply,
  statusReply,
} from "./client-fake-server.ts";
import { freshSocket, uriOf, until } from "./client-servers.ts";

const OFFSET = 4096;
const LENGTH = 2048;
const servers: FakeServer[] = [];
const devices: NbdDevice[] = [];

afterEach(async () => {
  await Promise.all(devices.splice(0).map((device) => device.close().catch(() => {})));
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

async function fake(behaviour: Partial<Behaviour> = {}): Promise<FakeServer> {
  const server = await new FakeServer(behaviour).start();
  servers.push(server);
  return server;
}

async function opened(server: FakeServer, options: NbdClientOptions = {}): Promise<NbdDevice> {
  const device = await openNbd(server.uri, { reconnect: "off", ...options });
  devices.push(device);
  return device;
}

async function codeOf(promise: Promise<unknown>): Promise<ErrorCode | "none"> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(BlockIoError);
    return (error as BlockIoError).code;
  }
  return "none";
}

const bytes = (...values: number[]): Buffer => Buffer.from(values);
const u64 = (value: bigint): Buffer => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(value);
  return buffer;
};
const u32 = (value: number): Buffer => {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
};
const data = (length: number): Buffer => Buffer.alloc(length, 0xab);
const at = (offset: number): Buffer => u64(BigInt(offset));

/** Answers to a READ of LENGTH bytes at OFFSET that must not be accepted. */
const badReads: Readonly<Record<string, (request: RequestHeader) => Buffer>> = {
  "no magic number": () => Buffer.alloc(32),
  "an unknown cookie": (request) =>
    readReply({ ...request, cookieHigh: request.cookieHigh + 1 }, data(LENGTH), true),
  "an unknown slot": (request) => readReply({ ...request, cookieLow: 999_999 }, data(LENGTH), true),
  "a simple reply": (request) => Buffer.concat([okReply(request), data(LENGTH)]),
  "too much data": (request) => dataChunk(request, OFFSET, data(LENGTH + 1), 1),
  "data before the range": (request) => dataChunk(request, OFFSET - 512, data(512), 0),
  "data across the end": (request) => dataChunk(request, OFFSET + 512, data(LENGTH), 1),
  "data after the range": (request) => dataChunk(request, OFFSET + LENGTH, data(1), 1),
  "data at 2^64 - 1": (request) =>
    chunk(request, CHUNK.OFFSET_DATA, 1, Buffer.concat([u64(0xffff_ffff_ffff_ffffn), data(512)])),
  "data without data": (request) => chunk(request, CHUNK.OFFSET_DATA, 1, at(OFFSET)),
  "data of 4 GiB": (request) => chunk(request, CHUNK.OFFSET_DATA, 1, at(OFFSET), 0xffff_ffff),
  "data twice": (request) =>
    Buffer.concat([dataChunk(request, OFFSET, data(LENGTH), 0), dataChunk(request, OFFSET, data(LENGTH), 1)]),
  "overlapping pieces": (request) =>
    Buffer.concat([
      dataChunk(request, OFFSET, data(1024), 0),
      dataChunk(request, OFFSET + 512, data(1536), 1),
    ]),
  "a gap": (request) =>
    Buffer.concat([
      dataChunk(request, OFFSET, data(512), 0),
      dataChunk(request, OFFSET + 1024, data(1024), 1),
    ]),
  "the end missing": (request) => dataChunk(request, OFFSET, data(LENGTH - 512), REPLY_FLAG.DONE),
  "nothing at all": (request) => chunk(request, CHUNK.NONE, REPLY_FLAG.DONE, bytes()),
  "an unfinished nothing": (request) => chunk(request, CHUNK.NONE, 0, bytes()),
  "a nothing with payload": (request) => chunk(request, CHUNK.NONE, REPLY_FLAG.DONE, bytes(1)),
  "a hole outside": (request) => chunk(request, CHUNK.OFFSET_HOLE, 1, Buffer.concat([at(0), u32(LENGTH)])),
  "a hole too long": (request) =>
    chunk(request, CHUNK.OFFSET_HOLE, 1, Buffer.concat([at(OFFSET), u32(LENGTH + 1)])),
  "an empty hole": (request) => chunk(request, CHUNK.OFFSET_HOLE, 1, Buffer.concat([at(OFFSET), u32(0)])),
  "half a hole": (request) => chunk(request, CHUNK.OFFSET_HOLE, 1, at(OFFSET)),
  "a hole with a tail": (request) => chunk(request, CHUNK.OFFSET_HOLE, 1, data(16)),
  "a chunk of an unknown type": (request) => chunk(request, 77, REPLY_FLAG.DONE, data(4)),
  "block status": (request) => statusReply(request, [LENGTH, 0]),
  "an error of 0": (request) => encodeErrorChunk(request, 0, "fine"),
  "an error too short": (request) => chunk(request, CHUNK.ERROR, 1, bytes(0, 0, 0)),
  "an error whose text is too long": (request) => chunk(request, CHUNK.ERROR, 1, bytes(0, 0, 0, 5, 0, 9, 65)),
  "an endless error": (request) => chunk(request, CHUNK.ERROR, 1, bytes(), 0x7fff_ffff),
};

const badStatuses: Readonly<Record<string, (request: RequestHeader) => Buffer>> = {
  "another context": (request) => statusReply(request, [LENGTH, 0], 8),
  "no descriptor": (request) => chunk(request, CHUNK.BLOCK_STATUS, 1, u32(7)),
  "half a descriptor": (request) => chunk(request, CHUNK.BLOCK_STATUS, 1, data(8)),
  "an empty descriptor": (request) => statusReply(request, [0, 0]),
  "too many descriptors": (request) => chunk(request, CHUNK.BLOCK_STATUS, 1, bytes(), 0x7fff_fffc),
  "status twice": (request) => {
    const first = statusReply(request, [LENGTH, 0]);
    first.writeUInt16BE(0, 4);
    return Buffer.concat([first, statusReply(request, [LENGTH, 0])]);
  },
  data: (request) => dataChunk(request, OFFSET, data(LENGTH), 1),
  nothing: (request) => chunk(request, CHUNK.NONE, REPLY_FLAG.DONE, bytes()),
  "a simple reply": (request) => okReply(request),
};

describe("replies that break the protocol", () => {
  it("block status: more than 2^20 descriptors", async () => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) =>
      chunk(request, CHUNK.BLOCK_STATUS, 1, bytes(), 12 + 8 * 2 ** 20);
    await expect(device.extents(OFFSET, LENGTH)[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: "EPROTO",
    });
  });

  it.each(Object.entries(badReads))("read: %s", async (_name, reply) => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) => (request.type === CMD.READ ? reply(request) : undefined);
    const into = Buffer.alloc(LENGTH);
    expect(await codeOf(device.read(OFFSET, into))).toBe("EPROTO");
    expect(await codeOf(device.read(OFFSET, into))).toBe("EPROTO");
  });

  it.each(Object.entries(badStatuses))("block status: %s", async (_name, reply) => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) =>
      request.type === CMD.BLOCK_STATUS ? reply(request) : undefined;
    const collect = async (): Promise<void> => {
      for await (const extent of device.extents(OFFSET, LENGTH)) expect(extent.length).toBeGreaterThan(0);
    };
    expect(await codeOf(collect())).toBe("EPROTO");
  });

  it("write: data, hole and status chunks", async () => {
    for (const reply of [
      (request: RequestHeader) => dataChunk(request, OFFSET, data(LENGTH), 1),
      (request: RequestHeader) =>
        chunk(request, CHUNK.OFFSET_HOLE, 1, Buffer.concat([at(OFFSET), u32(LENGTH)])),
      (request: RequestHeader) => statusReply(request, [LENGTH, 0]),
    ]) {
      const server = await fake({
        onRequest: (request) => (request.type === CMD.WRITE ? reply(request) : undefined),
      });
      const device = await opened(server);
      expect(await codeOf(device.write(OFFSET, data(LENGTH)))).toBe("EPROTO");
    }
  });

  it("chunks that were not agreed on", async () => {
    const server = await fake({ structured: false });
    const device = await opened(server);
    server.behaviour.onRequest = (request) => dataChunk(request, OFFSET, data(LENGTH), 1);
    expect(await codeOf(device.read(OFFSET, data(LENGTH)))).toBe("EPROTO");
  });

  it("a second answer to a request", async () => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) =>
      Buffer.concat([readReply(request, data(LENGTH), true), readReply(request, data(LENGTH), true)]);
    expect(await codeOf(device.read(OFFSET, data(LENGTH)))).toBe("none");
    expect(await codeOf(device.read(OFFSET, data(LENGTH)))).toBe("EPROTO");
  });

  it("is retried after reconnecting, and given up in time", async () => {
    const server = await fake();
    const device = await opened(server, { reconnect: 30 });
    let bad = 3;
    server.behaviour.onRequest = (request) => {
      bad -= 1;
      return bad >= 0 ? Buffer.alloc(16, bad) : readReply(request, data(LENGTH), true);
    };
    const into = Buffer.alloc(LENGTH);
    await device.read(OFFSET, into);
    expect(into.equals(data(LENGTH))).toBe(true);
    expect(device.status.reconnects).toBe(3);
    server.behaviour.onRequest = () => undefined;
    await device.close();
    const hasty = await opened(server, { reconnect: 0.3 });
    server.behaviour.onRequest = () => Buffer.alloc(16, 1);
    const error = await hasty.read(OFFSET, into).catch((caught: unknown) => caught as BlockIoError);
    expect(error?.code).toBe("EPROTO");
    expect(await codeOf(hasty.read(OFFSET, into))).toBe("EPROTO");
  });
});

describe("replies that are unusual and legal", () => {
  it("pieces and holes in any order", async () => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) =>
      Buffer.concat([
        dataChunk(request, OFFSET + 1024, Buffer.alloc(512, 3), 0),
        dataChunk(request, OFFSET, Buffer.alloc(100, 1), 0),
        chunk(request, CHUNK.OFFSET_HOLE, 0, Buffer.concat([at(OFFSET + 1536), u32(512)])),
        dataChunk(request, OFFSET + 100, Buffer.alloc(924, 2), 0),
        chunk(request, CHUNK.NONE, REPLY_FLAG.DONE, bytes()),
      ]);
    const into = Buffer.alloc(LENGTH, 0xee);
    await device.read(OFFSET, into);
    const parts = [Buffer.alloc(100, 1), Buffer.alloc(924, 2), Buffer.alloc(512, 3), Buffer.alloc(512, 0)];
    expect(into.equals(Buffer.concat(parts))).toBe(true);
  });

  it.each<[string, (request: RequestHeader) => Buffer, ErrorCode]>([
    ["an error", (r) => encodeErrorChunk(r, ERRNO.ENOMEM, "no room"), "ENOMEM"],
    ["an error with offset", (r) => encodeErrorChunk(r, ERRNO.EIO, "bad", OFFSET), "EIO"],
    ["an unknown errno", (r) => encodeErrorChunk(r, 12_345, "odd"), "EINVAL"],
    ["an unknown kind of error", (r) => chunk(r, 0x8123, 1, bytes(0, 0, 0, 5, 0, 0, 9, 9, 9)), "EIO"],
    [
      "an error in the middle of data",
      (r) => Buffer.concat([dataChunk(r, OFFSET, data(512), 0), encodeErrorChunk(r, ERRNO.EIO, "bad")]),
      "EIO",
    ],
    ["permission denied", (r) => encodeErrorChunk(r, ERRNO.EPERM, "no"), "EPERM"],
  ])("%s", async (_name, reply, code) => {
    const server = await fake();
    const device = await opened(server);
    server.behaviour.onRequest = (request) => (request.type === CMD.READ ? reply(request) : undefined);
    expect(await codeOf(device.read(OFFSET, data(LENGTH)))).toBe(code);
    server.behaviour.onRequest = () => undefined;
    expect(await codeOf(device.read(OFFSET, data(LENGTH)))).toBe("none");
  });
});

describe("handshakes", () => {
  const go = (...replies: Buffer[]): Partial<Behaviour> => ({
    onOption: (option) =>
      option === OPT.GO ? Buffer.concat([...replies, encodeOptionReply(OPT.GO, REP.ACK)]) : undefined,
  });
  const info = (size: number, flags: number): Buffer =>
    encodeOptionReply(OPT.GO, REP.INFO, encodeInfoExport(size, flags));
  const sizes = (minimum: number, preferred: number, maximumPayload: number): Buffer =>
    encodeOptionReply(OPT.GO, REP.INFO, encodeInfoBlockSize({ minimum, preferred, maximumPayload }));
  const refused = (type: number): Partial<Behaviour> => ({
    onOption: (option) => (option === OPT.GO ? encodeOptionError(OPT.GO, type, "no\u0007\n way") : undefined),
  });

  it.each<[string, Partial<Behaviour>, ErrorCode]>([
    ["no NBD server", { greeting: Buffer.from("SSH-2.0-OpenSSH_9.2p1 Debian\r\n") }, "EPROTO"],
    [
      "oldstyle",
      { greeting: Buffer.concat([Buffer.from("NBDMAGIC"), u64(0x0000420281861253n), data(136)]) },
      "EPROTO",
    ],
    ["no size", go(), "EPROTO"],
    ["a size of 2^60", go(info(2 ** 53 - 1, COMMON_FLAGS), sizes(1, 512, 2 ** 25)), "EINVAL"],
    ["no flags", go(info(4096, 0)), "EPROTO"],
    ["odd blocks", go(info(4096, COMMON_FLAGS), sizes(3, 512, 2 ** 25)), "EPROTO"],
    ["enormous blocks", go(info(4096, COMMON_FLAGS), sizes(2 ** 17, 2 ** 17, 2 ** 25)), "EPROTO"],
    ["blocks of 8 KiB", go(info(65_536, COMMON_FLAGS), sizes(8192, 8192, 2 ** 25)), "EINVAL"],
    ["a maximum below the minimum", go(info(4096, COMMON_FLAGS), sizes(4096, 4096, 512)), "EPROTO"],
    ["half a block at the end", go(info(4096 + 100, COMMON_FLAGS)), "EINVAL"],
    ["neither flush nor FUA", go(info(4096, FLAG.HAS_FLAGS)), "ENOTSUP"],
    ["a reply to another option", go(encodeOptionReply(OPT.LIST, REP.ACK)), "EPROTO"],
    ["a reply without magic", go(Buffer.alloc(20)), "EPROTO"],
    ["a reply of 4 GiB", go(Buffer.concat([info(4096, 1).subarray(0, 16), u32(0xffff_ffff)])), "EPROTO"],
    ["replies without end", go(...Array.from({ length: 2000 }, () => info(4096, COMMON_FLAGS))), "EPROTO"],
    ["unknown export", refused(REP.ERR_UNKNOWN), "ENOENT"],
    ["policy", refused(REP.ERR_POLICY), "EPERM"],
    ["TLS required", refused(REP.ERR_TLS_REQD), "EPERM"],
    ["shutting down", refused(REP.ERR_SHUTDOWN), "ESHUTDOWN"],
    ["an unknown error", refused(0x8765_4321), "EPROTO"],
    ["hanging up at GO", { onOption: (option) => (option === OPT.GO ? "drop" : undefined) }, "ENOTCONN"],
    [
      "contexts nobody asked for",
      {
        onOption: (option) =>
          option === OPT.SET_META_CONTEXT
            ? Buffer.concat([
                encodeOptionReply(option, REP.META_CONTEXT, encodeMetaContextReply({ id: 1, name: "x:y" })),
                encodeOptionReply(option, REP.ACK),
              ])
            : undefined,
      },
      "EPROTO",
    ],
  ])("%s", async (_name, behaviour, code) => {
    const server = await fake(behaviour);
    expect(await codeOf(opened(server))).toBe(code);
  });

  it("hangs up on a server that floods it, or answers before it was asked", async () => {
    const script = async (tail: Buffer): Promise<ErrorCode | "none"> => {
      const socket = freshSocket();
      const end = await scripted(socket, async (peer, read) => {
        await shakeHands(peer, read, tail);
        await read(1);
      });
      const device = await openNbd(uriOf(socket), { reconnect: "off" }).catch((error: unknown) => error);
      const code =
        device instanceof BlockIoError ? device.code : await codeOf((device as NbdDevice).read(0, data(512)));
      if (!(device instanceof BlockIoError)) await (device as NbdDevice).close().catch(() => {});
      await end();
      return code;
    };
    expect(
      await script(okReply({ flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 })),
    ).toBe("EPROTO");
    expect(await script(Buffer.alloc(3 * 1024 * 1024))).toBe("EPROTO");
  });

  it("gives up on a server that says nothing", async () => {
    const socket = freshSocket();
    const script = await scripted(socket, async (_peer, read) => void (await read(1)));
    expect(await codeOf(openNbd(uriOf(socket), { connectTimeout: 0.05 }))).toBe("ETIMEDOUT");
    expect(await codeOf(nbdInfo(uriOf(socket), { connectTimeout: 0.05 }))).toBe("ETIMEDOUT");
    await script();
  });

  it("says what is wrong when nobody is there", async () => {
    expect(await codeOf(openNbd(uriOf(freshSocket())))).toBe("ENOENT");
    expect(await codeOf(openNbd("nbd://127.0.0.1:1/"))).toBe("ENOTCONN");
    expect(await codeOf(openNbd("nbds://127.0.0.1:1/"))).toBe("ENOTCONN");
    expect(await codeOf(openNbd("nonsense"))).toBe("EPARSE");
    expect(await codeOf(openNbd("nbd://127.0.0.1:1/", { connections: 0 }))).toBe("EINVAL");
    expect(await codeOf(openNbd("nbd://127.0.0.1:1/", { reconnect: -1 }))).toBe("EINVAL");
  });

  it("opens what is odd when told so", async () => {
    const odd = await fake({ size: 4096 + 100 });
    const device = await opened(odd, { wholeBlocks: true });
    expect(device.size).toBe(4096);
    const careless = await fake({ flags: FLAG.HAS_FLAGS });
    expect(await codeOf(opened(careless))).toBe("ENOTSUP");
    const readOnly = await opened(careless, { readOnly: true });
    expect(readOnly.limits.capabilities.readOnly).toBe(true);
    const trusting = await opened(careless, { writeThrough: true });
    await trusting.write(0, data(512));
    await trusting.flush();
    expect(careless.seen.filter(({ type }) => type === CMD.FLUSH)).toEqual([]);
  });

  it("asks for FUA on every write where there is no flush", async () => {
    const server = await fake({
      flags: FLAG.HAS_FLAGS | FLAG.SEND_FUA | FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES,
    });
    const device = await opened(server);
    await device.write(0, data(512));
    await device.writeZeroes(512, 512);
    await device.discard(1024, 512);
    await device.flush();
    expect(server.seen.map(({ type, flags }) => [type, flags & 1])).toEqual([
      [CMD.WRITE, 1],
      [CMD.WRITE_ZEROES, 1],
      [CMD.TRIM, 1],
    ]);
    expect(server.stable.subarray(0, 512).equals(data(512))).toBe(true);
  });

  it("falls back step by step", async () => {
    const noGo = await fake({
      onOption: (option) => (option === OPT.GO ? encodeOptionError(option, REP.ERR_UNSUP, "") : undefined),
    });
    const plain = await fake({ handshakeFlags: 0 });
    const simple = await fake({ structured: false, blockSizes: undefined });
    for (const [server, extents] of [
      [noGo, true],
      [plain, false],
      [simple, false],
    ] as const) {
      const device = await opened(server);
      expect(device.limits.capabilities.extents).toBe(extents);
      await device.write(512, data(1024));
      const into = Buffer.alloc(1024);
      await device.read(512, into);
      expect(into.equals(data(1024))).toBe(true);
    }
  });

  it("lists and describes exports", async () => {
    const server = await fake();
    expect(await listNbdExports(server.uri)).toEqual([{ name: "", description: "a fake" }]);
    const info = await nbdInfo(server.uri);
    expect(info).toMatchObject({ size: server.behaviour.size, canFlush: true, canMultiConn: false });
    expect(await codeOf(nbdInfo(server.uri.replace("///", "///unknown")))).toBe("ENOENT");
    expect(await codeOf(listNbdExports((await fake({ handshakeFlags: 0 })).uri))).toBe("ENOTSUP");
  });

  it("end with a word: ABORT between two options, DISC where there are none any more", async () => {
    let aborts = 0;
    const server = await fake({
      onOption(option) {
        if (option === OPT.ABORT) aborts += 1;
        return undefined;
      },
    });
    const told = (words: number): Promise<void> => until(() => aborts === words);
    await listNbdExports(server.uri);
    await told(1);
    await nbdInfo(server.uri);
    await told(2);
    expect(await codeOf(openNbd(server.uri.replace("///", "///unknown")))).toBe("ENOENT");
    await told(3);
    // Its size is known only where it is used.
    server.behaviour.size = 0;
    await nbdInfo(server.uri);
    await until(() => server.seen.some(({ type }) => type === CMD.DISC));
    expect(await codeOf(listNbdExports(server.uri.replace("nbd+", "nbds+")))).toBe("ENOTSUP");
    await told(4);
  });
});

/** A server that does what a function says, for one client; the result ends it. */
async function scripted(
  path: string,
  script: (peer: Socket, read: (length: number) => Promise<Buffer>) => Promise<void>,
): Promise<() => Promise<void>> {
  const peers: Socket[] = [];
  const server = createServer((peer) => {
    peers.push(peer);
    peer.on("error", () => {});
    const read = async (length: number): Promise<Buffer> => {
      for (;;) {
        const got: unknown = peer.read(length);
        if (Buffer.isBuffer(got)) return got;
        await once(peer, "readable");
        if (peer.readableEnded || peer.destroyed) throw new Error("ended");
      }
    };
    script(peer, read).catch(() => {});
  });
  await new Promise<void>((resolve) => server.listen({ path }, resolve));
  return async () => {
    for (const peer of peers) peer.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
}

/** The shortest handshake: EXPORT_NAME on a server that is not even fixed newstyle. */
async function shakeHands(
  peer: Socket,
  read: (length: number) => Promise<Buffer>,
  tail: Buffer = Buffer.alloc(0),
): Promise<void> {
  peer.write(Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT"), bytes(0, 2)]));
  await read(4);
  await read(16);
  const answer = Buffer.alloc(10);
  answer.writeBigUInt64BE(8n * 1024n * 1024n);
  answer.writeUInt16BE(COMMON_FLAGS, 8);
  peer.write(Buffer.concat([answer, tail]));
}
