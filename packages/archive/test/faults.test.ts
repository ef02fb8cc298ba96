/**
 * Every fault of the test server, with every method, the first time, each third time, and always: what was acknowledged is
 * there, what is read is right, and nothing hangs.
 */
import { BlockIoError, type Clock, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { RetryingStore, openStore } from "@dmkit/object-store";
import { S3TestServer, type ServerFault } from "@dmkit/object-store/testing";
import { describe, expect, it } from "vitest";
import {
  Archive,
  type LogSegment,
  attachTo,
  claim,
  historyOf,
  randomToken,
  replayOnto,
} from "../src/index.ts";

const SIZE = 64 * 1024;

const kinds = [
  "500",
  "503",
  "500 done",
  "lost",
  "dropped",
  "hang",
  "hang done",
  "truncated",
  "flipped",
] as const;
const times = {
  first: (count: number) => count === 1,
  "each third": (count: number) => count % 3 === 0,
  always: () => true,
} as const;
const methods = ["GET", "PUT", "LIST"] as const;

const cases = methods.flatMap((method) =>
  kinds
    // Only bodies that are read can be cut short or changed.
    .filter((kind) => method === "GET" || !["truncated", "flipped"].includes(kind))
    .flatMap((kind) =>
      Object.entries(times).map(
        ([when, test]) => [`${kind} of ${method}, ${when}`, { method, kind, when: test }] as const,
      ),
    ),
);

function segment(number: number): LogSegment {
  return { time: number, sectors: [(number % 8) * 8], bits: [0xff], data: Buffer.alloc(4096, number) };
}

// Of a request, in milliseconds.
const LIMIT = 120_000;

describe("the server's faults", () => {
  it.concurrent.each(cases)("%s", async (_name, fault: ServerFault) => {
    const server = new S3TestServer();
    const endpoint = await server.listen();
    const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
    // What is answered at all is waited for, however busy the machine is: only where requests hang the time is short.
    const state = { hangs: false };
    const after: Clock["after"] = (milliseconds, callback) =>
      realEnvironment.clock.after(milliseconds === LIMIT && state.hangs ? 250 : milliseconds, callback);
    const environment = { ...realEnvironment, clock: { ...realEnvironment.clock, after } };
    const policy = { attempts: 3, delay: 1, longestDelay: 2, smallTimeout: LIMIT, largeTimeout: LIMIT };
    const open = (): Promise<RetryingStore> =>
      openStore(`s3://bucket?endpoint=${endpoint}`, { credentials, policy, environment });
    const backing = new MemoryDevice(SIZE);
    const token = randomToken(environment);
    const local = { token, last: 0, first: 1, backing, size: SIZE, environment };
    let acknowledged = 0;
    try {
      // It is there, and then the faults begin.
      const to = await attachTo(await open(), "vm1", local, { codec: "none" });
      state.hangs = fault.kind.startsWith("hang");
      server.fail(fault);
      const writing = (async () => {
        for (let number = 1; number <= 6; number += 1) {
          await to.write(number, [segment(number)]);
          acknowledged = number;
        }
      })().catch((error: unknown) => expect(error).toBeInstanceOf(BlockIoError));
      await Promise.race([writing, new Promise((resolve) => setTimeout(resolve, 1000))]);
      await to.close();
      await writing;
      // Whoever looks sees what is right, or is told that it cannot be seen.
      await contents(await open()).then(
        ({ bytes, id }) => expectState(bytes, id, acknowledged),
        (error: unknown) => expect(error).toBeInstanceOf(BlockIoError),
      );
      const taking = new Archive(await open(), "vm1", { codec: "none" });
      await claim(taking, { token: randomToken(environment), host: "there", environment }).catch(
        (error: unknown) => expect(error).toBeInstanceOf(BlockIoError),
      );
      // And when they have ended nothing that was acknowledged is missing.
      server.fail(undefined);
      const calm = await openStore(`s3://bucket?endpoint=${endpoint}`, { credentials });
      await claim(new Archive(calm, "vm1"), { token: randomToken(environment), host: "there", environment });
      const { bytes, id } = await contents(calm);
      expectState(bytes, id, acknowledged);
    } finally {
      await server.close();
    }
  });
});

async function contents(store: RetryingStore): Promise<{ bytes: Buffer; id: number }> {
  const archive = new Archive(store, "vm1");
  const disk = new MemoryDevice(SIZE);
  try {
    const id = await replayOnto(archive, await historyOf(archive, "newest"), disk);
    const bytes = Buffer.alloc(SIZE);
    await disk.read(0, bytes);
    return { bytes, id };
  } finally {
    await store.close();
  }
}

/** Up to `id`, which nothing acknowledged is behind. */
function expectState(bytes: Buffer, id: number, acknowledged: number): void {
  expect(id).toBeGreaterThanOrEqual(acknowledged);
  for (let number = 1; number <= id; number += 1) expect(bytes[(number % 8) * 4096 + 100]).toBe(number);
}
