/** Memory of chunks is used again for others: whatever comes late, cut off or flipped, readers get what was published. */
import { randomFillSync } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { type RetryingStore, openStore } from "@dmkit/object-store";
import { S3TestServer } from "@dmkit/object-store/testing";
import { openImage, publish } from "../src/index.ts";
import { ChunkBuffers } from "../src/core/chunk-buffers.ts";

const CHUNK = 512 * 1024;
// The least memory a device can have holds half of the chunks.
const SIZE = 16 * 2 ** 20;
const server = new S3TestServer();
const folder = mkdtempSync(join(tmpdir(), "dmkit-image-memory-"));
// Text, so that each chunk is made anew in memory, and some noise, which lies in the body of its blob.
const contents = Buffer.alloc(SIZE);
let endpoint = "";

function connect(): Promise<RetryingStore> {
  const credentials = (): Promise<{ accessKeyId: string; secretAccessKey: string }> =>
    Promise.resolve({ accessKeyId: "test", secretAccessKey: "secret" });
  const policy = { delay: 1, longestDelay: 1 };
  return openStore(`s3://bucket?endpoint=${endpoint}`, { credentials, policy, environment: realEnvironment });
}

beforeAll(async () => {
  endpoint = await server.listen();
  const disk = new MemoryDevice(SIZE);
  for (let at = 0; at < SIZE; at += CHUNK) {
    const chunk = contents.subarray(at, at + CHUNK);
    chunk.fill(`chunk ${at} `);
    for (let sector = 0; sector < CHUNK; sector += 512) chunk.writeUInt32LE(at + sector, sector);
    if (at % (4 * CHUNK) === 0) randomFillSync(chunk);
    await disk.write(at, chunk);
  }
  const store = await connect();
  await publish(disk, store, { name: "disk", tag: "latest", chunkSize: CHUNK });
  await store.close();
});

afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

const faults = ["truncated", "flipped", "dropped", "500"] as const;

test("more readers than there is memory, beside faults and a cache that rots", async () => {
  const read = fc.record({
    // Half of them in the first chunks, which stay in memory.
    sector: fc.oneof(fc.nat(SIZE / 512 - 1), fc.nat((2 * CHUNK) / 512)),
    sectors: fc.integer({ min: 1, max: 2048 }),
  });
  const runs = fc.record({
    fault: fc.option(fc.constantFrom(...faults)),
    reads: fc.array(read, { minLength: 20, maxLength: 30 }),
    rots: fc.boolean(),
  });
  let caches = 0;
  await fc.assert(
    fc.asyncProperty(runs, async ({ fault, reads, rots }) => {
      const cache = join(folder, `${(caches += 1)}`);
      for (const isWarm of [false, true]) {
        if (isWarm && rots) rot(cache);
        // One: a blob that is damaged twice is given up.
        if (fault !== null) server.fail({ method: "GET", kind: fault, when: (count) => count === 7 });
        const store = await connect();
        const options = { image: "s3://bucket/disk", cache, memory: 8 * 2 ** 20 };
        const device = await openImage(options, { store });
        try {
          for (let at = 0; at < reads.length; at += 4) {
            await Promise.all(
              reads.slice(at, at + 4).map(async ({ sector, sectors }) => {
                const offset = sector * 512;
                const into = Buffer.alloc(Math.min(sectors * 512, SIZE - offset));
                await device.read(offset, into);
                const wrong = into.compare(contents, offset, offset + into.length) !== 0;
                expect(wrong, `${into.length} bytes from ${offset}`).toBe(false);
              }),
            );
          }
        } finally {
          await device.close();
          server.fail(undefined);
        }
      }
    }),
    { numRuns: 4 },
  );
});

function rot(cache: string): void {
  for (const part of readdirSync(cache)) {
    for (const name of readdirSync(join(cache, part))) {
      if (name < "8") writeFileSync(join(cache, part, name), Buffer.alloc(CHUNK / 2, "dmkitblb\u0001"));
    }
  }
}

test("memory that comes back twice, or from elsewhere, is given to nobody", () => {
  const buffers = new ChunkBuffers(4096, 2);
  const first = buffers.take(4096);
  const part = first.subarray(100, 200);
  buffers.give(part);
  buffers.give(first);
  buffers.give(Buffer.alloc(4096));
  const [second, third] = [buffers.take(4096), buffers.take(1000)];
  expect(second.buffer).toBe(first.buffer);
  expect(third.buffer).not.toBe(first.buffer);
  expect(third.length).toBe(1000);
  // What is small does not hold the memory of a chunk, and what is large is not kept.
  for (const length of [1, 100, 5000]) {
    const other = buffers.take(length);
    buffers.give(other);
    expect(buffers.take(length).buffer).not.toBe(other.buffer);
  }
});
