/**
 * Random and mutated bytes, to the handshake and behind it. Whatever comes in, the server lives, other
 * clients are served, nothing is written that was not asked for, and all memory comes back.
 */
import { MemoryDevice } from "@dmkit/block-io";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import {
  CMD,
  CMD_FLAG,
  OPT,
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
} from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import { RawClient } from "./support/raw-client.ts";
import { runs } from "./support/runs.ts";
import { pattern } from "./support/serve.ts";
import { streamPair } from "./support/stream-pair.ts";

const SIZE = 256 * 1024;
const RUNS = runs(150);
// The fuzzed export's neighbour, whose bytes nobody may touch.
const precious = pattern(4096, 7);

let server: NbdServer | undefined;

afterEach(async () => {
  await server?.close({ timeout: 0 });
});

async function start(): Promise<NbdServer> {
  server = new NbdServer();
  const device = new MemoryDevice(SIZE);
  await device.write(0, precious);
  server.addExport({ name: "disk", device: new MemoryDevice(SIZE) });
  server.addExport({ name: "precious", device, readOnly: true });
  return server;
}

/** Lets a client send these bytes and close its side; resolves when the server has closed the other. */
async function attack(target: NbdServer, bytes: Uint8Array, pieces: number): Promise<void> {
  const [ours, theirs] = streamPair();
  theirs.on("data", () => {});
  theirs.on("error", () => {});
  const served = target.serveStream(ours);
  const length = Math.max(1, Math.ceil(bytes.length / pieces));
  for (let at = 0; at < bytes.length; at += length) theirs.write(bytes.subarray(at, at + length));
  theirs.end();
  await served;
}

async function checkAlive(target: NbdServer): Promise<void> {
  expect(target.statistics()).toMatchObject({ connections: 0, bytesInFlight: 0 });
  const [ours, theirs] = streamPair();
  const served = target.serveStream(ours);
  const client = await new RawClient(theirs).go("precious", { structured: true });
  expect((await client.readBack(0, 4096)).data.equals(precious)).toBe(true);
  client.request({ type: CMD.DISC });
  await served;
}

const go = (name: string): Buffer => encodeOption(OPT.GO, encodeInfoRequest({ name, requests: [3] }));

const handshake = Buffer.concat([
  encodeClientFlags(3),
  encodeOption(OPT.LIST),
  encodeOption(OPT.STRUCTURED_REPLY),
  encodeOption(
    OPT.SET_META_CONTEXT,
    encodeMetaContextRequest({ exportName: "disk", queries: ["base:allocation", "x-y:z"] }),
  ),
  encodeOption(OPT.INFO, encodeInfoRequest({ name: "precious", requests: [0, 1, 2, 3] })),
  go("disk"),
]);

// The same once more, with extended headers.
const extendedHandshake = Buffer.concat([
  handshake.subarray(0, handshake.length - go("disk").length),
  encodeOption(OPT.EXTENDED_HEADERS),
  go("disk"),
]);

const wide = (fields: Parameters<typeof RawClient.request>[0]): Buffer =>
  RawClient.request({ extended: true, ...fields });

const extendedRequests = Buffer.concat([
  wide({ type: CMD.WRITE, flags: CMD_FLAG.PAYLOAD_LEN, offset: 1000, length: 3000, cookie: 1 }),
  pattern(3000),
  wide({ type: CMD.READ, offset: 0, length: 100_000, cookie: 2 }),
  wide({ type: CMD.BLOCK_STATUS, offset: 0, length: SIZE, cookie: 3 }),
  wide({ type: CMD.BLOCK_STATUS, flags: CMD_FLAG.PAYLOAD_LEN, length: 12, cookie: 4 }),
  Buffer.from("000000000000100000000001", "hex"),
  wide({ type: CMD.WRITE_ZEROES, offset: 4096, length: SIZE - 4096, cookie: 5 }),
  wide({ type: CMD.TRIM, flags: CMD_FLAG.PAYLOAD_LEN, offset: 4096, length: 100, cookie: 6 }),
  pattern(100),
  wide({ type: CMD.CACHE, offset: 0, length: 2 ** 40, cookie: 7 }),
  wide({ type: CMD.FLUSH, cookie: 8 }),
  wide({ type: CMD.DISC }),
]);

const requests = Buffer.concat([
  RawClient.request({ type: CMD.WRITE, offset: 1000, length: 3000, cookie: 1 }),
  pattern(3000),
  RawClient.request({ type: CMD.READ, offset: 0, length: 100_000, cookie: 2 }),
  RawClient.request({ type: CMD.BLOCK_STATUS, offset: 0, length: SIZE, cookie: 3 }),
  RawClient.request({ type: CMD.WRITE_ZEROES, offset: 4096, length: 8192, cookie: 4 }),
  RawClient.request({ type: CMD.TRIM, offset: 4096, length: 8192, cookie: 5 }),
  RawClient.request({ type: CMD.CACHE, offset: 0, length: 4096, cookie: 6 }),
  RawClient.request({ type: CMD.FLUSH, cookie: 7 }),
  RawClient.request({ type: CMD.WRITE, offset: SIZE, length: 100, cookie: 8 }),
  pattern(100),
  RawClient.request({ type: CMD.DISC }),
]);

const mutation = fc.record({
  at: fc.nat(5000),
  kind: fc.constantFrom("set", "insert", "remove", "number"),
  byte: fc.nat(255),
  number: fc.constantFrom(0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0200_0001, 0x0400_0001),
  count: fc.integer({ min: 1, max: 40 }),
});

function mutate(
  bytes: Buffer,
  mutations: readonly (typeof mutation extends fc.Arbitrary<infer T> ? T : never)[],
): Buffer {
  let result = Buffer.from(bytes);
  for (const { at, kind, byte, number, count } of mutations) {
    const place = at % result.length;
    if (kind === "set") result[place] = byte;
    else if (kind === "number" && place + 4 <= result.length) result.writeUInt32BE(number, place);
    else if (kind === "insert") {
      result = Buffer.concat([result.subarray(0, place), Buffer.alloc(count, byte), result.subarray(place)]);
    } else if (kind === "remove" && result.length > count) {
      result = Buffer.concat([result.subarray(0, place), result.subarray(place + count)]);
    }
  }
  return result;
}

describe("fuzzing", { timeout: 180_000 + RUNS * 100 }, () => {
  const pieces = fc.constantFrom(1, 2, 7, 100);

  it("random bytes", async () => {
    const target = await start();
    const inputs = fc.tuple(
      fc.constantFrom("", "flags", "handshake"),
      fc.uint8Array({ maxLength: 400 }),
      pieces,
    );
    await fc.assert(
      fc.asyncProperty(inputs, async ([prefix, bytes, count]) => {
        const before =
          prefix === "" ? Buffer.alloc(0) : prefix === "flags" ? encodeClientFlags(1) : handshake;
        await attack(target, Buffer.concat([before, bytes]), count);
      }),
      { numRuns: RUNS },
    );
    await checkAlive(target);
  });

  it("mutated handshakes", async () => {
    const target = await start();
    const inputs = fc.tuple(fc.array(mutation, { minLength: 1, maxLength: 4 }), pieces, fc.boolean());
    await fc.assert(
      fc.asyncProperty(inputs, async ([mutations, count, extended]) => {
        const [opening, rest] = extended ? [extendedHandshake, extendedRequests] : [handshake, requests];
        await attack(target, mutate(Buffer.concat([opening, rest]), mutations), count);
      }),
      { numRuns: RUNS },
    );
    await checkAlive(target);
  });

  it("mutated requests", async () => {
    const target = await start();
    const openings = {
      simple: Buffer.concat([encodeClientFlags(3), go("")]),
      structured: handshake,
      extended: extendedHandshake,
    };
    const kinds = fc.constantFrom("simple", "structured", "extended");
    const inputs = fc.tuple(fc.array(mutation, { minLength: 1, maxLength: 4 }), pieces, kinds);
    const before = process.memoryUsage().rss;
    await fc.assert(
      fc.asyncProperty(inputs, async ([mutations, count, kind]) => {
        const mutated = mutate(kind === "extended" ? extendedRequests : requests, mutations);
        await attack(target, Buffer.concat([openings[kind], mutated]), count);
      }),
      { numRuns: RUNS },
    );
    await checkAlive(target);
    expect(process.memoryUsage().rss - before).toBeLessThan(256 * 1024 * 1024);
  });
});
