/**
 * Random requests against a model: an array of bytes. Batches are pipelined, and requests of one batch touch
 * different bytes, though often of the same block; so every reply has one right answer.
 */
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CHUNK, CMD, CMD_FLAG, ERRNO } from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import { ProbeDevice } from "./support/devices.ts";
import { RawClient, type RequestFields } from "./support/raw-client.ts";
import { runs, timeFor } from "./support/runs.ts";
import { pattern, temporaryDirectory } from "./support/serve.ts";
import { streamPair } from "./support/stream-pair.ts";

const SIZE = 512 * 1024;
// A batch shares the disk out: request i of it stays inside slot i, which is not aligned to anything.
const SLOTS = 8;
const SLOT = Math.floor(SIZE / SLOTS / 16) - 3;

type Kind = "write" | "read" | "zero" | "trim" | "flush" | "cache" | "beyond" | "unknown";

interface Step {
  readonly kind: Kind;
  readonly start: number;
  readonly length: number;
  readonly seed: number;
  readonly far: boolean;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom<Kind>(
    "write",
    "write",
    "write",
    "read",
    "read",
    "zero",
    "trim",
    "flush",
    "cache",
    "beyond",
    "unknown",
  ),
  start: fc.nat(SLOT - 1),
  length: fc.oneof(fc.nat(16), fc.nat(SLOT)),
  seed: fc.integer({ min: 1, max: 1 << 30 }),
  far: fc.boolean(),
});

const session = fc.record({
  blockSize: fc.constantFrom(512 as const, 4096 as const),
  structured: fc.boolean(),
  extended: fc.boolean(),
  // A socket is read in another way than any other stream.
  socket: fc.boolean(),
  // Milliseconds are not needed for things to happen out of order: turns of the event loop are enough.
  slow: fc.boolean(),
  cuts: fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }),
  batches: fc.array(fc.array(step, { minLength: 1, maxLength: SLOTS }), { maxLength: 12 }),
});

function shuffledDelays(device: ProbeDevice): void {
  let turn = 0;
  device.gate = () => {
    turn = (turn * 7 + 3) % 11;
    const wait = turn % 4;
    if (wait === 0) return undefined;
    return new Promise((resolve) => {
      const count = (left: number): void => {
        if (left === 0) resolve();
        else setImmediate(() => count(left - 1));
      };
      count(wait);
    });
  };
}

async function connectTo(
  server: NbdServer,
  socket: boolean,
): Promise<{ client: RawClient; served: Promise<void> }> {
  if (!socket) {
    const [ours, theirs] = streamPair();
    return { served: server.serveStream(ours), client: new RawClient(theirs) };
  }
  const path = join(await temporaryDirectory(), "s");
  await server.listen({ path });
  const client = await RawClient.connect({ path });
  return { client, served: client.closed };
}

interface Expected {
  readonly fields: RequestFields;
  readonly payload: Buffer;
  readonly error: number;
  /** What a READ must return. */
  readonly data?: Buffer;
}

/** The request of a step, what it must be answered with, and its effect on the model. */
function expectation(
  { kind, start, length, seed, far }: Step,
  slot: number,
  model: Buffer,
  block: number,
): Expected {
  const base = slot * SLOT + (far ? SIZE / 2 : 0);
  const offset = base + start;
  const count = Math.min(length, SLOT - start);
  const fields = { cookie: slot, offset, length: count };
  const plain = { payload: Buffer.alloc(0), error: 0 };
  switch (kind) {
    case "write": {
      const payload = pattern(count, seed);
      payload.copy(model, offset);
      const flags = seed % 3 === 0 ? CMD_FLAG.FUA : 0;
      return { ...plain, fields: { ...fields, type: CMD.WRITE, flags }, payload };
    }
    case "read":
      return {
        ...plain,
        fields: { ...fields, type: CMD.READ },
        data: Buffer.from(model.subarray(offset, offset + count)),
      };
    case "zero":
      model.fill(0, offset, offset + count);
      return {
        ...plain,
        fields: { ...fields, type: CMD.WRITE_ZEROES, flags: seed % 2 === 0 ? CMD_FLAG.NO_HOLE : 0 },
      };
    case "trim": {
      // Whole blocks are let go, and read as zeroes on this device.
      const from = Math.ceil(offset / block) * block;
      const to = Math.floor((offset + count) / block) * block;
      if (to > from) model.fill(0, from, to);
      return { ...plain, fields: { ...fields, type: CMD.TRIM } };
    }
    case "flush":
      return { ...plain, fields: { cookie: slot, type: CMD.FLUSH } };
    case "cache":
      return { ...plain, fields: { ...fields, type: CMD.CACHE } };
    case "beyond": {
      const payload = Buffer.alloc(count + 1);
      return {
        ...plain,
        fields: { cookie: slot, type: CMD.WRITE, offset: SIZE - count, length: count + 1 },
        payload,
        error: ERRNO.ENOSPC,
      };
    }
    case "unknown":
      return { ...plain, fields: { ...fields, type: 8 + (seed % 60_000) }, error: ERRNO.EINVAL };
  }
}

describe("random requests", () => {
  it(
    "are answered as the model says",
    async () => {
      await fc.assert(
        fc.asyncProperty(
          session,
          async ({ blockSize, structured, extended, socket, slow, cuts, batches }) => {
            const device = new ProbeDevice(SIZE, { blockSize });
            if (slow) shuffledDelays(device);
            const server = new NbdServer();
            server.addExport({ name: "disk", device });
            const { client, served } = await connectTo(server, socket);
            await client.go("disk", { structured, extended });
            const model = Buffer.alloc(SIZE);
            for (const batch of batches) {
              const all = batch.map((one, slot) => expectation(one, slot, model, blockSize));
              sendCut(client, all, cuts);
              for (let count = 0; count < all.length; count += 1) await checkReply(client, all);
            }
            const final = await client.readBack(0, SIZE);
            expect(final.data.equals(model)).toBe(true);
            client.request({ type: CMD.DISC });
            client.stream.end();
            await served;
            await server.close();
            expect(server.statistics().bytesInFlight).toBe(0);
          },
        ),
        { numRuns: runs(60) },
      );
    },
    timeFor(30_000),
  );
});

function sendCut(client: RawClient, all: readonly Expected[], cuts: readonly number[]): void {
  const { extended } = client;
  const header = ({ flags = 0, ...fields }: RequestFields): Buffer => {
    const more = extended && fields.type === CMD.WRITE ? CMD_FLAG.PAYLOAD_LEN : 0;
    return RawClient.request({ ...fields, extended, flags: flags | more });
  };
  const bytes = Buffer.concat(all.flatMap(({ fields, payload }) => [header(fields), payload]));
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    // A hundred small pieces are as good as a hundred thousand.
    const length = turn < 100 ? (cuts[turn % cuts.length] ?? 1) : bytes.length;
    client.send(bytes.subarray(at, at + length));
    at += length;
  }
}

/** Takes one reply, whichever request it belongs to. */
async function checkReply(client: RawClient, all: readonly Expected[]): Promise<void> {
  const first = await client.reply();
  const expected = all[first.cookie];
  if (expected === undefined) throw new Error(`a reply to nobody: ${first.cookie}`);
  const { fields, data } = expected;
  if (!client.structured) {
    expect(first.error).toBe(expected.error);
    if (data !== undefined) expect((await client.read(data.length)).equals(data)).toBe(true);
    return;
  }
  if (data === undefined) {
    const { structured, type, payload, error } = first;
    expect(first.extended).toBe(client.extended);
    expect(structured && type !== CHUNK.NONE ? payload.readUInt32BE(0) : error).toBe(expected.error);
    return;
  }
  const reply = await client.restOfRead(first, Number(fields.offset), data.length);
  expect(reply.error).toBe(0);
  expect(reply.data.equals(data)).toBe(true);
}
