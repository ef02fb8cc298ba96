/** What cannot be read is named, and stands in the way of nothing else. */
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { type ObjectStore, RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { describe, expect, test } from "vitest";
import { collect, listImages, publish, removeTag } from "../src/index.ts";
import { digestOf } from "../src/device/blob-coder.ts";
import { encodeTag, manifestKey, tagKey } from "../src/format/layout.ts";
import { encodeManifest } from "../src/format/manifest.ts";

const CHUNK = 64 * 1024;
const DAY = 24 * 3_600_000;

class Fixture {
  readonly bucket = new SimulatedBucket();
  readonly clock = new ManualClock();
  readonly environment = { ...realEnvironment, clock: this.clock };
  readonly store: ObjectStore = new RetryingStore(
    new SimulatedTransport(this.bucket, { environment: this.environment, latency: 0 }),
    { environment: this.environment },
  );

  /** Lets the clock go on until it is done. */
  async run<T>(work: Promise<T>): Promise<T> {
    const state = { over: false };
    const end = (): void => void (state.over = true);
    work.then(end, end);
    while (!state.over) await this.clock.pass(1);
    return work;
  }

  async publish(name: string, tag = "latest"): Promise<string> {
    const source = new MemoryDevice(2 * CHUNK);
    await source.write(0, Buffer.alloc(CHUNK, `${name} ${tag}`));
    const { environment } = this;
    const options = { name, tag, chunkSize: CHUNK, environment };
    return (await this.run(publish(source, this.store, options))).digest;
  }

  /** A whole manifest of an image without bytes, as it was once published, and a tag that says it. */
  async publishNothing(name: string): Promise<string> {
    const head = encodeManifest({
      size: 0,
      chunkSize: CHUNK,
      parent: undefined,
      hotList: undefined,
      hotCount: 0,
      pages: [],
    });
    const digest = digestOf(head);
    await this.run(
      this.store.put(manifestKey(name, digest), Buffer.concat([head, Buffer.from(digest, "hex")])),
    );
    await this.run(this.store.put(tagKey(name, "latest", 1), encodeTag({ digest, time: 0, token: "t" })));
    return digest;
  }

  blobs(): number {
    return [...this.bucket.objects.keys()].filter((key) => key.startsWith("blobs/")).length;
  }
}

describe("publish", () => {
  test("refuses an empty source before anything is written", async () => {
    const { store, bucket } = new Fixture();
    const source = new MemoryDevice(0, { name: "source" });
    await expect(publish(source, store, { name: "disk", tag: "latest" })).rejects.toMatchObject({
      code: "EINVAL",
      device: "source",
    });
    expect(bucket.objects.size).toBe(0);
  });

  test("goes on without a version before that contradicts itself", async () => {
    const fixture = new Fixture();
    const nothing = await fixture.publishNothing("disk");
    expect(await fixture.publish("disk")).not.toBe(nothing);
    expect(
      (await fixture.run(listImages(fixture.store))).find(({ tags }) => tags.length > 0)?.digest,
    ).not.toBe(nothing);
  });
});

describe("a collection", () => {
  test("names a version it cannot read, and takes versions, but no blobs", async () => {
    const fixture = new Fixture();
    const { store, environment, clock } = fixture;
    const nothing = await fixture.publishNothing("empty");
    await fixture.publish("gone");
    await fixture.run(removeTag(store, "gone", "latest"));
    clock.advance(2 * DAY);
    const blobs = fixture.blobs();
    expect(await fixture.run(collect(store, { environment }))).toMatchObject({
      blobs: 0,
      manifests: 1,
      kept: blobs,
      unreadable: [{ what: `empty@${nothing}`, error: { code: "EFORMAT" } }],
    });
    expect(fixture.blobs()).toBe(blobs);
    // Without its tag it is needed by nobody.
    await fixture.run(removeTag(store, "empty", "latest"));
    expect(await fixture.run(collect(store, { environment }))).toMatchObject({
      blobs,
      manifests: 1,
      unreadable: [],
    });
  });

  test.each(["tag", "page"])("keeps what is behind a %s that is damaged", async (what) => {
    const fixture = new Fixture();
    const { store, environment, clock, bucket } = fixture;
    await fixture.publish("disk", "other");
    const digest = await fixture.publish("disk");
    await fixture.run(removeTag(store, "disk", "other"));
    await fixture.publish("gone");
    await fixture.run(removeTag(store, "gone", "latest"));
    clock.advance(2 * DAY);
    const keys = [...bucket.objects.keys()].filter((key) =>
      key.startsWith(what === "tag" ? "tags/disk/" : "blobs/"),
    );
    for (const key of keys) bucket.objects.set(key, Buffer.from("damaged"));
    const blobs = fixture.blobs();
    // All versions of the image are in use, and their blobs: those of the other image go.
    expect(await fixture.run(collect(store, { environment }))).toMatchObject(
      what === "tag"
        ? { manifests: 1, blobs: 2, unreadable: [{ what: "disk:latest" }] }
        : { manifests: 2, blobs: 0, kept: blobs, unreadable: [{ what: `disk@${digest}` }] },
    );
  });
});

test("a list has all other images beside a tag that is damaged, and says which", async () => {
  const fixture = new Fixture();
  const { store, bucket } = fixture;
  await fixture.publish("a");
  const digest = await fixture.publish("b");
  bucket.objects.set(tagKey("a", "latest", 1), Buffer.from("damaged"));
  await expect(fixture.run(listImages(store))).rejects.toMatchObject({ code: "EIO" });
  const damaged: string[] = [];
  const found = await fixture.run(listImages(store, ({ name, tag }) => damaged.push(`${name}:${tag}`)));
  expect(damaged).toEqual(["a:latest"]);
  expect(found.map(({ name, tags }) => [name, tags])).toEqual([
    ["a", []],
    ["b", ["latest"]],
  ]);
  expect(found[1]?.digest).toBe(digest);
});
