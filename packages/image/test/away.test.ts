/** A store that is away: at the start, in the middle, for an hour. One error in bounded time, and then it goes on. */
import { MemoryDevice } from "@dmkit/block-io";
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { expect, test } from "vitest";
import { collect, digestOf, openImage, publish } from "../src/index.ts";

const CHUNK = 65536;
const HOUR = 3_600_000;
const AWAY = { code: "ENOTCONN" };

const clock = new ManualClock();
const environment = { ...manualEnvironment(1, clock), random: new SeededRandom(1) };
const bucket = new SimulatedBucket();
const store = (): RetryingStore =>
  new RetryingStore(new SimulatedTransport(bucket, { environment }), { environment });

/** Lets time pass until it is over: a minute at the most. */
async function soon<T>(work: Promise<T>): Promise<T> {
  let isOver = false;
  const end = (): void => void (isOver = true);
  work.then(end, end);
  await clock.passUntil(() => isOver, clock.now() + 60_000, 3);
  expect(isOver).toBe(true);
  return work;
}

test("publishing, reading, opening and collecting end with one error in a minute, and go on when it is back", async () => {
  const source = new MemoryDevice(32 * CHUNK);
  await source.write(0, new SeededRandom(2).fill(Buffer.alloc(source.size)));
  const bytes = Buffer.alloc(source.size);
  await source.read(0, bytes);
  const options = { name: "golden", tag: "latest", chunkSize: CHUNK, codec: "none", environment } as const;

  bucket.isAway = true;
  await expect(soon(publish(source, store(), options))).rejects.toMatchObject(AWAY);
  expect(bucket.objects.size).toBe(0);
  bucket.isAway = false;
  const leave = ({ uploaded }: { readonly uploaded: number }): void => {
    if (uploaded >= 8 * CHUNK) bucket.isAway = true;
  };
  await expect(soon(publish(source, store(), { ...options, progress: leave }))).rejects.toMatchObject(AWAY);
  // Nothing names what is there; it is found when it goes on.
  expect([...bucket.objects.keys()].filter((key) => !key.startsWith("blobs/"))).toEqual([]);
  await clock.pass(HOUR);
  bucket.isAway = false;
  expect((await soon(publish(source, store(), options))).deduplicated).toBeGreaterThanOrEqual(8 * CHUNK);

  const settings = { image: "/store/golden", cache: "none", readahead: 0 };
  const device = await soon(openImage(settings, { store: store(), environment }));
  const first = Buffer.alloc(CHUNK);
  await soon(device.read(0, first));
  bucket.isAway = true;
  for (let minute = 0; minute < 3; minute += 1) {
    const other = Buffer.alloc(CHUNK);
    await expect(soon(device.read(8 * CHUNK, other))).rejects.toMatchObject(AWAY);
    expect(device.health()).toMatchObject({
      state: "degraded",
      why: expect.stringContaining("nobody answers") as string,
    });
    // What is here needs no store.
    await soon(device.read(0, first));
    expect(first.equals(bytes.subarray(0, CHUNK))).toBe(true);
    await clock.pass(HOUR / 3);
  }
  await expect(soon(openImage(settings, { store: store(), environment }))).rejects.toMatchObject(AWAY);
  await expect(soon(collect(store(), { environment }))).rejects.toMatchObject(AWAY);
  bucket.isAway = false;
  const all = Buffer.alloc(source.size);
  await soon(device.read(0, all));
  expect(all.equals(bytes)).toBe(true);
  expect(device.health()).toEqual({ state: "ok" });
  await soon(device.close());
});

test("a blob that is damaged in the store is told by the health, until it is whole again", async () => {
  const source = new MemoryDevice(4 * CHUNK);
  await source.write(0, new SeededRandom(3).fill(Buffer.alloc(source.size)));
  await soon(
    publish(source, store(), { name: "rotten", tag: "latest", chunkSize: CHUNK, codec: "none", environment }),
  );
  const settings = { image: "/store/rotten", cache: "none", readahead: 0 };
  const device = await soon(openImage(settings, { store: store(), environment }));
  const bytes = Buffer.alloc(CHUNK);
  await source.read(CHUNK, bytes);
  const key = `blobs/${digestOf(bytes).slice(0, 2)}/${digestOf(bytes)}`;
  const body = bucket.objects.get(key) as Buffer;
  bucket.objects.set(key, Buffer.from(body).fill(0, 1000, 1001).fill(1, 1001, 1002));
  await expect(soon(device.read(CHUNK, Buffer.alloc(512)))).rejects.toMatchObject({ code: "EIO" });
  const why = expect.stringContaining(digestOf(bytes)) as string;
  const help = expect.stringContaining("Publish the image again") as string;
  expect(device.health()).toMatchObject({ state: "needs check", why, help });
  await soon(device.read(0, Buffer.alloc(512)));
  expect(device.health().state).toBe("needs check");
  bucket.objects.delete(key);
  await expect(soon(device.read(CHUNK, Buffer.alloc(512)))).rejects.toMatchObject({ code: "ENOENT" });
  expect(device.health()).toMatchObject({ state: "needs check", why });
  bucket.objects.set(key, body);
  await soon(device.read(CHUNK, Buffer.alloc(512)));
  expect(device.health()).toEqual({ state: "ok" });
  await soon(device.close());
});
