import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Environment, realEnvironment } from "@dmkit/block-io";
import { afterAll, describe, expect, test } from "vitest";
import { NodeCache } from "../src/device/node-cache.ts";
import { BLOB_HEAD, MAX_BLOB } from "../src/format/blob.ts";

const top = mkdtempSync(join(tmpdir(), "dmkit-node-cache-"));
afterAll(() => rmSync(top, { recursive: true, force: true }));
const digestOf = (text: string): string => createHash("sha256").update(text).digest("hex");

/** A second passes whenever one looks: every read takes too long for this thread. */
function slow(told: string[]): Environment {
  let now = 0;
  const clock = { ...realEnvironment.clock, now: () => (now += 1000), wallTime: () => Date.now() };
  return { ...quick(told), clock };
}

function quick(told: string[]): Environment {
  return { ...realEnvironment, logger: { log: (_level, message) => told.push(message) } };
}

describe.each([
  ["a disk that answers at once", quick],
  ["a disk that has to be waited for", slow],
])("%s", (name, environment) => {
  const folder = join(top, digestOf(name).slice(0, 8));
  const told: string[] = [];
  const cache = new NodeCache(folder, 2 ** 26, environment(told));
  const pathOf = (digest: string): string => join(folder, digest.slice(0, 2), digest);

  test("blobs are there once kept, more than decide where they are read", async () => {
    const digests = Array.from({ length: 20 }, (_, n) => digestOf(`blob ${n}`));
    for (const digest of digests) expect(await cache.get(digest)).toBeUndefined();
    for (const digest of digests) await cache.put(digest, Buffer.from(digest));
    for (const digest of digests) expect((await cache.get(digest))?.toString()).toBe(digest);
    await Promise.all(digests.map((digest) => cache.remove(digest)));
    for (const digest of digests) expect(await cache.get(digest)).toBeUndefined();
    expect(told).toEqual([]);
  });

  test("one that is used is not among the oldest any more; one of this hour is left as it is", async () => {
    for (const [age, renewed] of [
      [7200, true],
      [600, false],
    ] as const) {
      const digest = digestOf(`used ${age}`);
      await cache.put(digest, Buffer.alloc(5000));
      const then = Math.floor(Date.now() / 1000) - age;
      utimesSync(pathOf(digest), then, then);
      await cache.get(digest);
      expect(statSync(pathOf(digest)).mtimeMs > then * 1000).toBe(renewed);
    }
  });

  test("an empty file is no blob, and is not read beyond its end; one larger than blobs are is not read", async () => {
    const digest = digestOf("strange");
    mkdirSync(dirname(pathOf(digest)), { recursive: true });
    writeFileSync(pathOf(digest), "");
    expect(await cache.get(digest)).toHaveLength(0);
    truncateSync(pathOf(digest), MAX_BLOB + BLOB_HEAD + 1);
    expect(await cache.get(digest)).toBeUndefined();
    expect(told).toEqual([]);
  });

  test("what cannot be read is told once, and costs no read", async () => {
    const digest = digestOf("a folder");
    mkdirSync(pathOf(digest), { recursive: true });
    expect(await cache.get(digest)).toBeUndefined();
    expect(await cache.get(digest)).toBeUndefined();
    expect(told).toHaveLength(1);
  });
});
