/** Extended headers of the client: bytes written by hand, nothing cut that need not be, servers that break the rules. */
import { once } from "node:events";
import { type Socket, createServer } from "node:net";
import { BlockIoError, type Extent, wholeStory } from "@dmkit/block-io";
import { afterEach, describe, expect, it } from "vitest";
import { type NbdDevice, NbdServer, nbdInfo, openNbd } from "../src/index.ts";
import {
  CHUNK,
  CMD,
  ERRNO,
  FLAG,
  OPT,
  REP,
  type RequestHeader,
  encodeErrorChunk,
  encodeOptionError,
} from "../src/protocol.ts";
import {
  type Behaviour,
  COMMON_FLAGS,
  CONTEXT_ID,
  FakeServer,
  chunk,
  dataChunk,
  okReply,
  statusReply,
} from "./client-fake-server.ts";
import { freshSocket, uriOf } from "./client-servers.ts";
import { VastDevice } from "./support/devices.ts";
import { pattern } from "./support/serve.ts";

const GiB = 1024 ** 3;
const TiB = 1024 * GiB;
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ""), "hex");

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const work of cleanups.splice(0).toReversed()) await work().catch(() => {});
});

async function opened(uri: string, options = {}): Promise<NbdDevice> {
  const device = await openNbd(uri, { reconnect: "off", ...options });
  cleanups.push(() => device.close());
  return device;
}

async function fake(behaviour: Partial<Behaviour> = {}): Promise<FakeServer> {
  const server = await new FakeServer({ extended: true, ...behaviour }).start();
  cleanups.push(() => server.stop());
  return server;
}

async function ours(device: VastDevice): Promise<{ server: NbdServer; uri: string }> {
  const server = new NbdServer();
  server.addExport({ name: "", device });
  const path = freshSocket();
  await server.listen({ path });
  cleanups.push(() => server.close({ timeout: 0 }));
  return { server, uri: uriOf(path) };
}

async function extentsOf(device: NbdDevice, offset: number, length: number): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of device.extents(offset, length)) extents.push(extent);
  return extents;
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "none",
    (error: unknown) => (error as BlockIoError).code,
  );
}

it("sends and understands bytes written by hand", async () => {
  const disk = "0000000000000000";
  const allocation = Buffer.from("base:allocation").toString("hex");
  const head = (flags: string, type: string, cookie: string): string =>
    `6e8a278c ${flags} ${type} ${cookie} 0000010000000000`;
  // What the client says, and what it is told.
  const script: readonly (readonly [string, string])[] = [
    ["00000003 49484156454f5054 0000000b 00000000", "0003e889045565a9 0000000b 00000001 00000000"],
    [
      `49484156454f5054 0000000a 0000001b 00000000 00000001 0000000f ${allocation}`,
      `0003e889045565a9 0000000a 00000004 00000013 00000007 ${allocation}
       0003e889045565a9 0000000a 00000001 00000000`,
    ],
    [
      "49484156454f5054 00000007 0000000c 00000000 0003 0003 0001 0002",
      `0003e889045565a9 00000007 00000003 0000000c 0000 0000080000000000 006d
       0003e889045565a9 00000007 00000001 00000000`,
    ],
    [
      `21e41c71 0021 0001 0000000100000000 0000010000000000 0000000000000200 ${"5a".repeat(512)}`,
      `${head("0001", "0000", "0000000100000000")} ${disk}`,
    ],
    [
      "21e41c71 0000 0000 0000000200000000 0000010000000000 0000000000000400",
      `${head("0000", "0001", "0000000200000000")} 0000000000000208 0000010000000000 ${"5a".repeat(512)}
       ${head("0001", "0002", "0000000200000000")} 000000000000000c 0000010000000200 00000200`,
    ],
    [
      "21e41c71 0000 0004 0000000300000000 0000010000000000 0000050000000000",
      `${head("0001", "0000", "0000000300000000")} ${disk}`,
    ],
    [
      "21e41c71 0002 0006 0000000400000000 0000010000000000 0000050000000000",
      `${head("0001", "8001", "0000000400000000")} 0000000000000009 0000001c 0003 6e6f21`,
    ],
    [
      "21e41c71 0000 0007 0000000500000000 0000010000000000 0000050000000000",
      `${head("0001", "0006", "0000000500000000")} 0000000000000028 00000007 00000002
       0000030000000000 0000000000000003 0000020000000000 0000000000000000`,
    ],
    [
      "21e41c71 0000 0003 0000000600000000 0000000000000000 0000000000000000",
      "6e8a278c 0001 0000 0000000600000000 0000000000000000 0000000000000000",
    ],
    ["21e41c71 0000 0002 0000000000000000 0000000000000000 0000000000000000", ""],
  ];
  const path = freshSocket();
  const wrong: string[] = [];
  const server = createServer((socket: Socket) => {
    let heard = Buffer.alloc(0);
    let step = 0;
    socket.write(hex("4e42444d41474943 49484156454f5054 0003"));
    socket.on("data", (data) => {
      heard = Buffer.concat([heard, data]);
      for (
        let next = script[step];
        next !== undefined && heard.length >= hex(next[0]).length;
        next = script[step]
      ) {
        const expected = hex(next[0]);
        if (!heard.subarray(0, expected.length).equals(expected))
          wrong.push(`${step}: ${heard.toString("hex")}`);
        heard = heard.subarray(expected.length);
        socket.write(hex(next[1]));
        step += 1;
      }
      if (wrong.length > 0) socket.destroy();
      else if (step === script.length) socket.end();
    });
  }).listen({ path });
  await once(server, "listening");
  cleanups.push(async () => server.close());
  const device = await openNbd(uriOf(path), { reconnect: "off" });
  expect(device.extendedHeaders).toBe(true);
  await device.write(TiB, Buffer.alloc(512, 0x5a), { fua: true });
  const into = Buffer.alloc(1024, 1);
  await device.read(TiB, into);
  expect(into.equals(Buffer.concat([Buffer.alloc(512, 0x5a), Buffer.alloc(512)]))).toBe(true);
  await device.discard(TiB, 5 * TiB);
  await expect(device.writeZeroes(TiB, 5 * TiB)).rejects.toMatchObject({ code: "ENOSPC", reason: "no!" });
  expect(await extentsOf(device, TiB, 5 * TiB)).toEqual([
    { offset: TiB, length: 3 * TiB, kind: "hole" },
    { offset: 4 * TiB, length: 2 * TiB, kind: "data" },
  ]);
  await device.close();
  expect(wrong).toEqual([]);
});

describe("with our server", () => {
  it("asks for terabytes at once, and reads back what it left and what it did not", async () => {
    const vast = new VastDevice(8 * TiB);
    const { server, uri } = await ours(vast);
    const device = await opened(uri);
    const places = [0, 5 * GiB, 2 * TiB - 512, 2 * TiB, 7 * TiB, 8 * TiB - 512];
    for (const [index, place] of places.entries()) await device.write(place, pattern(512, index + 1));
    const block = Buffer.alloc(512);
    const present = async (): Promise<boolean[]> => {
      const found: boolean[] = [];
      for (const [index, place] of places.entries()) {
        await device.read(place, block);
        found.push(block.equals(pattern(512, index + 1)));
        if (!found.at(-1)) expect(block.equals(Buffer.alloc(512))).toBe(true);
      }
      return found;
    };
    expect(await present()).toEqual([true, true, true, true, true, true]);
    await device.discard(4096, 2 * TiB - 4096);
    expect(await present()).toEqual([true, false, false, true, true, true]);
    await device.writeZeroes(2 * TiB, 5 * TiB + 512, { fast: true, mayUnmap: true });
    expect(await present()).toEqual([true, false, false, false, false, true]);
    expect(await extentsOf(device, 512, 8 * TiB - 1024)).toEqual([
      { offset: 512, length: 8 * TiB - 1024, kind: "hole" },
    ]);
    // One request each.
    const { trim, writeZeroes, blockStatus } = server.statistics().exports.get("") ?? {};
    expect([trim, writeZeroes, blockStatus].map((one) => [one?.count, one?.bytes])).toEqual([
      [1, 2 * TiB - 4096],
      [1, 5 * TiB + 512],
      [1, 8 * TiB - 1024],
    ]);
    expect(await nbdInfo(uri)).toMatchObject({ extendedHeaders: true, structuredReplies: true });
  });

  it("cuts at stripes where several connections share them", async () => {
    const vast = new VastDevice(8 * 1024 ** 2);
    const device = await opened((await ours(vast)).uri, { connections: 2 });
    await device.discard(0, 3 * 1024 ** 2);
    expect(vast.calls).toHaveLength(3);
  });
});

describe("of a server that grants them", () => {
  it("what it finds too large is asked for in smaller pieces, and only the first may be fast", async () => {
    const sizes: [number, number][] = [];
    const most = [4 * GiB, 1024 ** 2 * 4];
    const server = await fake({
      size: 1024,
      onRequest: (request) => {
        if (request.type !== CMD.TRIM && request.type !== CMD.WRITE_ZEROES) return undefined;
        sizes.push([request.length, request.flags]);
        const tooMuch = request.length > (most[0] ?? 0);
        return tooMuch ? encodeErrorChunk(request, ERRNO.EOVERFLOW, "too much") : okReply(request);
      },
    });
    server.behaviour.size = 8 * GiB;
    const first = await opened(server.uri);
    await first.discard(0, 5 * GiB);
    expect(sizes.map(([length]) => length)).toEqual([5, 1, 1, 1, 1, 1].map((count) => count * GiB));
    const second = await opened(server.uri);
    sizes.length = 0;
    await second.writeZeroes(0, 6 * GiB, { fast: true, mayUnmap: true });
    expect(sizes.map(([length, flags]) => [length / GiB, flags])).toEqual([
      [6, 16],
      [1, 16],
      ...[1, 1, 1, 1, 1].map((count) => [count, 0]),
    ]);
    // Below what fits even a compact header it goes on in pieces of a WRITE.
    most.shift();
    sizes.length = 0;
    await second.discard(0, 16 * 1024 ** 2);
    expect(sizes.map(([length]) => length / 1024 ** 2)).toEqual([16, 4, 4, 4, 4]);
  });

  it("and comes back without them is another one", async () => {
    const server = await fake();
    const device = await opened(server.uri, { reconnect: 10 });
    await device.flush();
    server.behaviour.extended = false;
    server.drop();
    const error: unknown = await device.read(0, Buffer.alloc(512)).catch((caught: unknown) => caught);
    expect(wholeStory(error)).toContain("extended headers are gone");
  });

  it("and granted none before is the same server", async () => {
    const server = await fake({ extended: false });
    const device = await opened(server.uri, { reconnect: 10 });
    server.behaviour.extended = true;
    server.behaviour.flags = COMMON_FLAGS | FLAG.BLOCK_STATUS_PAYLOAD;
    server.drop();
    await device.write(512, pattern(512));
    const into = Buffer.alloc(512);
    await device.read(512, into);
    expect(into.equals(pattern(512))).toBe(true);
    expect(device.status.reconnects).toBe(1);
  });

  it("and then does not know GO breaks the protocol", async () => {
    const server = await fake({
      onOption: (option) =>
        option === OPT.GO ? encodeOptionError(option, REP.ERR_UNSUP, "what?") : undefined,
    });
    expect(await codeOf(openNbd(server.uri))).toBe("EPROTO");
  });
});

const compact = (request: RequestHeader): RequestHeader => ({ ...request, extended: false });
const body = Buffer.alloc(512, 7);
const status = hex("00000007 00000001 0000000000000200 0000000000000000");

describe("replies that break the protocol", () => {
  it.each<[string, (request: RequestHeader) => Buffer]>([
    ["a simple one", (request) => Buffer.concat([okReply(compact(request)), body])],
    ["a structured one", (request) => dataChunk(compact(request), 0, body, 1)],
    ["another offset", (request) => dataChunk({ ...request, offset: 512 }, 0, body, 1)],
    ["an offset of 2^64 - 1", (request) => dataChunk(request, 0, body, 1).fill(0xff, 16, 24)],
    ["a length of 2^64 - 1", (request) => dataChunk(request, 0, body, 1).fill(0xff, 24, 32)],
    ["a length of 2^63 + 520", (request) => dataChunk(request, 0, body, 1).fill(0x80, 24, 25)],
    ["an error of 4 GiB", (request) => chunk(request, CHUNK.ERROR, 1, body, 4 * GiB)],
    ["data outside", (request) => dataChunk(request, 512, body, 1)],
    ["a compact block status", (request) => statusReply(compact(request), [512, 0])],
  ])("READ: %s", async (_, reply) => {
    const server = await fake({
      onRequest: (request) => (request.type === CMD.READ ? reply(request) : undefined),
    });
    const device = await opened(server.uri);
    expect(await codeOf(device.read(0, Buffer.alloc(512)))).toBe("EPROTO");
  });

  it.each<[string, (request: RequestHeader) => Buffer]>([
    [
      "a type without 64 bits",
      (request) => chunk(request, CHUNK.BLOCK_STATUS, 1, hex("00000007 00000200 00000000")),
    ],
    [
      "a count that is not theirs",
      (request) => chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, Buffer.from(status).fill(2, 7, 8)),
    ],
    ["no descriptor", (request) => chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, hex("00000007 00000000"))],
    ["no bytes", (request) => chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, Buffer.from(status).fill(0, 8, 16))],
    [
      "a status of 64 bits",
      (request) => chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, Buffer.from(status).fill(1, 16, 17)),
    ],
    ["another context", (request) => statusReply(request, [512, 0], CONTEXT_ID + 1)],
    [
      "more than 2^20 descriptors",
      (request) => chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, status, 8 + 16 * (2 ** 20 + 1)),
    ],
  ])("block status: %s", async (_, reply) => {
    const server = await fake({
      onRequest: (request) => (request.type === CMD.BLOCK_STATUS ? reply(request) : undefined),
    });
    const device = await opened(server.uri);
    expect(await codeOf(extentsOf(device, 0, 512))).toBe("EPROTO");
  });

  it("extended ones that were not agreed on", async () => {
    for (const structured of [false, true]) {
      const server = await fake({ extended: false, structured });
      const device = await opened(server.uri);
      server.behaviour.onRequest = (request) => dataChunk({ ...request, extended: true }, 0, body, 1);
      expect(await codeOf(device.read(0, Buffer.alloc(512)))).toBe("EPROTO");
    }
  });

  it("a last descriptor far beyond the end is legal", async () => {
    const server = await fake({
      onRequest: (request) =>
        request.type === CMD.BLOCK_STATUS
          ? chunk(request, CHUNK.BLOCK_STATUS_EXT, 1, Buffer.from(status).fill(0xff, 8, 16))
          : undefined,
    });
    const device = await opened(server.uri);
    expect(await extentsOf(device, 0, 1024)).toEqual([{ offset: 0, length: 1024, kind: "data" }]);
  });
});
