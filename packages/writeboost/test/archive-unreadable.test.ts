/** A cache with an archive that does not give a sector of a segment which the archive lacks. */
import { expect, it } from "vitest";
import type { ArchivedSegment, SegmentArchive } from "../src/device/archive/segment-archive.ts";
import { BLOCK, MIB, Rig, filled } from "./support/rig.ts";

const SLOTS = 8;
const SLOT = 512 * 2 ** 4;
const dataOf = (id: number): number => MIB + (id - 1) * SLOT + BLOCK;

/** An archive that takes everything, once the store is there. */
class Store implements SegmentArchive {
  readonly name = "store";
  readonly shipped = 0;
  readonly offset = 100;
  readonly trouble: undefined;
  /** The first byte of what each segment has. */
  readonly taken: number[] = [];
  arrive!: () => void;
  readonly #here: Promise<void> = new Promise((resolve) => (this.arrive = resolve));

  async write(_first: number, segments: readonly ArchivedSegment[]): Promise<void> {
    await this.#here;
    for (const { data } of segments) this.taken.push(data.readUInt8(data.length - 1));
  }

  async close(): Promise<void> {
    this.arrive();
  }
}

/** Segments 1 … 6, block 10 + id in each, of which only the first is on its way to the archive. */
async function used(flush: "local" | "remote" = "local"): Promise<{ rig: Rig; store: Store }> {
  const store = new Store();
  const archive = { attach: () => Promise.resolve(store), flush };
  const rig = new Rig({
    order: 4,
    slots: SLOTS,
    options: { archive, pool: 1, tunables: { allow_writeback: 0 } },
  });
  await rig.open();
  const segment = (id: number): Promise<void> =>
    flush === "local" ? rig.segment(10 + id, 0x10 + id) : rig.write(10 + id, 0x10 + id);
  await segment(1);
  await rig.clock.pass(2000);
  for (let id = 2; id <= 6; id += 1) await segment(id);
  return { rig, store };
}

/** The data of segment 3 is not given: as often as it is asked for, up to 10,000 times. Returns how often that was. */
function spoil(rig: Rig): { reads: number } {
  const asked = { reads: 0 };
  rig.cache.refuse = ({ op, offset, length }) => {
    const at = dataOf(3) + 512;
    if (op !== "read" || at + 512 <= offset || offset + length <= at) return false;
    asked.reads += 1;
    return asked.reads <= 10_000;
  };
  return asked;
}

/** Writes more than there is room for. */
async function fill(rig: Rig): Promise<void> {
  for (let block = 20; block < 23; block += 1) await rig.write(block, block);
}

it("a segment that is not given is waited for, tried now and then, and named until it is there", async () => {
  const { rig, store } = await used();
  await rig.segment(13, 0x77);
  const { device } = rig;
  await device.dropCaches();
  const asked = spoil(rig);
  store.arrive();
  await rig.clock.pass(2000);
  expect(store.taken).toEqual([0x11, 0x12]);
  let isOver = false;
  const waiting = fill(rig).then(() => (isOver = true));
  await rig.clock.pass(5000);
  expect(isOver).toBe(false);
  // No more than one try is made in a second, and what is in the cache can be read meanwhile.
  expect(asked.reads).toBeLessThan(12);
  expect(await rig.read(14)).toEqual(filled(0x14));
  expect(device.health()).toMatchObject({
    state: "degraded",
    why: expect.stringMatching(/writes wait since the log is full: .*segment 3 cannot be read/) as string,
    help: expect.stringContaining("archive none") as string,
  });
  rig.cache.refuse = () => false;
  await rig.clock.pass(2000);
  await waiting;
  expect(store.taken.slice(0, 7)).toEqual([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x77]);
  expect(device.health().state).toBe("ok");
  await device.close();
});

it("the way out that health names is one", async () => {
  const { rig, store } = await used();
  await rig.segment(13, 0x77);
  spoil(rig);
  store.arrive();
  await rig.clock.pass(2000);
  const writing = fill(rig).catch((error: unknown) => error);
  await rig.clock.pass(1000);
  await rig.device.dropCaches();
  const closing = rig.device.close();
  await rig.clock.pass(30_000);
  await closing;
  expect(await writing).toMatchObject({ code: "ETIMEDOUT", op: "write" });
  await rig.open({ archive: "none" });
  expect(await rig.read(13)).toEqual(filled(0x77));
});

it("suspending ends, and when the device gives the segment again nothing is missing in the archive", async () => {
  const { rig, store } = await used();
  await rig.segment(13, 0x77);
  await rig.device.dropCaches();
  spoil(rig);
  store.arrive();
  await rig.clock.pass(2000);
  const writing = fill(rig).catch((error: unknown) => error);
  await rig.clock.pass(1000);
  const suspending = rig.device.suspend();
  await rig.clock.pass(11_000);
  await suspending;
  expect(await writing).toMatchObject({ code: "ETIMEDOUT", op: "write" });
  rig.cache.refuse = () => false;
  await rig.device.resume();
  await rig.clock.pass(2000);
  await fill(rig);
  expect(store.taken.slice(0, 7)).toEqual([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x77]);
  await rig.device.close();
});

it("a flush that waits for the archive is told, each time, until the segment is there", async () => {
  const { rig, store } = await used("remote");
  const { device } = rig;
  spoil(rig);
  store.arrive();
  await device.write(13 * BLOCK, Buffer.alloc(BLOCK, 0x77));
  for (let time = 0; time < 2; time += 1) {
    const flush = device.flush().catch((error: unknown) => error);
    await rig.clock.pass(1000);
    expect(await flush).toMatchObject({
      lossless: true,
      cause: { reason: "segment 3 cannot be read from the cache device" },
    });
  }
  rig.cache.refuse = () => false;
  await rig.clock.pass(1000);
  await device.flush();
  expect(store.taken).toEqual([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x77]);
  await device.close();
});
