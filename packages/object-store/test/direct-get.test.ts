/** Bodies that are received where they belong: answers of all kinds, in pieces of all sizes. */
import { type AddressInfo, type Socket, createServer } from "node:net";
import { once } from "node:events";
import { type Clock, realEnvironment } from "@dmkit/block-io";
import { afterEach, expect, test } from "vitest";
import { type BodyMemory, type RetryingStore, openStore } from "../src/index.ts";

const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
const open: { close(): unknown }[] = [];

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

const BODY = Buffer.from(Array.from({ length: 3000 }, (_, at) => at % 251));
const head = (...lines: string[]): Buffer => Buffer.from(["HTTP/1.1 200 OK", ...lines, "", ""].join("\r\n"));
const plain = Buffer.concat([head(`Content-Length: ${BODY.length}`), BODY]);

/** Memory that knows what is out. */
class Lent implements BodyMemory {
  readonly out = new Set<Buffer>();
  taken = 0;
  take(length: number): Buffer {
    this.taken += 1;
    const bytes = Buffer.alloc(length, 0xee);
    this.out.add(bytes);
    return bytes;
  }
  give(bytes: Buffer): void {
    expect(this.out.delete(bytes)).toBe(true);
  }
}

// Of a request: nothing takes that long here, and one that is to be late is told that it is.
const LIMIT = 120_000;

/**
 * A server that answers request n as it is told, on whatever connection it comes. `late` ends the time of all requests that
 * have begun; `closed` counts connections that both sides have closed.
 */
async function serving(answer: (socket: Socket, request: number, late: () => void) => unknown): Promise<{
  store: RetryingStore;
  counts: { requests: number; connections: number };
  closed: () => number;
}> {
  const counts = { requests: 0, connections: 0 };
  let closed = 0;
  const limits: (() => void)[] = [];
  const late = (): void => {
    for (const end of limits.splice(0)) end();
  };
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    counts.connections += 1;
    sockets.add(socket);
    socket.on("close", () => (closed += 1));
    socket.on("error", () => {});
    socket.on("data", (part) => {
      expect(part.toString("latin1")).toMatch(/^GET \/bucket\/p\/k HTTP\/1\.1\r\n/);
      answer(socket, (counts.requests += 1), late);
    });
  });
  open.push({
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const after: Clock["after"] = (milliseconds, callback) => {
    if (milliseconds === LIMIT) limits.push(callback);
    return realEnvironment.clock.after(milliseconds, callback);
  };
  const store = await openStore(`s3://bucket/p?endpoint=http://127.0.0.1:${port}`, {
    credentials,
    environment: { ...realEnvironment, clock: { ...realEnvironment.clock, after } },
    policy: { attempts: 2, delay: 1, longestDelay: 1, smallTimeout: LIMIT, largeTimeout: LIMIT },
  });
  open.unshift(store);
  return { store, counts, closed: () => closed };
}

async function get(store: RetryingStore, memory: Lent, most = 10_000): Promise<Buffer | string> {
  return store.get("k", { most, memory }).catch((error: { code: string }) => error.code);
}

test("one connection for one after the other, whose bodies lie where they were wanted", async () => {
  const { store, counts } = await serving((socket) => socket.write(plain));
  const memory = new Lent();
  for (let n = 0; n < 5; n += 1) {
    const body = await get(store, memory);
    expect(memory.out.has(body as Buffer)).toBe(true);
    expect(BODY.equals(body as Buffer)).toBe(true);
  }
  expect(counts).toEqual({ requests: 5, connections: 1 });
});

test.each([1, 7, 39, 40, 41, 42, 43, 500, 3039])("in pieces of %i bytes", async (size) => {
  const { store } = await serving(async (socket) => {
    // The first byte that is alone, and the rest in a few pieces, so that it does not take long.
    const cuts = [size, size + 1, size + 2, plain.length - 1].filter((cut) => cut < plain.length);
    let from = 0;
    for (const cut of [...cuts, plain.length]) {
      socket.write(plain.subarray(from, cut));
      from = cut;
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
  });
  const memory = new Lent();
  expect(BODY.equals((await get(store, memory)) as Buffer)).toBe(true);
  expect(memory.out.size).toBe(1);
});

const chunked = Buffer.concat([
  head("Transfer-Encoding: chunked"),
  Buffer.from(`${BODY.length.toString(16)}\r\n`),
  BODY,
  Buffer.from("\r\n0\r\n\r\n"),
]);
const early = Buffer.concat([Buffer.from("HTTP/1.1 100 Continue\r\n\r\n"), plain]);
const twice = Buffer.concat([
  head(`Content-Length: ${BODY.length}`, `Content-Length: ${BODY.length + 1}`),
  BODY,
  Buffer.from("x"),
]);
const long = Buffer.concat([head(`X-Long: ${"x".repeat(20_000)}`, "Content-Length: 1"), Buffer.from("x")]);

test.each([
  ["chunked", chunked, BODY],
  ["behind another status", early, BODY],
  ["with two lengths", twice, "EIO"],
  ["with a head that does not end", long, "EIO"],
  ["that are no HTTP", Buffer.from("220 smtp.example.com ESMTP\r\n\r\n"), "EIO"],
])("answers %s are left to another client, for good", async (_, answer, expected) => {
  const { store, counts } = await serving((socket) => socket.write(answer));
  const memory = new Lent();
  const first = await get(store, memory);
  if (typeof expected === "string") expect(typeof first).toBe("string");
  else expect(expected.equals(first as Buffer)).toBe(true);
  // Once as here, and by the other as often as it takes.
  expect(counts.requests).toBe(typeof expected === "string" ? 3 : 2);
  const before = counts.requests;
  await get(store, memory);
  expect(counts.requests - before).toBe(typeof expected === "string" ? 2 : 1);
});

test("what comes behind an answer ends the connection", async () => {
  const { store, counts } = await serving((socket) => socket.write(Buffer.concat([plain, plain])));
  const memory = new Lent();
  for (let n = 0; n < 2; n += 1) expect(BODY.equals((await get(store, memory)) as Buffer)).toBe(true);
  expect(counts).toEqual({ requests: 2, connections: 2 });
});

test("a server that closes is not asked on that connection", async () => {
  const answer = Buffer.concat([head(`Content-Length: ${BODY.length}`, "Connection: close"), BODY]);
  const { store, counts } = await serving((socket) => socket.end(answer));
  const memory = new Lent();
  for (let n = 0; n < 2; n += 1) expect(BODY.equals((await get(store, memory)) as Buffer)).toBe(true);
  expect(counts).toEqual({ requests: 2, connections: 2 });
});

test("an idle connection that the server closes is not used again", async () => {
  const { store, counts, closed } = await serving((socket) => socket.end(plain));
  const memory = new Lent();
  for (let n = 1; n <= 2; n += 1) {
    expect(BODY.equals((await get(store, memory)) as Buffer)).toBe(true);
    while (closed() < n) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  expect(counts).toEqual({ requests: 2, connections: 2 });
});

test.each([
  ["cut off", (socket: Socket) => socket.end(plain.subarray(0, 1500))],
  ["cut off in its head", (socket: Socket) => socket.end(plain.subarray(0, 20))],
  [
    "late",
    (socket: Socket, late: () => void) => socket.write(plain.subarray(0, 1500), () => setTimeout(late, 20)),
  ],
])("an answer that is %s gives its memory back, and is asked for once more", async (_, spoil) => {
  const { store, counts } = await serving((socket, n, late) =>
    n === 1 ? spoil(socket, late) : socket.write(plain),
  );
  const memory = new Lent();
  const body = (await get(store, memory)) as Buffer;
  expect(BODY.equals(body)).toBe(true);
  expect([...memory.out]).toEqual([body]);
  expect(counts).toEqual({ requests: 2, connections: 2 });
});

test("what is too long is refused before it is read, and an error is told by its status", async () => {
  const refusal = Buffer.from("<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>");
  const gone = Buffer.from(`HTTP/1.1 404 Not Found\r\nContent-Length: ${refusal.length}\r\n\r\n`);
  const { store } = await serving((socket, n) =>
    socket.write(n === 1 ? head("Content-Length: 2000000") : Buffer.concat([gone, refusal])),
  );
  const memory = new Lent();
  expect(await get(store, memory)).toBe("EOVERFLOW");
  expect(await get(store, memory)).toBe("ENOENT");
  expect(memory.taken).toBe(0);
});

test("of an error that is cut off no memory is given back that was not taken", async () => {
  const cut = Buffer.from("HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n<Error>");
  const { store } = await serving((socket, n) => (n === 1 ? socket.end(cut) : socket.write(plain)));
  const memory = new Lent();
  expect(BODY.equals((await get(store, memory)) as Buffer)).toBe(true);
  expect(memory.taken).toBe(1);
});
