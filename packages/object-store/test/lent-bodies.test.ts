/** The memory of a body is its owner's again when the call has settled: nothing of it is sent after that. */
import { type AddressInfo, type Socket, createServer } from "node:net";
import { once } from "node:events";
import { afterEach, expect, test } from "vitest";
import { openStore } from "../src/index.ts";

const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
const BODY = 16 * 2 ** 20;
const servers: { close(): void }[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

/** A server that answers a PUT by its head, and reads the body only when it is told to. */
async function hastyServer(answer: string): Promise<{ endpoint: string; first: Promise<Socket> }> {
  let tell: (socket: Socket) => void;
  const first = new Promise<Socket>((resolve) => (tell = resolve));
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      socket.pause();
      socket.write(answer);
      tell(socket);
    });
  });
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, first };
}

test.each([
  ["taken", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
  ["refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"],
])("a body that is %s before it was sent", async (_, answer) => {
  const { endpoint, first } = await hastyServer(answer);
  const store = await openStore(`s3://bucket/p?endpoint=${endpoint}`, {
    credentials,
    policy: { attempts: 1 },
  });
  const body = Buffer.alloc(BODY, 1);
  await store.create("k", body).catch(() => {});
  // As for the next object.
  body.fill(2);
  const socket = await first;
  let [later, received] = [0, 0];
  await new Promise<void>((resolve) => {
    socket.on("data", (part: Buffer) => {
      received += part.length;
      if (part.includes(2)) later += 1;
      // Of a body that is sent to its end the first bytes came with the head.
      if (received > BODY - 2 ** 20) resolve();
    });
    socket.on("close", () => resolve());
    socket.resume();
  });
  expect(later).toBe(0);
  await store.close();
});
