/** What every store promises, on each kind: a folder, S3 (the small server), the simulation. */
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { realEnvironment } from "@dmkit/block-io";
import { DirectoryTransport, type ObjectStore, RetryingStore, getVerified, openStore } from "../src/index.ts";
import { S3TestServer, SimulatedBucket, SimulatedTransport } from "../src/testing/index.ts";
import { keys, promises } from "./promises.ts";

const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
const folder = mkdtempSync(join(tmpdir(), "dmkit-store-"));
const server = new S3TestServer();
let endpoint = "";
let count = 0;

beforeAll(async () => {
  endpoint = await server.listen();
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

const kinds: Record<string, () => Promise<ObjectStore>> = {
  folder: () => openStore(join(folder, String((count += 1)))),
  s3: () => openStore(`s3://bucket/p${(count += 1)}/q?endpoint=${endpoint}`, { credentials }),
  simulated: () =>
    Promise.resolve(
      new RetryingStore(
        new SimulatedTransport(new SimulatedBucket(), { environment: realEnvironment, latency: 1 }),
      ),
    ),
};

describe.each(Object.entries(kinds))("%s", (_, open) => promises(open));

test("a body that fails its check is fetched once more, then refused", async () => {
  const store = await openStore(join(folder, "verified"));
  await store.create("k", Buffer.from("good"));
  let asked = 0;
  const secondTime = (body: Buffer) => ((asked += 1) === 2 ? body.toString() : undefined);
  expect(await getVerified(store, "k", secondTime)).toBe("good");
  await expect(getVerified(store, "k", () => undefined)).rejects.toMatchObject({ code: "EIO" });
});

test("a folder forgets the bodies that a crash left, and never lists them", async () => {
  const path = join(folder, "left");
  await new RetryingStore(new DirectoryTransport(path)).create("a/first", Buffer.from("1"));
  writeFileSync(join(path, "a", ".0123456789ab"), "old");
  writeFileSync(join(path, "a", ".0123456789ac"), "new");
  writeFileSync(join(path, "a", ".keep"), "somebody's");
  const yesterday = new Date(Date.now() - 25 * 3600 * 1000);
  utimesSync(join(path, "a", ".0123456789ab"), yesterday, yesterday);
  const store = new RetryingStore(new DirectoryTransport(path));
  await store.create("a/second", Buffer.from("2"));
  expect(readdirSync(join(path, "a")).toSorted()).toEqual([".0123456789ac", ".keep", "first", "second"]);
  expect(await keys(store, "")).toEqual(["a/first", "a/second"]);
});

test("a folder goes with its last object, and is there again for the next one", async () => {
  const path = join(folder, "empty");
  const store = new RetryingStore(new DirectoryTransport(path));
  await store.create("gc/1", Buffer.from("1"));
  await store.create("images/a/b/1", Buffer.from("1"));
  await store.create("images/a/2", Buffer.from("2"));
  await store.remove("gc/1");
  await store.remove("images/a/b/1");
  expect(readdirSync(path, { recursive: true, encoding: "utf8" }).toSorted()).toEqual([
    ".dmkit-store",
    "images",
    "images/a",
    "images/a/2",
  ]);
  await store.remove("images/a/2");
  expect(readdirSync(path)).toEqual([".dmkit-store"]);
  await store.create("gc/1", Buffer.from("2"));
  expect((await store.get("gc/1")).toString()).toBe("2");
});

test("where the store was mounted nothing is written, and nothing is absent, until it is back", async () => {
  const path = join(folder, "mounted");
  const away = join(folder, "away");
  const once = { attempts: 1 };
  const first = new RetryingStore(new DirectoryTransport(path), { policy: once });
  await first.create("a/1", Buffer.from("1"));
  // One that has only read knows it as well.
  const reader = new RetryingStore(new DirectoryTransport(path), { policy: once });
  expect((await reader.get("a/1")).toString()).toBe("1");
  renameSync(path, away);
  mkdirSync(path);
  const gone = { code: "ENOTCONN", message: expect.stringContaining("the store is gone") as string };
  for (const store of [first, reader]) {
    await expect(store.create("a/2", Buffer.from("2"))).rejects.toMatchObject(gone);
    await expect(store.put("a/3", Buffer.from("3"))).rejects.toMatchObject(gone);
    await expect(store.get("a/1")).rejects.toMatchObject(gone);
    await expect(store.head("a/1")).rejects.toMatchObject(gone);
    await expect(store.remove("a/1")).rejects.toMatchObject(gone);
    await expect(keys(store, "")).rejects.toMatchObject(gone);
  }
  expect(readdirSync(path)).toEqual([]);
  // Another store there is not this one either.
  await new RetryingStore(new DirectoryTransport(path)).create("a/1", Buffer.from("other"));
  await expect(first.create("a/2", Buffer.from("2"))).rejects.toMatchObject(gone);
  rmSync(path, { recursive: true });
  renameSync(away, path);
  expect(await first.create("a/2", Buffer.from("2"))).toBe(true);
  expect(await keys(reader, "")).toEqual(["a/1", "a/2"]);
});

test("what went away while an object was written is noticed before it counts as written", async () => {
  const path = join(folder, "going");
  let goes = false;
  const next = (): number => {
    // Asked for the name of the new file, when the store was seen to be there.
    if (goes) {
      renameSync(path, join(folder, "gone"));
      mkdirSync(join(path, "a"), { recursive: true });
    }
    return Math.random();
  };
  const transport = new DirectoryTransport(path, { ...realEnvironment, random: { next } });
  const store = new RetryingStore(transport, { policy: { attempts: 1 } });
  await store.create("a/1", Buffer.from("1"));
  goes = true;
  await expect(store.create("a/2", Buffer.from("2"))).rejects.toMatchObject({ code: "ENOTCONN" });
});

test("a folder that somebody else empties just then is made again", async () => {
  const path = join(folder, "busy");
  let times = 3;
  const next = (): number => {
    // Asked for the name of the new file, when its folder has been made.
    if (times > 0) rmSync(join(path, "a"), { recursive: true, force: true });
    times -= 1;
    return 0.5;
  };
  const store = new RetryingStore(new DirectoryTransport(path, { ...realEnvironment, random: { next } }));
  expect(await store.create("a/b/c", Buffer.from("x"))).toBe(true);
  expect((await store.get("a/b/c")).toString()).toBe("x");
});
