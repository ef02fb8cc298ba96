/** Publishing again as the repair of what a store has lost, and the refusal of options that cannot be. */
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { type ObjectStore, RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { describe, expect, test } from "vitest";
import {
  type BlobProblem,
  type Digest,
  type PublishOptions,
  type Published,
  listImages,
  moveTag,
  openImage,
  publish,
  readManifest,
  removeTag,
  verifyImage,
} from "../src/index.ts";

const CHUNK = 64 * 1024;
const CHUNKS = 6;

interface Fixture {
  readonly bucket: SimulatedBucket;
  readonly store: ObjectStore;
  readonly disk: MemoryDevice;
  readonly digest: Digest;
  again(extra?: Partial<PublishOptions>): Promise<Published>;
  /** What is wrong with what the tag says. */
  problems(digest: Digest): Promise<string[]>;
  /** Keys of the chunks, then of the page and the hot list. */
  keys(): Promise<{ readonly chunks: string[]; readonly page: string; readonly hotList: string }>;
}

/** A published image whose chunks all differ, with a hot list. */
async function published(): Promise<Fixture> {
  const bucket = new SimulatedBucket();
  const store = storeOf(bucket);
  const disk = new MemoryDevice(CHUNKS * CHUNK);
  for (let chunk = 0; chunk < CHUNKS; chunk += 1)
    await disk.write(chunk * CHUNK, Buffer.alloc(CHUNK, `chunk ${chunk} `));
  const options = { name: "disk", tag: "latest", chunkSize: CHUNK };
  const { digest } = await publish(disk, store, { ...options, hotList: [2, 0] });
  return {
    bucket,
    store,
    disk,
    digest,
    again: (extra = {}) => publish(disk, store, { ...options, ...extra }),
    async problems(which) {
      const found: BlobProblem[] = [];
      for await (const problem of verifyImage(store, "disk", which)) found.push(problem);
      return found.map(({ kind }) => kind);
    },
    async keys() {
      const { pages, hotList } = await readManifest(store, "disk", digest);
      const key = (blob: Digest | undefined): string => `blobs/${blob?.slice(0, 2)}/${blob}`;
      const [page, hot] = [key(pages[0]), key(hotList)];
      const chunks = [...bucket.objects.keys()].filter(
        (name) => name.startsWith("blobs/") && name !== page && name !== hot,
      );
      return { chunks, page, hotList: hot };
    },
  };
}

function storeOf(bucket: SimulatedBucket): ObjectStore {
  return new RetryingStore(new SimulatedTransport(bucket, { environment: realEnvironment, latency: 0 }));
}

function damage({ bucket }: Fixture, key: string): void {
  const body = Buffer.from(bucket.objects.get(key) as Buffer);
  body[body.length - 1] = (body.at(-1) ?? 0) ^ 1;
  bucket.objects.set(key, body);
}

const nothing = (): AsyncGenerator<never> => (async function* (): AsyncGenerator<never> {})();

describe("publishing again", () => {
  test.each([
    ["all is read", undefined],
    ["nothing is said to have changed", nothing],
  ])("brings back what is missing, also if %s", async (_, changed) => {
    for (const place of ["chunk", "page"] as const) {
      const fixture = await published();
      const { chunks, page } = await fixture.keys();
      const lost = place === "page" ? [page] : chunks.slice(0, 2);
      for (const key of lost) fixture.bucket.objects.delete(key);
      const { digest, blobs, repaired } = await fixture.again({
        changed: changed?.(),
        parent: fixture.digest,
      });
      expect([blobs, repaired]).toEqual([lost.length, lost.length]);
      expect(await fixture.problems(digest)).toEqual([]);
      // What the first version lost is what the second one has brought.
      expect(await fixture.problems(fixture.digest)).toEqual([]);
    }
  });

  test.each([
    ["all is read", undefined],
    ["nothing is said to have changed", nothing],
  ])("replaces what is damaged with verify, also if %s", async (_, changed) => {
    for (const place of ["chunk", "page"] as const) {
      const fixture = await published();
      const { chunks, page } = await fixture.keys();
      const lost = place === "page" ? [page] : chunks.slice(0, 2);
      for (const key of lost) damage(fixture, key);
      // A page is read anyway.
      if (place === "chunk") expect((await fixture.again({ tag: "other" })).repaired).toBe(0);
      const { digest, repaired } = await fixture.again({
        changed: changed?.(),
        parent: fixture.digest,
        verify: true,
      });
      expect(repaired).toBe(lost.length);
      expect(await fixture.problems(digest)).toEqual([]);
      expect(await fixture.problems(fixture.digest)).toEqual([]);
    }
  });

  test("also where there is another version of the same contents, and no parent", async () => {
    const fixture = await published();
    const { chunks } = await fixture.keys();
    damage(fixture, chunks[0] as string);
    fixture.bucket.objects.delete(chunks[1] as string);
    const { digest, blobs, repaired } = await fixture.again({ tag: "other", verify: true });
    // Nobody has said that the missing one was ever there.
    expect([blobs, repaired]).toEqual([2, 1]);
    expect(await fixture.problems(digest)).toEqual([]);
  });

  test("what is larger than any blob is damaged too", async () => {
    const fixture = await published();
    const { chunks } = await fixture.keys();
    fixture.bucket.objects.set(chunks[0] as string, Buffer.alloc(5 * 2 ** 20));
    expect(await fixture.again({ verify: true })).toMatchObject({ repaired: 1 });
  });

  test("a hot list that is lost is left out: the image is whole without it", async () => {
    const fixture = await published();
    const { hotList } = await fixture.keys();
    fixture.bucket.objects.delete(hotList);
    expect(await fixture.problems(fixture.digest)).toEqual(["missing"]);
    const { digest } = await fixture.again();
    expect(await fixture.problems(digest)).toEqual([]);
    expect((await readManifest(fixture.store, "disk", digest)).hotCount).toBe(0);
  });

  test.each(["missing", "damaged"])("what is tagged has a manifest that is %s", async (kind) => {
    const fixture = await published();
    const key = `images/disk/${fixture.digest}`;
    if (kind === "missing") fixture.bucket.objects.delete(key);
    else damage(fixture, key);
    // Without the version before there is no hot list to go on with; with it, this is the very same manifest.
    const { digest, tagged } = await fixture.again({ hotList: [2, 0] });
    expect([digest, tagged]).toEqual([fixture.digest, true]);
    expect(await fixture.problems(digest)).toEqual([]);
    await expect(fixture.again({ parent: "0".repeat(64) })).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("a tag that is damaged is moved, and taken away", async () => {
    for (const mend of ["publish", "tag", "untag"] as const) {
      const fixture = await published();
      damage(fixture, `tags/disk/latest/${"1".padStart(16, "0")}`);
      await expect(openImage({ image: "/s/disk" }, { store: fixture.store })).rejects.toMatchObject({
        code: "EIO",
      });
      // The other store was closed with what could not be opened.
      const store = storeOf(fixture.bucket);
      if (mend === "publish") await publish(fixture.disk, store, { name: "disk", tag: "latest" });
      else if (mend === "tag") await moveTag(store, "disk", "latest", fixture.digest);
      else expect(await removeTag(store, "disk", "latest")).toBe(true);
      expect((await listImages(store)).flatMap(({ tags }) => tags)).toEqual(
        mend === "untag" ? [] : ["latest"],
      );
    }
  });

  test("a blob that is missing is an error that says what brings it back", async () => {
    const fixture = await published();
    const { chunks } = await fixture.keys();
    for (const key of chunks) fixture.bucket.objects.delete(key);
    const device = await openImage({ image: "/s/disk", cache: "none" }, { store: fixture.store });
    await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({
      code: "ENOENT",
      hint: expect.stringContaining("Publish the image again"),
    });
    await device.close();
  });
});

describe("options that cannot be", () => {
  test.each([
    [{}, "name is missing"],
    [{ name: "disk" }, "tag is missing"],
    [{ name: "../x", tag: "latest" }, "no name of an image"],
    [{ name: "disk", tag: "" }, "no name of a tag"],
    [{ name: "disk", tag: "latest", codec: "foo" }, 'codec is "foo"'],
    [{ name: "disk", tag: "latest", parallel: 0 }, "parallel is 0"],
    [{ name: "disk", tag: "latest", parallel: Number.NaN }, "parallel is NaN"],
    [{ name: "disk", tag: "latest", parallel: 65 }, "parallel is 65"],
    [{ name: "disk", tag: "latest", parent: "latest" }, 'parent is "latest"'],
    [{ name: "disk", tag: "latest", chunkSize: Number.NaN }, "chunkSize is NaN"],
    [{ name: "disk", tag: "latest", hotList: [-1] }, "hotList is a list"],
  ])("publish %j: %s", async (options, reason) => {
    const fixture = await published();
    const before = fixture.bucket.objects.size;
    await expect(publish(fixture.disk, fixture.store, options as PublishOptions)).rejects.toMatchObject({
      code: "EINVAL",
      message: expect.stringContaining(reason),
      hint: expect.stringMatching(/./),
    });
    expect(fixture.bucket.objects.size).toBe(before);
  });

  test("a tag that says something else than it must, and what was looked at and is not right", async () => {
    const fixture = await published();
    const { digest, store } = fixture;
    const again = (extra: Partial<PublishOptions>): Promise<Published> => fixture.again(extra);
    const tags = async (): Promise<unknown> => (await listImages(store)).map((one) => [one.digest, one.tags]);
    const before = await tags();
    await expect(again({ replaces: null })).rejects.toMatchObject({ code: "EBUSY" });
    await expect(again({ replaces: null, parent: digest })).rejects.toMatchObject({ code: "EBUSY" });
    await expect(again({ tag: "new", replaces: digest, parent: digest })).rejects.toMatchObject({
      code: "EBUSY",
    });
    expect(await tags()).toEqual(before);
    const checked: Digest[] = [];
    const check = (found: Digest): Promise<void> => {
      checked.push(found);
      return checked.length === 1 ? Promise.reject(new Error("not right")) : Promise.resolve();
    };
    const options = { tag: "new", replaces: null, parent: digest, check };
    await expect(again(options)).rejects.toThrow("not right");
    expect((await listImages(store)).flatMap((one) => one.tags)).toEqual(["latest"]);
    const { digest: found } = await again(options);
    expect(checked).toEqual([found, found]);
    expect((await listImages(store)).find((one) => one.digest === found)?.tags).toContain("new");
  });

  test("names and digests of every other call", async () => {
    const { store, digest } = await published();
    const calls = [
      () => readManifest(store, "disk", "x"),
      () => moveTag(store, "Disk", "latest", digest),
      () => moveTag(store, "disk", "", digest),
      () => removeTag(store, undefined as unknown as string, "latest"),
      () => verifyImage(store, "disk", "x").next(),
    ];
    for (const call of calls) await expect((async () => call())()).rejects.toMatchObject({ code: "EINVAL" });
  });
});
