import { BlockIoError, type ImageDevices, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { openTracked, trackedImages } from "../src/index.ts";

const CHUNK = 4096;
const work = { environment: realEnvironment };
const PAGES = 131_072;

/** Bitmaps of 40 chunks; in `a` chunks 1 and 2 are marked, in `b` chunk 30. */
async function made(): Promise<{ readonly bitmap: MemoryDevice; readonly device: MemoryDevice }> {
  const [device, bitmap] = [new MemoryDevice(40 * CHUNK), new MemoryDevice(2 ** 18)];
  const open = await openTracked(device, bitmap, { granularity: CHUNK, epochs: 4 });
  await open.begin("a");
  await open.write(CHUNK, Buffer.alloc(2 * CHUNK, 1));
  await open.begin("b");
  await open.write(30 * CHUNK, Buffer.alloc(CHUNK, 1));
  await open.close();
  return { bitmap, device };
}

async function bytesOf(device: MemoryDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  return bytes;
}

async function kinds(devices: ImageDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, role } of trackedImages.check(devices, work)) found.push(`${role} ${kind}`);
  return found;
}

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

describe("offline", () => {
  it("an epoch that began at no time there is can be listed, and told", async () => {
    const [device, bitmap] = [new MemoryDevice(40 * CHUNK), new MemoryDevice(2 ** 18)];
    const clock = { ...realEnvironment.clock, wallTime: () => Number.MAX_SAFE_INTEGER };
    const environment = { ...realEnvironment, clock };
    const open = await openTracked(device, bitmap, { granularity: CHUNK, epochs: 4, environment });
    await open.begin("a");
    const when = `${Number.MAX_SAFE_INTEGER} ms since 1970`;
    expect(await open.message(["list"])).toContain(`a ${when} `);
    await open.close();
    expect(await trackedImages.info({ bitmap }, work)).toMatchObject({ epoch_1: `a, begun ${when}` });
  });

  it("bitmaps are recognised and described", async () => {
    const { bitmap, device } = await made();
    expect(await trackedImages.detect(bitmap)).toMatchObject({ certainty: "magic", role: "bitmap" });
    expect(await trackedImages.detect(device)).toBeUndefined();
    expect(await trackedImages.info({ bitmap }, work)).toMatchObject({
      state: "closed cleanly",
      bytes: 40 * CHUNK,
      granularity_bytes: CHUNK,
      used_epochs: 2,
      lost_pages: 0,
      epoch_1_marked_bytes: 3 * CHUNK,
      epoch_2_marked_bytes: CHUNK,
    });
    expect(await kinds({ bitmap, device })).toEqual([]);
    const { strips, legend } = await trackedImages.map({ bitmap }, work);
    expect(strips.map(({ title }) => title.slice(0, 15))).toEqual([
      "changed since a",
      "changed since b",
      "bitmap device m",
    ]);
    const drawn = (strip: (typeof strips)[number] | undefined): string[] =>
      [...(strip?.ranges ?? [])].map(({ offset, length, kind }) => `${kind} ${offset / 512} ${length / 512}`);
    expect(drawn(strips[1])).toEqual(["same 0 240", "changed 240 8", "same 248 72"]);
    expect(drawn(strips[2])).toEqual([
      "superblock 0 16",
      "superblock 128 16",
      "bitmap 256 1",
      "bitmap 264 1",
    ]);
    for (const strip of strips)
      for (const { kind } of strip.ranges) expect(Object.keys(legend)).toContain(kind);
  });

  it("what is damaged is found and repaired, once", async () => {
    for (const place of [0, 65_536, PAGES, PAGES + 4096]) {
      const { bitmap, device } = await made();
      await bitmap.write(place, Buffer.alloc(512, 0xff));
      const kind = place < PAGES ? "superblock-copy" : "lost-page";
      expect(await kinds({ bitmap, device })).toEqual([`bitmap ${kind}`]);
      const repaired = await trackedImages.repair?.({ bitmap, device }, work);
      expect([repaired?.repaired.length, repaired?.left.length]).toEqual([1, 0]);
      expect(await kinds({ bitmap, device })).toEqual([]);
      const before = await bytesOf(bitmap);
      expect((await trackedImages.repair?.({ bitmap, device }, work))?.repaired).toEqual([]);
      expect((await bytesOf(bitmap)).equals(before)).toBe(true);
      const marked = (await trackedImages.info({ bitmap }, work))["epoch_1_marked_bytes"];
      expect(marked).toBe(place === PAGES ? 40 * CHUNK : 3 * CHUNK);
    }
  });

  it("what cannot be repaired is told", async () => {
    const { bitmap, device } = await made();
    await device.write(0, Buffer.alloc(512, 9));
    expect(await kinds({ bitmap, device })).toEqual(["device changed-data"]);
    expect(await kinds({ bitmap, device: new MemoryDevice(4096) })).toEqual(["device data-too-small"]);
    const cut = new MemoryDevice(PAGES);
    await cut.write(0, (await bytesOf(bitmap)).subarray(0, PAGES));
    expect(await kinds({ bitmap: cut })).toEqual(["bitmap too-small"]);
    for (const place of [0, 65_536]) await bitmap.write(place, Buffer.alloc(512, 0xff));
    expect(await kinds({ bitmap, device })).toEqual(["bitmap no-superblock"]);
    expect(await code(trackedImages.info({ bitmap }, work))).toBe("EFORMAT");
    expect(await code(Promise.resolve(trackedImages.dump?.({ bitmap }, work)))).toBe("EFORMAT");
    expect(await code(trackedImages.map({ bitmap }, work))).toBe("EFORMAT");
  });

  it("a dump of bitmaps that were not closed is restored as it was where nobody has opened them since, or all marked", async () => {
    const { bitmap, device } = await made();
    const open = await openTracked(device, bitmap);
    await open.write(0, Buffer.alloc(512, 1), { fua: true });
    // As a crash leaves them.
    const crashed = new MemoryDevice(2 ** 18);
    await crashed.write(0, await bytesOf(bitmap));
    const content = new MemoryDevice(device.size);
    await content.write(0, await bytesOf(device));
    const dump: unknown = JSON.parse(JSON.stringify(await trackedImages.dump?.({ bitmap: crashed }, work)));
    await trackedImages.restore?.({ bitmap: crashed }, dump, work);
    expect(JSON.parse(JSON.stringify(await trackedImages.dump?.({ bitmap: crashed }, work)))).toEqual(dump);
    const marked = async (on: MemoryDevice): Promise<boolean[]> => {
      const opened = await openTracked(content, on);
      const all = opened.epochs.map(({ marked: count, excess }) => excess && count === 40);
      await opened.close();
      return all;
    };
    const again = await openTracked(content, crashed);
    await again.write(20 * 4096, Buffer.alloc(512, 1), { fua: true });
    await again.close();
    for (const on of [crashed, new MemoryDevice(2 ** 18)]) {
      await trackedImages.restore?.({ bitmap: on }, dump, work);
      expect(await marked(on)).toEqual([true, true]);
    }
    await open.close();
  });

  it("a dump is restored without loss, and what is no dump is refused", async () => {
    const { bitmap, device } = await made();
    const dump = JSON.parse(JSON.stringify(await trackedImages.dump?.({ bitmap }, work))) as Record<
      string,
      unknown
    >;
    // One of the superblocks is damaged, the other one tells that nobody has opened the bitmaps since.
    const other = new MemoryDevice(2 ** 18);
    await other.write(0, await bytesOf(bitmap));
    await other.write(0, Buffer.alloc(512, 0x55));
    await trackedImages.restore?.({ bitmap: other }, dump, work);
    expect(JSON.parse(JSON.stringify(await trackedImages.dump?.({ bitmap: other }, work)))).toEqual(dump);
    const open = await openTracked(device, other);
    expect(open.epochs.map(({ name, marked }) => `${name} ${marked}`)).toEqual(["a 3", "b 1"]);
    await open.close();
    // Here it did, and there nothing is known.
    for (const on of [other, new MemoryDevice(2 ** 18)]) {
      await trackedImages.restore?.({ bitmap: on }, dump, work);
      const opened = await openTracked(device, on);
      expect(opened.epochs.map(({ name, marked }) => `${name} ${marked}`)).toEqual(["a 40", "b 40"]);
      await opened.close();
    }
    const wrong = async (change: Record<string, unknown>): Promise<string> => {
      const empty = new MemoryDevice(2 ** 18);
      const done = await code(
        Promise.resolve(trackedImages.restore?.({ bitmap: empty }, { ...dump, ...change }, work)),
      );
      expect((await bytesOf(empty)).every((byte) => byte === 0)).toBe(true);
      return done;
    };
    const superblock = dump["superblock"] as Record<string, unknown>;
    const [epoch] = dump["epochs"] as Record<string, unknown>[];
    for (const change of [
      { version: 2 },
      { superblock: undefined },
      { superblock: { ...superblock, geometry: { size: 2 ** 40, chunk: 4096, slots: 4 } } },
      { superblock: { ...superblock, geometry: { size: 4096, chunk: 5000, slots: 4 } } },
      { superblock: { ...superblock, uuid: "x" } },
      { superblock: { ...superblock, witness: "x" } },
      { superblock: { ...superblock, generation: -1 } },
      { epochs: [{ ...epoch, slot: 4 }] },
      { epochs: [{ ...epoch, name: "a b" }] },
      { epochs: [{ ...epoch, number: 99 }] },
      { epochs: [{ ...epoch, marked: [[39, 2]] }] },
      { epochs: [{ ...epoch, marked: 7 }] },
      { epochs: [epoch, epoch] },
      { epochs: 7 },
    ])
      expect(await wrong(change), JSON.stringify(change)).toBe("EINVAL");
    for (const nothing of [null, 7, "x", []])
      expect(await code(Promise.resolve(trackedImages.restore?.({ bitmap: other }, nothing, work)))).toBe(
        "EINVAL",
      );
  });

  it("new ones are made, and say what is wrong with what is asked for", async () => {
    const [bitmap, device] = [new MemoryDevice(2 ** 20), new MemoryDevice(2 ** 20)];
    const format = (
      words: Record<string, string>,
      devices: ImageDevices = { bitmap, device },
    ): Promise<string> => code(Promise.resolve(trackedImages.format?.(devices, words, work)));
    expect(await format({}, { bitmap })).toBe("EINVAL");
    expect(await format({ granularity: "5000" })).toBe("EINVAL");
    expect(await format({ size: "1P" })).toBe("EINVAL");
    expect(await format({ granularity: "4K", epochs: "2" })).toBe("no error");
    expect(await kinds({ bitmap, device })).toEqual([]);
    const open = await openTracked(device, bitmap);
    expect(open.facts()).toMatchObject({ granularity_bytes: 4096, epoch_slots: 2 });
    await open.close();
  });
});
