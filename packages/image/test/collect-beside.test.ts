/** What others do while a collection is about to remove what it has found unused. */
import { type BlockDevice, MemoryDevice, makeGate, realEnvironment } from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { type ObjectStore, RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { beforeEach, describe, expect, test } from "vitest";
import {
  type PublishOptions,
  type Published,
  collect,
  moveTag,
  openImage,
  publish,
  resolveReference,
  parseImageReference,
  removeTag,
} from "../src/index.ts";

const DAY = 24 * 3_600_000;

let clock: ManualClock;
let bucket: SimulatedBucket;
let store: ObjectStore;

beforeEach(() => {
  clock = new ManualClock();
  clock.advance(10 * DAY);
  bucket = new SimulatedBucket();
  store = new RetryingStore(new SimulatedTransport(bucket, { environment: environment(), latency: 0 }), {
    environment: environment(),
  });
});

const environment = () => ({ ...realEnvironment, clock });

/** The store, where something else happens before the first key of a kind is removed or created. */
function interfered(
  method: "remove" | "create" | "list",
  prefix: string,
  what: () => Promise<unknown>,
): ObjectStore {
  let isOver = false;
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      if (name !== method) return value.bind(target);
      return (key: string, ...rest: unknown[]): unknown => {
        const go = (): unknown => value.call(target, key, ...rest);
        if (isOver || !key.startsWith(prefix)) return go();
        isOver = true;
        // A list is no promise.
        const before = what();
        return name === "list" ? go() : before.then(go);
      };
    },
  });
}

/** The store, where something is told of each call of a method for keys of a kind. */
function interferedAlways(method: "get" | "list", prefix: string, tell: () => void): ObjectStore {
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (key: string, ...rest: unknown[]): unknown => {
        if (name === method && key.startsWith(prefix)) tell();
        return value.call(target, key, ...rest);
      };
    },
  });
}

/** Lets time pass until it is over. */
async function settled<T>(work: Promise<T>): Promise<T> {
  const state = { over: false };
  const end = (): void => void (state.over = true);
  work.then(end, end);
  while (!state.over) await clock.pass(100);
  return work;
}

async function diskOf(byte: number): Promise<MemoryDevice> {
  const disk = new MemoryDevice(512 * 1024);
  for (let at = 0; at < disk.size; at += 65536) await disk.write(at, Buffer.alloc(4096, byte + at / 65536));
  return disk;
}

async function put(byte: number, extra: Partial<PublishOptions> = {}, into = store): Promise<Published> {
  const disk = await diskOf(byte);
  const options = { name: "disk", tag: "latest", chunkSize: 65536, environment: environment(), ...extra };
  return settled(publish(disk, into, options));
}

/** The byte a reference shows. */
async function shown(image: string): Promise<number | undefined> {
  const device = await settled(
    openImage({ image: `/store/${image}`, cache: "none", hot: false }, { store, environment: environment() }),
  );
  const block = Buffer.alloc(512);
  await settled(device.read(0, block));
  return block[0];
}

/** A collection during which, before it removes the first version, something is begun and comes to where it waits. */
async function collectBeside(begin: (into: ObjectStore) => Promise<unknown>): Promise<unknown> {
  let work: Promise<unknown> = Promise.resolve();
  const meanwhile = async (): Promise<void> => {
    const waits = makeGate();
    work = begin(interfered("list", "gc/", async () => waits.open())).catch((error: unknown) => error);
    await Promise.race([waits.promise, work]);
  };
  await settled(collect(interfered("remove", "images/", meanwhile), { environment: environment() }));
  return settled(work);
}

const digestOf = (image: string): Promise<string> =>
  settled(resolveReference(store, parseImageReference(`/store/${image}`)));

describe("while a collection is about to remove versions", () => {
  test("a tag is not left saying one that is gone, and what it said before is there", async () => {
    const first = await put(1);
    const second = await put(20);
    const tag = (digest: string, into = store) => moveTag(into, "disk", "stable", digest, environment());
    await settled(tag(second.digest));
    await put(40);
    clock.advance(2 * DAY);
    expect(await collectBeside((into) => tag(first.digest, into))).toMatchObject({ code: "EBUSY" });
    expect(await shown("disk:stable")).toBe(20);
    // One that other tags say is only waited for.
    await put(60);
    clock.advance(2 * DAY);
    const third = await digestOf("disk:stable");
    const keep = (into: ObjectStore) => moveTag(into, "disk", "kept", third, environment());
    expect(await collectBeside(keep)).toBeUndefined();
    expect(await shown("disk:kept")).toBe(20);
  });

  test("one that is published again is there", async () => {
    await put(1);
    const cut = interfered("create", "tags/", () => Promise.reject(new Error("interrupted")));
    await expect(put(20, {}, cut)).rejects.toThrow("interrupted");
    clock.advance(2 * DAY);
    expect(await collectBeside((into) => put(20, {}, into))).toMatchObject({ tagged: true });
    expect(await shown("disk")).toBe(20);
  });
});

test("a version that a tag has said within a day stays, one that none has said since goes", async () => {
  const first = await put(1);
  clock.advance(3 * DAY);
  await put(20);
  expect(await settled(collect(store, { environment: environment() }))).toMatchObject({ manifests: 0 });
  expect(await shown(`disk@${first.digest}`)).toBe(1);
  clock.advance(DAY + 1);
  expect(await settled(collect(store, { environment: environment() }))).toMatchObject({ manifests: 1 });
});

test("a publication waits for the collections that run, and not for those that begin one after the other", async () => {
  const key = "gc/0000000000000001";
  const run = (): void => {
    bucket.objects.set(key, Buffer.from("token"));
    bucket.modified.set(key, clock.wallTime());
  };
  run();
  let looks = 0;
  const busy = interferedAlways("list", "gc/", () => {
    looks += 1;
    if (looks > 1) run();
    if (looks > 20) throw new Error("it waits for ever");
  });
  const told: string[] = [];
  const logger = { log: (_: string, message: string): void => void told.push(message) };
  const extra = { environment: { ...environment(), logger } };
  expect(await put(1, extra, busy)).toMatchObject({ tagged: true });
  expect(told).toEqual([expect.stringContaining("waiting for the end of a collection")]);
  expect(looks).toBe(2);
});

describe("blobs that were old, uploaded again, and collected before the manifest was there", () => {
  /** The blobs are gone when the publication looks for collections. */
  const publishedAgain = async (source: BlockDevice): Promise<Published> => {
    await put(1);
    await settled(removeTag(store, "disk", "latest"));
    clock.advance(2 * DAY);
    const into = interfered("list", "gc/", async () => {
      for (const key of bucket.objects.keys()) if (key.startsWith("blobs/")) bucket.objects.delete(key);
    });
    const options = { name: "disk", tag: "latest", chunkSize: 65536, environment: environment() };
    return settled(publish(source, into, options));
  };

  test("are read and uploaded once more, not kept in memory until then", async () => {
    const source = await diskOf(1);
    expect(await publishedAgain(source)).toMatchObject({ tagged: true, read: 2 * source.size });
    expect(await shown("disk")).toBe(1);
  });

  test("are refused if the source is another one by then", async () => {
    const source = await diskOf(1);
    let reads = 0;
    source.read = async (offset, into) => {
      reads += 1;
      into.fill(0).fill(reads > 8 ? 9 : 1 + offset / 65536, 0, 4096);
    };
    await expect(publishedAgain(source)).rejects.toMatchObject({
      code: "EBUSY",
      hint: expect.stringContaining("nobody writes to"),
    });
    await expect(shown("disk")).rejects.toMatchObject({ code: "ENOENT" });
  });
});

describe("a clock that is wrong", () => {
  const environmentAt = (time: number) => {
    const wrong = new ManualClock();
    wrong.advance(time - wrong.wallTime());
    return { ...realEnvironment, clock: wrong };
  };

  test("does not make a collection take what is young", async () => {
    await put(1);
    await settled(removeTag(store, "disk", "latest"));
    const ahead = { environment: environmentAt(clock.wallTime() + 3 * DAY) };
    expect(await settled(collect(store, ahead))).toMatchObject({ blobs: 0, manifests: 0 });
  });

  test("does not make a publication rely on what is old", async () => {
    const { blobs } = await put(1);
    await settled(removeTag(store, "disk", "latest"));
    clock.advance(0.75 * DAY);
    expect(await put(1, { environment: environmentAt(clock.wallTime() - DAY / 2) })).toMatchObject({ blobs });
  });
});

test("a page that many versions have is read once by a collection", async () => {
  for (const name of ["one", "two", "three"]) await put(1, { name });
  let read = 0;
  const counted = interferedAlways("get", "blobs/", () => (read += 1));
  await settled(collect(counted, { environment: environment() }));
  expect(read).toBe(1);
});

describe("a publication that is to take the place of what a tag says", () => {
  const none = async function* () {};

  test("is told where somebody else has moved it, before or meanwhile, and overrules nobody", async () => {
    const { digest } = await put(1);
    const record = (into = store) => put(1, { replaces: digest, changed: none(), hotList: [1, 0] }, into);
    const beside = interfered("create", "tags/", () => put(20));
    await expect(record(beside)).rejects.toMatchObject({ code: "EBUSY" });
    expect(await shown("disk")).toBe(20);
    await expect(record()).rejects.toMatchObject({ code: "EBUSY" });
    expect(await shown("disk")).toBe(20);
    const second = await digestOf("disk");
    await put(20, { replaces: second, changed: none(), hotList: [1, 0] });
    expect(await shown("disk")).toBe(20);
  });
});

test("a question mark in a folder's name is one, and parameters are a bucket's", () => {
  expect(parseImageReference("./q?1/img:a")).toMatchObject({ store: "./q?1", name: "img", tag: "a" });
  expect(parseImageReference("s3://b/img?region=x/y")).toMatchObject({ store: "s3://b?region=x/y" });
  expect(() => parseImageReference("store/img?region=x")).toThrow("names an image");
});
