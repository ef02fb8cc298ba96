/**
 * Large reads, whose data the system puts where they belong: any pieces, lies, and connections that break in the middle.
 */
import { BlockIoError, type ErrorCode } from "@dmkit/block-io";
import * as fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { ReplyReader } from "../src/client/wire/reply-reader.ts";
import { Request } from "../src/client/requests/request.ts";
import { type NbdClientOptions, type NbdDevice, openNbd } from "../src/index.ts";
import {
  CHUNK,
  CMD,
  ERRNO,
  REPLY_FLAG,
  type RequestHeader,
  dataChunkOverhead,
  encodeErrorChunk,
} from "../src/protocol.ts";
import {
  type Behaviour,
  FakeServer,
  chunk,
  dataChunk,
  errorReply,
  okReply,
  readReply,
} from "./client-fake-server.ts";
import { Proxy } from "./client-proxy.ts";

const KIB = 1024;
const LARGE = 512 * KIB;
const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function fake(behaviour: Partial<Behaviour> = {}): Promise<FakeServer> {
  const server = await new FakeServer(behaviour).start();
  cleanups.push(() => server.stop());
  fillWithNoise(server.current, 7);
  return server;
}

async function opened(uri: string, options: NbdClientOptions = {}): Promise<NbdDevice> {
  const device = await openNbd(uri, { reconnect: "off", ...options });
  cleanups.push(() => device.close().catch(() => {}));
  return device;
}

async function codeOf(promise: Promise<unknown>): Promise<ErrorCode | "none"> {
  return promise.then(
    () => "none" as const,
    (error: unknown) => (error as BlockIoError).code,
  );
}

/** Every byte depends on its place. */
function fillWithNoise(bytes: Buffer, seed: number): void {
  for (let at = 0, value = seed; at < bytes.length; at += 4) {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0;
    bytes.writeUInt32LE(value, at);
  }
}

const noise = Buffer.alloc(1024 * KIB);
fillWithNoise(noise, 99);
const hole = (offset: number, length: number): Buffer => {
  const payload = Buffer.alloc(12);
  payload.writeUInt32BE(offset, 4);
  payload.writeUInt32BE(length, 8);
  return payload;
};

describe("the reader of replies", () => {
  const REQUESTS = 4;
  const COMMON = 256 * KIB;

  /** A request for each length; the bytes around its buffer are its own to guard. */
  function requestsOf(lengths: readonly number[]): { request: Request; around: Buffer }[] {
    return lengths.map((length, index) => {
      const around = Buffer.alloc(length + 2 * KIB, 0xee);
      const into = around.subarray(KIB, KIB + length);
      return { request: new Request("test", CMD.READ, 0, index * 2 ** 20, length, into), around };
    });
  }

  const headerOf = (request: Request, slot: number, extended: boolean): RequestHeader => ({
    extended,
    flags: 0,
    type: 0,
    cookieHigh: 1,
    cookieLow: slot,
    offset: request.offset,
    length: request.length,
  });

  function replyTo(request: Request, slot: number, kind: "simple" | "structured" | "extended"): Buffer {
    const header = headerOf(request, slot, kind === "extended");
    const { offset, length } = request;
    if (kind === "simple") return readReply(header, noise.subarray(0, length), false);
    // Data, a hole, data.
    const first = Math.floor(length * 0.7);
    const second = first + Math.floor((length - first) / 2);
    return Buffer.concat([
      dataChunk(header, offset + second, noise.subarray(second, length), 0),
      chunk(header, CHUNK.OFFSET_HOLE, 0, hole(offset + first, second - first)),
      dataChunk(header, offset, noise.subarray(0, first), REPLY_FLAG.DONE),
    ]);
  }

  it("puts data in their places whatever pieces they come in, and nothing beside them", () => {
    const lengths = fc.array(fc.constantFrom(512, 200 * KIB, 300 * KIB, 700 * KIB), {
      minLength: REQUESTS,
      maxLength: REQUESTS,
    });
    // A large one among them: megabytes in small pieces alone take long.
    const sizes = fc
      .array(fc.constantFrom(7, 100, 4 * KIB, 100_001, 2 ** 20))
      .map((some) => [...some, 200_003]);
    const kinds = fc.constantFrom("simple" as const, "structured" as const, "extended" as const);
    fc.assert(
      fc.property(lengths, sizes, kinds, (lengths, sizes, kind) => {
        const asked = requestsOf(lengths);
        const write = new Request("test", CMD.WRITE, 0, 0, 512, Buffer.alloc(512));
        const stream = Buffer.concat([
          ...asked.map(({ request }, slot) => replyTo(request, slot, kind)),
          okReply(headerOf(write, REQUESTS, kind === "extended")),
        ]);
        const all = [...asked.map(({ request }) => request), write];
        let answered = 0;
        const reader = new ReplyReader(
          { find: (_high, low) => all[low], answered: () => (answered += 1) },
          { structured: kind !== "simple", extended: kind === "extended", allocationId: undefined },
        );
        const common = Buffer.alloc(COMMON);
        for (let at = 0, index = 0; at < stream.length; index += 1) {
          // What the system does: no more than there is room for.
          const space = reader.space(common);
          expect(space.length).toBeGreaterThan(0);
          const count = stream.copy(
            space,
            0,
            at,
            at + Math.min(sizes[index % sizes.length] as number, 2 ** 20),
          );
          reader.push(space.subarray(0, count));
          at += count;
        }
        expect(answered).toBe(REQUESTS + 1);
        for (const { request, around } of asked) {
          const expected = Buffer.from(noise.subarray(0, request.length));
          const first = Math.floor(request.length * 0.7);
          if (kind !== "simple") expected.fill(0, first, first + Math.floor((request.length - first) / 2));
          expect(request.data?.equals(expected)).toBe(true);
          expect(around.subarray(0, KIB).equals(Buffer.alloc(KIB, 0xee))).toBe(true);
          expect(around.subarray(-KIB).equals(Buffer.alloc(KIB, 0xee))).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
  });

  it("receives large data in place, and what follows in the common buffer", () => {
    const [large] = requestsOf([700 * KIB]);
    const { request } = large as { request: Request };
    const reader = new ReplyReader(
      { find: () => request, answered: () => {} },
      { structured: false, extended: false, allocationId: undefined },
    );
    const common = Buffer.alloc(COMMON);
    const reply = replyTo(request, 0, "simple");
    expect(reader.space(common)).toBe(common);
    reply.copy(common);
    reader.push(common);
    const space = reader.space(common);
    expect(space.buffer).toBe(request.data?.buffer);
    expect(space.length).toBe(reply.length - COMMON);
    reply.copy(space, 0, COMMON);
    reader.push(space);
    expect(request.data?.equals(noise.subarray(0, request.length))).toBe(true);
    expect(reader.space(common).buffer).toBe(common.buffer);
  });
});

describe("a server that lies behind a large answer", () => {
  const whole = (request: RequestHeader): Buffer =>
    readReply(request, noise.subarray(0, request.length), true);

  it.each<[string, (request: RequestHeader) => Buffer]>([
    ["the same answer again", (r) => Buffer.concat([whole(r), whole(r)])],
    ["no magic number", (r) => Buffer.concat([whole(r), Buffer.alloc(32)])],
    [
      "more data than asked for",
      (r) => dataChunk(r, r.offset, noise.subarray(0, r.length + 1), REPLY_FLAG.DONE),
    ],
    [
      "data across the end",
      (r) => dataChunk(r, r.offset + 512, noise.subarray(0, r.length), REPLY_FLAG.DONE),
    ],
    ["data twice", (r) => Buffer.concat([dataChunk(r, r.offset, noise.subarray(0, r.length), 0), whole(r)])],
    ["the end missing", (r) => dataChunk(r, r.offset, noise.subarray(0, r.length - 512), REPLY_FLAG.DONE)],
    ["a simple reply", (r) => readReply(r, noise.subarray(0, r.length), false)],
  ])("%s", async (_name, reply) => {
    const server = await fake();
    const device = await opened(server.uri);
    server.behaviour.onRequest = (request) => (request.type === CMD.READ ? reply(request) : undefined);
    const around = Buffer.alloc(LARGE + 2 * KIB, 0xee);
    const first = await codeOf(device.read(4096, around.subarray(KIB, KIB + LARGE)));
    // What was answered wholly before the lie may have succeeded; the next is not.
    expect(["none", "EPROTO"]).toContain(first);
    if (first === "none")
      expect(around.subarray(KIB, KIB + LARGE).equals(noise.subarray(0, LARGE))).toBe(true);
    expect(await codeOf(device.read(4096, Buffer.alloc(LARGE)))).toBe("EPROTO");
    expect(around.subarray(0, KIB).equals(Buffer.alloc(KIB, 0xee))).toBe(true);
    expect(around.subarray(-KIB).equals(Buffer.alloc(KIB, 0xee))).toBe(true);
  });

  it.each([true, false])("reports errors, and is read on (structured: %s)", async (structured) => {
    const server = await fake({ structured });
    const device = await opened(server.uri);
    const into = Buffer.alloc(LARGE);
    await device.read(0, into);
    server.behaviour.onRequest = (request) =>
      structured
        ? Buffer.concat([
            dataChunk(request, request.offset, noise.subarray(0, 400 * KIB), 0),
            encodeErrorChunk(request, ERRNO.EIO, "bad", 400 * KIB),
          ])
        : errorReply(request, ERRNO.EIO, false);
    expect(await codeOf(device.read(0, into))).toBe("EIO");
    server.behaviour.onRequest = () => undefined;
    await device.read(LARGE, into);
    expect(into.equals(server.current.subarray(LARGE, 2 * LARGE))).toBe(true);
  });
});

describe("a connection that breaks in the middle of a large answer", () => {
  it.each([1, 300 * KIB, LARGE - 1])(
    "is made again after %s bytes of it, and all is read anew",
    async (cut) => {
      const server = await fake();
      const proxy = await new Proxy(server.socket).start();
      cleanups.push(() => proxy.stop());
      const device = await opened(proxy.uri, { reconnect: 30 });
      const into = Buffer.alloc(LARGE);
      await device.read(0, into);
      proxy.toClient = dataChunkOverhead(false) + cut;
      // What comes after the loss is what counts.
      proxy.onCut = () => fillWithNoise(server.current, 3);
      await device.read(LARGE, into);
      expect(into.equals(server.current.subarray(LARGE, 2 * LARGE))).toBe(true);
      expect(device.status.reconnects).toBe(1);
    },
  );

  it("leaves a buffer alone once its read has failed", async () => {
    const server = await fake();
    const proxy = await new Proxy(server.socket).start();
    cleanups.push(() => proxy.stop());
    const device = await opened(proxy.uri);
    const into = Buffer.alloc(LARGE);
    proxy.toClient = 300 * KIB;
    expect(await codeOf(device.read(0, into))).toBe("ENOTCONN");
    into.fill(0xee);
    // Whatever is still on its way has arrived by then.
    const other = await opened(server.uri);
    await other.read(0, Buffer.alloc(LARGE));
    expect(into.equals(Buffer.alloc(LARGE, 0xee))).toBe(true);
  });

  it("closes with the answer half there", async () => {
    const server = await fake();
    const device = await opened(server.uri);
    server.behaviour.onRequest = (request) =>
      request.type === CMD.READ
        ? dataChunk(request, request.offset, noise.subarray(0, LARGE), REPLY_FLAG.DONE).subarray(0, 400 * KIB)
        : undefined;
    const reading = codeOf(device.read(0, Buffer.alloc(LARGE)));
    server.drop();
    expect(await reading).toBe("ENOTCONN");
    await device.close();
  });
});
