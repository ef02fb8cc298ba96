/** Images: published, opened, read, verified, collected; against a plain copy of the device. */
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { type BlockDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { ManualClock, SeededRandom } from "@dmkit/block-io/testing";
import { type ObjectStore, RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import {
  type BlobProblem,
  type ImageDevice,
  type PublishOptions,
  type Published,
  collect,
  listImages,
  moveTag,
  openImage,
  publish,
  readManifest,
  removeTag,
  verifyImage,
} from "../src/index.ts";

const CHUNK = 64 * 1024;
const folder = mkdtempSync(join(tmpdir(), "dmkit-image-"));
afterAll(() => {
  chmodSync(folder, 0o700);
  rmSync(folder, { recursive: true });
});

let caches = 0;
const newCache = (): string => join(folder, `cache-${(caches += 1)}`);

function bucketStore(bucket: SimulatedBucket, clock = realEnvironment.clock): ObjectStore {
  const environment = { ...realEnvironment, clock };
  return new RetryingStore(new SimulatedTransport(bucket, { environment, latency: 0 }), { environment });
}

function options(extra: Record<string, unknown> = {}) {
  return { image: "/store/disk", cache: "none", ...extra };
}

function open(bucket: SimulatedBucket, extra: Record<string, unknown> = {}): Promise<ImageDevice> {
  return openImage(options(extra), { store: bucketStore(bucket) });
}

async function diskOf(contents: Buffer): Promise<MemoryDevice> {
  const disk = new MemoryDevice(contents.length);
  for (let at = 0; at < contents.length; at += 4096) {
    const part = contents.subarray(at, Math.min(at + 4096, contents.length));
    if (!part.every((byte) => byte === 0)) await disk.write(at, part);
  }
  return disk;
}

async function publishTo(
  bucket: SimulatedBucket,
  source: BlockDevice,
  extra: Partial<PublishOptions> = {},
): Promise<Published> {
  return publish(source, bucketStore(bucket), { name: "disk", tag: "latest", chunkSize: CHUNK, ...extra });
}

async function readAll(device: BlockDevice): Promise<Buffer> {
  const all = Buffer.alloc(device.size);
  await device.read(0, all);
  return all;
}

/** Random bytes in some chunks, text in others, the rest zero; the last chunk is short. */
function contentsOf(seed: number, chunks = 10): Buffer {
  const random = new SeededRandom(seed);
  const contents = Buffer.alloc(chunks * CHUNK - 512 * 3);
  for (let chunk = 0; chunk < chunks; chunk += 1) {
    const kind = random.next();
    const start = chunk * CHUNK;
    const end = Math.min(contents.length, start + CHUNK);
    if (kind < 0.4) for (let at = start; at < end; at += 1) contents[at] = Math.floor(random.next() * 256);
    else if (kind < 0.7) contents.fill(`chunk ${kind < 0.5 ? "same" : chunk} `, start, end);
  }
  return contents;
}

describe("what was published is what is read", () => {
  test("any contents, any reads", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(1e6),
        fc.constantFrom("none", "zstd", "lz4"),
        fc.array(fc.tuple(fc.nat(1279), fc.integer({ min: 1, max: 300 })), { maxLength: 20 }),
        async (seed, codec, reads) => {
          const contents = contentsOf(seed);
          const bucket = new SimulatedBucket();
          await publishTo(bucket, await diskOf(contents), { codec: codec as "zstd" });
          const device = await open(bucket);
          await Promise.all(
            reads.map(async ([sector, count]) => {
              const offset = Math.min(sector * 512, contents.length - 512);
              const into = Buffer.alloc(Math.min(count * 512, contents.length - offset));
              await device.read(offset, into);
              expect(into.equals(contents.subarray(offset, offset + into.length))).toBe(true);
            }),
          );
          expect((await readAll(device)).equals(contents)).toBe(true);
          await device.close();
        },
      ),
      { numRuns: 25 },
    );
  });

  test("zero chunks are holes, cost nothing, and equal chunks are one blob", async () => {
    const contents = Buffer.alloc(100 * CHUNK);
    for (const chunk of [3, 50, 99]) contents.fill("same", chunk * CHUNK, (chunk + 1) * CHUNK);
    const bucket = new SimulatedBucket();
    const published = await publishTo(bucket, await diskOf(contents));
    // The chunk and the page.
    expect(published.blobs).toBe(2);
    expect(published.read).toBe(3 * CHUNK);
    const device = await open(bucket);
    const kinds: string[] = [];
    for await (const { offset, kind } of device.extents(0, device.size))
      if (kind === "data") kinds.push(String(offset / CHUNK));
    expect(kinds).toEqual(["3", "50", "99"]);
    await device.close();
  });

  test("an image of several pages", async () => {
    const size = 4096 * CHUNK * 2 + CHUNK;
    const disk = new MemoryDevice(size);
    const places = [0, 4095, 4096, 8191, 8192].map((chunk) => chunk * CHUNK);
    for (const place of places) await disk.write(place, Buffer.alloc(512, `at ${place}`));
    const bucket = new SimulatedBucket();
    await publishTo(bucket, disk);
    const device = await open(bucket);
    // A page is fetched when something in it is read, and then stays in memory.
    const fetches = (): unknown => device.facts()["fetches"];
    expect(fetches()).toBe(0);
    for (const [place, sum] of [
      [0, 2],
      [4095 * CHUNK, 3],
      [8191 * CHUNK, 5],
    ] as const) {
      await device.read(place, Buffer.alloc(512));
      expect(fetches()).toBe(sum);
    }
    for (const place of places) {
      const into = Buffer.alloc(1024);
      await device.read(place, into);
      expect(into.equals(Buffer.concat([Buffer.alloc(512, `at ${place}`), Buffer.alloc(512)]))).toBe(true);
    }
    await device.close();
  });

  test("many readers of one chunk fetch it once", async () => {
    const bucket = new SimulatedBucket();
    await publishTo(bucket, await diskOf(Buffer.alloc(2 * CHUNK, "data")));
    const device = await open(bucket, { readahead: 0 });
    await Promise.all(Array.from({ length: 32 }, () => device.read(4096, Buffer.alloc(512))));
    // The page and the chunk.
    expect(device.status()).toContain("fetches 2 ");
    await device.close();
  });
});

describe("publishing again", () => {
  test("uploads only what changed, also when what changed is said", async () => {
    const first = contentsOf(7);
    const bucket = new SimulatedBucket();
    const { digest } = await publishTo(bucket, await diskOf(first));
    const second = Buffer.from(first);
    second.fill("new", 4 * CHUNK + 4096, 4 * CHUNK + 8192);
    const known = [{ offset: 4 * CHUNK + 4096, length: 4096 }];
    const said = await publishTo(bucket, await diskOf(second), {
      tag: "said",
      parent: digest,
      changed: (async function* () {
        yield* known;
      })(),
    });
    expect(said.read).toBe(CHUNK);
    expect(said.blobs).toBe(2);
    const found = await publishTo(bucket, await diskOf(second));
    expect(found.blobs).toBe(0);
    expect(found.digest).toBe(said.digest);
    const device = await open(bucket, { image: "/store/disk:said" });
    expect((await readAll(device)).equals(second)).toBe(true);
    await device.close();
    const old = await open(bucket, { image: `/store/disk@${digest}` });
    expect((await readAll(old)).equals(first)).toBe(true);
    await old.close();
  });

  test("interrupted and run again, it goes on with what was uploaded", async () => {
    const disk = await diskOf(contentsOf(3, 40));
    const bucket = new SimulatedBucket();
    const abort = new AbortController();
    const interrupted = publishTo(bucket, disk, {
      parallel: 1,
      signal: abort.signal,
      progress: ({ done }) => {
        if (done > 20 * CHUNK) abort.abort();
      },
    });
    await expect(interrupted).rejects.toBeDefined();
    const before = bucket.objects.size;
    expect([...bucket.objects.keys()].every((key) => key.startsWith("blobs/"))).toBe(true);
    const { blobs, tagged } = await publishTo(bucket, disk);
    expect(tagged).toBe(true);
    expect([...bucket.objects.keys()].filter((key) => key.startsWith("blobs/"))).toHaveLength(before + blobs);
  });

  test("of two who publish one tag at once, one moves it, and both images are there", async () => {
    const bucket = new SimulatedBucket();
    const both = await Promise.all(
      [1, 2].map(async (seed) => publishTo(bucket, await diskOf(contentsOf(seed)))),
    );
    expect(both.map(({ tagged }) => tagged).filter(Boolean)).toHaveLength(1);
    for (const { digest, tagged } of both) {
      const device = await open(bucket, tagged ? {} : { image: `/store/disk@${digest}` });
      expect(device.status().startsWith(digest)).toBe(true);
      await device.close();
    }
  });

  test("a store that ignores conditions is refused before anything is written", async () => {
    const bucket = new SimulatedBucket();
    const careless = new SimulatedTransport(bucket, {
      environment: realEnvironment,
      latency: 0,
      ignoresConditions: true,
    });
    const publication = publish(await diskOf(contentsOf(1)), new RetryingStore(careless), {
      name: "disk",
      tag: "latest",
    });
    await expect(publication).rejects.toMatchObject({ code: "ENOTSUP" });
    expect(bucket.objects.size).toBe(0);
  });
});

describe("the cache on the node", () => {
  test("is shared: the second image fetches nothing that the first one has", async () => {
    const contents = contentsOf(11);
    const bucket = new SimulatedBucket();
    await publishTo(bucket, await diskOf(contents));
    const cache = newCache();
    for (const fetches of [/fetches [1-9]/, /fetches 0 /]) {
      const device = await open(bucket, { cache });
      expect((await readAll(device)).equals(contents)).toBe(true);
      expect(device.status()).toMatch(fetches);
      await device.close();
    }
  });

  test("edited by hand or cut off, it is fetched again and never served", async () => {
    const contents = contentsOf(12);
    const bucket = new SimulatedBucket();
    await publishTo(bucket, await diskOf(contents));
    const cache = newCache();
    await readAll(await open(bucket, { cache }));
    for (const part of readdirSync(cache)) {
      for (const name of readdirSync(join(cache, part))) {
        const path = join(cache, part, name);
        const body = readFileSync(path);
        if (name < "8") writeFileSync(path, body.subarray(0, body.length >> 1));
        else {
          body[body.length - 1] = (body[body.length - 1] ?? 0) ^ 1;
          writeFileSync(path, body);
        }
      }
    }
    const device = await open(bucket, { cache });
    expect((await readAll(device)).equals(contents)).toBe(true);
    expect(device.status()).toMatch(/damaged [1-9]/);
    await device.close();
  });

  test("keeps to its size, and loses the least recently used first", async () => {
    const bucket = new SimulatedBucket();
    const contents = Buffer.alloc(400 * CHUNK);
    const random = new SeededRandom(1);
    for (let at = 0; at < contents.length; at += 4)
      contents.writeUInt32LE(Math.floor(random.next() * 2 ** 32), at);
    await publishTo(bucket, await diskOf(contents));
    const cache = newCache();
    const device = await open(bucket, { cache, cache_size: 16 * 2 ** 20, memory: 8 * 2 ** 20 });
    expect((await readAll(device)).equals(contents)).toBe(true);
    await device.close();
    const names = readdirSync(cache).flatMap((part) =>
      readdirSync(join(cache, part)).map((name) => join(cache, part, name)),
    );
    const bytes = names.reduce((sum, path) => sum + readFileSync(path).length, 0);
    expect(bytes).toBeLessThanOrEqual(17 * 2 ** 20);
    expect(bytes).toBeGreaterThan(8 * 2 ** 20);
  });

  test("a folder that cannot be written costs fetches, not reads", async () => {
    const contents = contentsOf(13);
    const bucket = new SimulatedBucket();
    await publishTo(bucket, await diskOf(contents));
    writeFileSync(join(folder, "file"), "no folder");
    const device = await open(bucket, { cache: join(folder, "file") });
    expect((await readAll(device)).equals(contents)).toBe(true);
    await device.close();
  });
});

describe("damage", () => {
  test("a blob that is flipped, cut or gone is an error of the reads that need it, and of no others", async () => {
    const contents = contentsOf(21, 30);
    const bucket = new SimulatedBucket();
    const { digest } = await publishTo(bucket, await diskOf(contents));
    const manifest = await readManifest(bucketStore(bucket), "disk", digest);
    const chunks = [...bucket.objects.keys()].filter(
      (key) => key.startsWith("blobs/") && !manifest.pages.some((page) => key.endsWith(page ?? "-")),
    );
    const damage = new Map<string, BlobProblem["kind"]>();
    for (const [index, key] of chunks.entries()) {
      const body = Buffer.from(bucket.objects.get(key) as Buffer);
      if (index % 4 === 0) body[index % body.length] = (body[index % body.length] ?? 0) ^ 16;
      if (index % 4 === 0) bucket.objects.set(key, body);
      if (index % 4 === 1) bucket.objects.set(key, body.subarray(0, body.length - 1));
      if (index % 4 === 2) bucket.objects.delete(key);
      if (index % 4 < 3) damage.set(key.slice(-64), index % 4 === 2 ? "missing" : "damaged");
    }
    const problems: BlobProblem[] = [];
    for await (const problem of verifyImage(bucketStore(bucket), "disk", digest)) problems.push(problem);
    for (const { blob, kind } of problems) expect(damage.get(blob)).toBe(kind);
    expect(new Set(problems.map(({ blob }) => blob))).toEqual(new Set(damage.keys()));
    const bad = new Set(problems.map(({ offset }) => offset));
    const device = await open(bucket);
    for (let offset = 0; offset < device.size; offset += CHUNK) {
      const into = Buffer.alloc(512);
      const read = device.read(offset, into);
      if (bad.has(offset))
        await expect(read).rejects.toMatchObject({ code: expect.stringMatching(/EIO|ENOENT/) });
      else {
        await read;
        expect(into.equals(contents.subarray(offset, offset + 512))).toBe(true);
      }
    }
    await device.close();
  });

  test("no flip of a bit of a manifest is believed", async () => {
    const bucket = new SimulatedBucket();
    const { digest } = await publishTo(bucket, await diskOf(contentsOf(1)));
    const key = `images/disk/${digest}`;
    const good = bucket.objects.get(key) as Buffer;
    for (let bit = 0; bit < good.length * 8; bit += 7) {
      const body = Buffer.from(good);
      body[bit >> 3] = (body[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      bucket.objects.set(key, body);
      await expect(open(bucket)).rejects.toMatchObject({ code: "EIO" });
    }
  });

  test("an image or tag that is not there: the error says what there is", async () => {
    const bucket = new SimulatedBucket();
    await publishTo(bucket, await diskOf(contentsOf(1)));
    await expect(open(bucket, { image: "/store/disk:other" })).rejects.toMatchObject({
      code: "ENOENT",
      hint: "Its tags: latest.",
    });
    await expect(open(bucket, { image: "/store/else" })).rejects.toMatchObject({ code: "ENOENT" });
    await expect(open(bucket, { image: `/store/disk@${"0".repeat(64)}` })).rejects.toMatchObject({
      code: "ENOENT",
    });
  });
});

describe("hot lists", () => {
  test("the order of first reads, published, is fetched when the image opens", async () => {
    const contents = Buffer.alloc(20 * CHUNK, "text that differs ");
    for (let chunk = 0; chunk < 20; chunk += 1) contents.write(`${chunk}`, chunk * CHUNK);
    const bucket = new SimulatedBucket();
    const disk = await diskOf(contents);
    await publishTo(bucket, disk);
    const recording = await open(bucket, { readahead: 0 });
    for (const chunk of [7, 3, 7, 12]) await recording.read(chunk * CHUNK, Buffer.alloc(512));
    expect(await recording.message(["first_reads"])).toBe("7 3 12");
    const hotList = recording.firstReads;
    await recording.close();
    await publishTo(bucket, disk, { hotList });
    const device = await open(bucket, { readahead: 0 });
    // The list, the page and three chunks come by themselves.
    await expect.poll(() => device.status()).toContain("fetches 5 ");
    for (const chunk of [12, 3, 7]) await device.read(chunk * CHUNK, Buffer.alloc(512));
    expect(device.status()).toContain("fetches 5 ");
    await device.close();
    const cold = await open(bucket, { hot: false });
    expect(cold.status()).toContain("fetches 0 ");
    await cold.close();
  });
});

describe("collection", () => {
  const day = 24 * 3_600_000;

  test("takes what nobody uses and is old, and nothing else", async () => {
    const clock = new ManualClock();
    const bucket = new SimulatedBucket();
    const store = bucketStore(bucket, clock);
    const environment = { ...realEnvironment, clock };
    const move = async <T>(work: Promise<T>): Promise<T> => {
      const state = { over: false };
      const end = (): void => void (state.over = true);
      work.then(end, end);
      while (!state.over) await clock.pass(1);
      return work;
    };
    const put = async (seed: number, tag: string) =>
      move(
        publish(await diskOf(contentsOf(seed)), store, { name: "disk", tag, chunkSize: CHUNK, environment }),
      );
    const first = await put(31, "latest");
    const second = await put(32, "latest");
    const kept = await put(33, "kept");
    expect(await move(collect(store, { environment }))).toMatchObject({ blobs: 0, manifests: 0 });
    clock.advance(2 * day);
    const dry = await move(collect(store, { environment, dryRun: true }));
    expect(dry.manifests).toBe(1);
    const objects = bucket.objects.size;
    expect(await move(collect(store, { environment }))).toEqual(dry);
    // Its manifest, and the key of the collection is gone again.
    expect(objects - bucket.objects.size).toBe(dry.blobs + 1);
    await expect(move(readManifest(store, "disk", first.digest))).rejects.toMatchObject({ code: "ENOENT" });
    for (const { digest } of [second, kept]) {
      const problems: BlobProblem[] = [];
      await move(
        (async () => {
          for await (const problem of verifyImage(store, "disk", digest)) problems.push(problem);
        })(),
      );
      expect(problems).toEqual([]);
    }
    await move(removeTag(store, "disk", "latest"));
    expect((await move(collect(store, { environment }))).manifests).toBe(1);
    expect((await move(listImages(store))).map(({ digest, tags }) => [digest, tags])).toEqual([
      [kept.digest, ["kept"]],
    ]);
  });

  test("a blob that is old and unused is uploaded again by who needs it, and then stays", async () => {
    const clock = new ManualClock();
    const bucket = new SimulatedBucket();
    const environment = { ...realEnvironment, clock };
    const store = bucketStore(bucket, clock);
    const state = { over: false };
    const run = async <T>(work: Promise<T>): Promise<T> => {
      state.over = false;
      const end = (): void => void (state.over = true);
      work.then(end, end);
      while (!state.over) await clock.pass(1);
      return work;
    };
    const contents = contentsOf(41);
    const settings = { name: "disk", tag: "latest", chunkSize: CHUNK, environment };
    const disk = await diskOf(contents);
    await run(publish(disk, store, settings));
    await run(removeTag(store, "disk", "latest"));
    clock.advance(2 * day);
    const again = await run(publish(disk, store, settings));
    expect(again.blobs).toBeGreaterThan(0);
    expect((await run(collect(store, { environment }))).blobs).toBe(0);
    const device = await run(openImage(options(), { store, environment }));
    expect((await run(readAll(device))).equals(contents)).toBe(true);
  });

  test("only one at a time", async () => {
    const bucket = new SimulatedBucket();
    const both = await Promise.allSettled([collect(bucketStore(bucket)), collect(bucketStore(bucket))]);
    const refused = both.filter(({ status }) => status === "rejected");
    for (const result of refused) expect(result).toMatchObject({ reason: { code: "EBUSY" } });
    expect(bucket.objects.size).toBe(0);
  });
});

test("a tag is moved to what is there only", async () => {
  const bucket = new SimulatedBucket();
  const { digest } = await publishTo(bucket, await diskOf(contentsOf(1)));
  await moveTag(bucketStore(bucket), "disk", "stable", digest);
  const device = await open(bucket, { image: "/store/disk:stable" });
  expect(device.status().startsWith(digest)).toBe(true);
  await device.close();
  await expect(moveTag(bucketStore(bucket), "disk", "stable", "0".repeat(64))).rejects.toMatchObject({
    code: "ENOENT",
  });
});
