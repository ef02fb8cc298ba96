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
async function used(): Promise<{ rig: Rig; store: Store }> {
  const store = new Store();
  const archive = { attach: () => Promise.resolve(store) };
  const rig = new Rig({
    order: 4,
    slots: SLOTS,
    options: { archive, pool: 1, tunables: { allow_writeback: 0 } },
  });
  await rig.open();
  await rig.segment(11, 0x11);
  await rig.clock.pass(2000);
  for (let id = 2; id <= 6; id += 1) await rig.segment(10 + id, 0x10 + id);
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

it("what the backing device has goes to the archive from there", async () => {
  const { rig, store } = await used();
  await rig.device.dropCaches();
  spoil(rig);
  store.arrive();
  await rig.clock.pass(3000);
  expect(store.taken).toEqual([0x11, 0x12, 0x13, 0x14, 0x15, 0x16]);
  expect(rig.device.health().state).toBe("ok");
  await rig.device.close();
});

it("what it has not, or not any more, is waited for, tried now and then, and named until it is there", async () => {
  const { rig, store } = await used();
  await rig.segment(13, 0x77);
  const { backing, device } = rig;
  await device.dropCaches();
  expect(backing.visible.readUInt8(13 * BLOCK)).toBe(0x77);
  const asked = spoil(rig);
  store.arrive();
  await rig.clock.pass(2000);
  expect(store.taken).toEqual([0x11, 0x12]);
  let isOver = false;
  const waiting = fill(rig).then(() => (isOver = true));
  await rig.clock.pass(5000);
  expect(isOver).toBe(false);
  // Each try reads the segment, then sector by sector, and no more than one is made in a second.
  expect(asked.reads).toBeLessThan(30);
  expect(device.status()).toContain("unread_id 103");
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
  expect(device.status()).not.toContain("unread_id");
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
