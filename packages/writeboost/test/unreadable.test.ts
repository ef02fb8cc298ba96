/** A cache device that does not give some of its sectors: what needs them fails and is named, everything else goes on. */
import { type BlockIoError, realEnvironment } from "@dmkit/block-io";
import { settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { sealSegment } from "../src/format/segment.ts";
import { openAt, repair, replay, viewRange, writeboostImages } from "../src/index.ts";
import { check } from "./support/check.ts";
import { spoilSectors } from "./support/bad-sectors.ts";
import { BLOCK, MIB, Rig, filled } from "./support/rig.ts";

const SLOTS = 12;
const SLOT = 512 * 2 ** 4;
const HEAD = 0;
const DATA = BLOCK;
const work = { environment: realEnvironment };

/**
 * Of the cache device, the blocks at these offsets cannot be read. Writing one mends it, as it does on disks, or fails as
 * well.
 */
function spoil({ cache }: Rig, offsets: readonly number[], alsoWrites = false): void {
  let bad = offsets;
  cache.refuse = ({ op, offset, length }) => {
    const touched = (at: number): boolean => offset < at + BLOCK && at < offset + length;
    if (op === "write" && !alsoWrites) bad = bad.filter((at) => !touched(at));
    return (op === "read" || op === "write") && bad.some(touched);
  };
}

const at = (id: number, part: number): number => MIB + ((id - 1) % SLOTS) * SLOT + part;

/** Segments `1` … `count`, each with the block of its number; then the power fails, or it is closed. */
async function used(count: number, closed: boolean): Promise<Rig> {
  const rig = new Rig({ order: 4, slots: SLOTS });
  const device = await rig.open();
  for (let id = 1; id <= count; id += 1) await rig.segment(id, 0x10 + id);
  if (closed) await device.close();
  await rig.crash();
  return rig;
}

async function failing(doing: Promise<unknown>): Promise<BlockIoError> {
  return doing.then(
    () => expect.fail("did not fail"),
    (error: unknown) => error as BlockIoError,
  );
}

const below = (rig: Rig, block: number): number => rig.backing.visible.readUInt8(block * BLOCK);

describe("the head of a slot that was never used", () => {
  it.each([
    ["after a crash", false],
    ["closed in order", true],
  ])("stops nothing, %s", async (_name, closed) => {
    const rig = await used(3, closed);
    spoil(rig, [at(11, HEAD)], true);
    const image = { cache: rig.cache, backing: rig.backing };
    const [strip] = (await writeboostImages.map?.(image, work))?.strips ?? [];
    expect([...(strip?.ranges ?? [])].map(({ kind, offset }) => [kind, offset])).toContainEqual([
      "bad",
      at(11, HEAD),
    ]);
    expect(await writeboostImages.dump?.(image, work)).toMatchObject({ unreadable: [10] });
    const problems = await check(rig.cache, rig.backing);
    expect(problems.map(({ kind, offset }) => [kind, offset])).toEqual([["unreadable", at(11, HEAD)]]);
    expect((await repair(image, work)).left).toHaveLength(1);
    const view = await openAt(image, 2);
    await view.close();
    await rig.open();
    for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(0x10 + block));
    await rig.device.close();
    await rig.crash();
    spoil(rig, [at(11, HEAD)], true);
    expect(await replay(rig.cache, rig.backing)).toBe(3);
    expect([1, 2, 3].map((block) => below(rig, block))).toEqual([0x11, 0x12, 0x13]);
  });
});

describe("what may have been flushed", () => {
  it.each<[string, number, number, number]>([
    // Segment 4 is there, but nobody can know.
    ["the head of the last segment", 4, at(4, HEAD), 3],
    ["the data of the last segment", 4, at(4, DATA), 3],
    ["the head of one in the middle", 6, at(3, HEAD), 2],
    ["the slot that comes next", 4, at(5, HEAD), 4],
  ])("%s: opening is refused, and what came before can be had", async (_name, count, offset, good) => {
    const rig = await used(count, false);
    spoil(rig, [offset]);
    const before = Buffer.from(rig.cache.visible);
    const slot = offset - ((offset - MIB) % SLOT);
    const error = await failing(rig.open());
    expect(error.code).toBe("EFORMAT");
    expect(error.message).toContain(`at byte ${slot} cannot be read`);
    expect(error.hint).toContain(`replay --until ${good}`);
    expect((await failing(replay(rig.cache, rig.backing))).hint).toContain(`--until ${good}`);
    const image = { cache: rig.cache, backing: rig.backing };
    const kinds = (await check(rig.cache, rig.backing)).map(({ kind }) => kind);
    expect(kinds).toContain("damage");
    expect(kinds).toContain("unreadable");
    await writeboostImages.dump?.(image, work);
    await repair(image, work);
    expect(rig.cache.visible.equals(before)).toBe(true);
    const view = await openAt(image, good);
    await view.close();
    expect(await replay(rig.cache, rig.backing, { until: good })).toBe(good);
    for (let block = 1; block <= count; block += 1)
      expect(below(rig, block)).toBe(block <= good ? 0x10 + block : 0);
  });

  it("after an orderly close, the data of an old segment is missed where it is wanted", async () => {
    const rig = await used(10, true);
    const image = { cache: rig.cache, backing: rig.backing };
    spoil(rig, [at(1, DATA)]);
    const view = await openAt(image, 10);
    expect((await failing(view.read(BLOCK, Buffer.alloc(BLOCK)))).code).toBe("EIO");
    expect(await failing(replay(rig.cache, rig.backing, { until: 10 }))).toMatchObject({ code: "EIO" });
    expect([1, 2, 10].map((block) => below(rig, block))).toEqual([0, 0x12, 0x1a]);
  });

  it("after an orderly close, such data does not keep the cache from being opened", async () => {
    const rig = await used(10, true);
    spoil(rig, [at(1, DATA)]);
    await rig.open();
    expect((await failing(rig.read(1))).code).toBe("EIO");
    for (let block = 2; block <= 10; block += 1) expect(await rig.read(block)).toEqual(filled(0x10 + block));
    await rig.segment(1, 0x31);
    expect(await rig.read(1)).toEqual(filled(0x31));
  });

  it("nor does a drop_caches that failed for it make the close another one, and it is back when the device gives it", async () => {
    const rig = await used(10, true);
    spoil(rig, [at(1, DATA)]);
    for (let time = 0; time < 2; time += 1) {
      await rig.open();
      expect((await failing(rig.device.dropCaches())).message).toContain("segment 1 cannot be read");
      expect(rig.device.health().state).toBe("degraded");
      expect((await failing(rig.read(1))).code).toBe("EIO");
      await rig.device.close();
      await rig.crash();
      spoil(rig, [at(1, DATA)]);
    }
    rig.cache.refuse = () => false;
    await rig.open();
    expect(await rig.read(1)).toEqual(filled(0x11));
    await rig.device.dropCaches();
    expect(below(rig, 1)).toBe(0x11);
  });

  it("after a crash, data of the oldest that is read again later is all there", async () => {
    const rig = await used(10, false);
    spoil(rig, [at(1, DATA)]);
    await failing(rig.open());
    const view = await openAt({ cache: rig.cache, backing: rig.backing }, 10);
    rig.cache.refuse = () => false;
    expect((await failing(view.read(BLOCK, Buffer.alloc(BLOCK)))).message).toContain(
      "segment 1 could not be read",
    );
    await rig.open();
    for (let block = 1; block <= 10; block += 1) expect(await rig.read(block)).toEqual(filled(0x10 + block));
  });

  it.each([
    ["data", DATA],
    ["head", HEAD],
  ])("the %s of one before the first: older contents are shown nowhere in its place", async (_name, part) => {
    const rig = await used(10, false);
    spoil(rig, [at(2, part)]);
    const error = await failing(rig.open());
    expect(error.message).toContain("may hold segment 2");
    const image = { cache: rig.cache, backing: rig.backing };
    if (part === HEAD) {
      expect(error.hint).not.toContain("--at");
      expect((await failing(openAt(image, 10))).code).toBe("EIO");
      expect((await failing(replay(rig.cache, rig.backing, { until: 10 }))).code).toBe("EIO");
      expect((await failing(replay(rig.cache, rig.backing))).hint).not.toContain("--until");
      return;
    }
    expect(error.hint).toContain("replay --until 10");
    const view = await openAt(image, 10);
    const bytes = Buffer.alloc(BLOCK);
    expect((await failing(view.read(2 * BLOCK, bytes))).code).toBe("EIO");
    for (const block of [1, 3, 10]) {
      await view.read(block * BLOCK, bytes);
      expect(bytes.readUInt8(0)).toBe(0x10 + block);
    }
    expect(await failing(replay(rig.cache, rig.backing, { until: 10 }))).toMatchObject({ code: "EIO" });
    expect([1, 2, 3, 10].map((block) => below(rig, block))).toEqual([0x11, 0, 0x13, 0x1a]);
  });

  it("nor what is older than a segment whose slot was being used again", async () => {
    const rig = new Rig({ order: 4, slots: SLOTS, options: { tunables: { update_record_interval: 0 } } });
    await rig.open();
    for (let id = 1; id <= 10; id += 1) await rig.segment(Math.max(2, id), 0x10 + id);
    await rig.device.dropCaches();
    await rig.crash();
    rig.cache.visible.fill(0xee, at(2, DATA), at(2, DATA) + 512);
    spoil(rig, [at(3, DATA)]);
    expect((await failing(rig.open())).message).toContain("may hold segment 3");
    const view = await openAt({ cache: rig.cache, backing: rig.backing }, 10);
    const bytes = Buffer.alloc(BLOCK);
    await view.read(2 * BLOCK, bytes);
    expect(bytes.readUInt8(0)).toBe(0x12);
    expect((await failing(view.read(3 * BLOCK, bytes))).code).toBe("EIO");
  });

  it("what has been written back is not, although the log seems to end before it", async () => {
    const rig = await used(4, false);
    await rig.open();
    await rig.device.dropCaches();
    await rig.segment(2, 0x22);
    await rig.device.dropCaches();
    await rig.device.close();
    await rig.crash();
    spoil(rig, [at(5, HEAD)]);
    const image = { cache: rig.cache, backing: rig.backing };
    expect((await failing(rig.open())).hint).not.toContain("--until");
    const { firstId, lastId } = await viewRange(image);
    expect(firstId).toBeGreaterThan(lastId);
    for (const doing of [openAt(image, 4), replay(rig.cache, rig.backing, { until: 4 })])
      expect((await failing(doing)).hint).toContain("None can");
    expect(below(rig, 2)).toBe(0x22);
    rig.cache.refuse = () => false;
    await rig.open();
    expect(await rig.read(2)).toEqual(filled(0x22));
  });

  it("a slot outside of the log that can hold an old segment is emptied, or opening is refused", async () => {
    const rig = await used(4, false);
    // Within what a crash may have left behind the end.
    spoil(rig, [at(7, HEAD)], true);
    const error = await failing(rig.open());
    expect(error.message).toContain("can neither be read nor emptied");
    spoil(rig, [at(7, HEAD)]);
    await rig.open();
    expect(await rig.read(4)).toEqual(filled(0x14));
  });

  it("nothing is, where all was written back", async () => {
    const rig = await used(3, false);
    await rig.open();
    await rig.device.dropCaches();
    await rig.device.close();
    await rig.crash();
    spoil(rig, [at(2, HEAD)]);
    const image = { cache: rig.cache, backing: rig.backing };
    await repair(image, work);
    await rig.open();
    for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(0x10 + block));
  });
});

describe("sectors of a head that hold nothing", () => {
  it.each([
    ["after a crash", false],
    ["closed in order", true],
  ])("are not missed, %s", async (_name, closed) => {
    const rig = await used(10, closed);
    const image = { cache: rig.cache, backing: rig.backing };
    // The oldest, the newest, one in the middle, and one that was never used.
    spoilSectors(
      rig.cache,
      [1, 5, 10, 11].map((id) => at(id, HEAD) + 3 * 512),
    );
    expect(await check(rig.cache, rig.backing)).toEqual([]);
    await writeboostImages.dump?.(image, work);
    await rig.open();
    for (let block = 1; block <= 10; block += 1) expect(await rig.read(block)).toEqual(filled(0x10 + block));
    await rig.device.dropCaches();
    expect([1, 5, 10].map((block) => below(rig, block))).toEqual([0x11, 0x15, 0x1a]);
  });

  it("of which nobody knows that, are: the segment may be whole", async () => {
    const rig = await used(4, false);
    // As another driver leaves them.
    rig.cache.visible.writeUInt8(1, at(4, HEAD) + 3 * 512);
    const slot = rig.cache.visible.subarray(at(4, HEAD), at(5, HEAD));
    sealSegment("classic", slot, 4, 1);
    spoilSectors(rig.cache, [at(4, HEAD) + 3 * 512]);
    expect((await failing(rig.open())).message).toContain("may hold segment 4");
    rig.cache.refuse = () => false;
    await rig.open();
    expect(await rig.read(4)).toEqual(filled(0x14));
  });
});

describe("data of a segment, while the device runs", () => {
  async function running(...ids: readonly number[]): Promise<Rig> {
    const rig = await used(6, true);
    await rig.open();
    spoil(
      rig,
      ids.map((id) => at(id, DATA)),
    );
    return rig;
  }

  it("fails the reads and merges that need it, and no others", async () => {
    const rig = await running(1);
    const error = await failing(rig.read(1));
    expect(error).toMatchObject({ code: "EIO", offset: at(1, DATA) });
    expect((await failing(rig.writeSectors(1, 2, 1, 0x77))).code).toBe("EIO");
    expect(rig.device.statusData.trouble.dead).toBe(0);
    expect(await rig.read(2)).toEqual(filled(0x12));
    await rig.segment(9, 0x99);
    expect(await rig.read(9)).toEqual(filled(0x99));
  });

  it("is read from the backing device where that has it, and never while it has not", async () => {
    const rig = await running();
    const both = Buffer.alloc(2 * BLOCK);
    await rig.device.dropCaches();
    // Block 1 is clean; block 2 is dirty, in segment 7.
    await rig.segment(2, 0x22);
    await rig.device.close();
    await rig.reopen();
    spoil(rig, [at(1, DATA), at(7, DATA)]);
    expect(await rig.read(1)).toEqual(filled(0x11));
    expect((await failing(rig.device.read(BLOCK, both))).offset).toBe(at(7, DATA));
    // A view of the past does not take it from there: that may have something newer.
    const view = await openAt({ cache: rig.cache, backing: rig.backing }, 7);
    expect((await failing(view.read(BLOCK, Buffer.alloc(BLOCK)))).offset).toBe(at(1, DATA));
    // Written anew meanwhile: what was below before is not the answer.
    rig.backing.hold = ({ op, offset }) => op === "read" && offset === BLOCK;
    const reading = rig.read(1);
    await settle();
    expect(rig.backing.held).toBe(1);
    await rig.segment(1, 0x31);
    rig.backing.release();
    expect(await reading).toEqual(filled(0x31));
    // What failed is there again as soon as the device gives it.
    rig.cache.refuse = () => false;
    expect(await rig.read(2)).toEqual(filled(0x22));
  });

  it("is not missed by a write that keeps nothing of it", async () => {
    const rig = await running();
    spoilSectors(rig.cache, [at(1, DATA) + 3 * 512]);
    expect((await failing(rig.writeSectors(1, 5, 1, 0x77))).code).toBe("EIO");
    await rig.writeSectors(1, 3, 2, 0x77);
    const expected = filled(0x11).with(3, 0x77).with(4, 0x77);
    expect(await rig.read(1)).toEqual(expected);
    await rig.device.flush();
    await rig.reopen();
    expect(await rig.read(1)).toEqual(expected);
    await rig.device.dropCaches();
  });

  it("drop_caches writes back all the others, names it, and is done when it is written anew", async () => {
    const rig = await running(1, 4);
    rig.device.tune({ nr_max_batched_writeback: 2 });
    const error = await failing(rig.device.dropCaches());
    expect(error.message).toContain("segment 1 cannot be read");
    expect(error.message).toContain("nor can 4");
    expect(error.offset).toBe(at(1, HEAD));
    expect([1, 2, 3, 4, 5, 6].map((block) => below(rig, block))).toEqual([0, 0x12, 0x13, 0, 0x15, 0x16]);
    expect(rig.device.statusData).toMatchObject({ lastWritebackId: 0, dirtyBlocks: 2 });
    expect(rig.device.health()).toMatchObject({
      state: "degraded",
      why: expect.stringContaining("segment 1 cannot be read"),
      help: expect.stringContaining("writing its blocks anew"),
    });
    await rig.segment(1, 0x21);
    await rig.segment(4, 0x24);
    await rig.device.dropCaches();
    expect(rig.device.statusData).toMatchObject({ lastWritebackId: 8, dirtyBlocks: 0 });
    expect(rig.device.health().state).toBe("ok");
    expect([1, 4].map((block) => below(rig, block))).toEqual([0x21, 0x24]);
    await rig.reopen();
    for (const [block, byte] of [0, 0x21, 0x12, 0x13, 0x24, 0x15, 0x16].entries())
      expect(await rig.read(block)).toEqual(filled(byte));
  });

  it("stops a full ring until it is given up: what can be had of it is kept, and nothing comes back later", async () => {
    const rig = await running(3);
    const { cache, device } = rig;
    await rig.clock.pass(5000);
    device.tune({ allow_writeback: 1 });
    const stopped = Promise.allSettled(
      Array.from({ length: SLOTS }, (_, index) => rig.segment(20 + index, 0x40 + index)),
    );
    await rig.clock.pass(5000);
    expect(device.statusData.lastWritebackId).toBe(2);
    // Only what is in the way can be given up, and only while it cannot be read.
    for (const words of [["4"], ["2"], ["99"]])
      expect(await failing(device.message(["give_up_segment", ...words]))).toMatchObject({ code: "EINVAL" });
    const answer = await device.message(["give_up_segment", "3"]);
    expect(answer).toContain("8 sectors that are zero now: 24-31");
    await rig.clock.pass(5000);
    await stopped;
    const going = Promise.all(
      Array.from({ length: SLOTS }, (_, index) => rig.segment(40 + index, 0x60 + index)),
    );
    await rig.clock.pass(5000);
    await going;
    cache.refuse = () => false;
    const shown = async (): Promise<void> => {
      expect(await rig.read(3)).toEqual(filled(0));
      for (const block of [1, 2, 4, 5, 6]) expect(await rig.read(block)).toEqual(filled(0x10 + block));
      for (let index = 0; index < SLOTS; index += 1)
        expect(await rig.read(40 + index)).toEqual(filled(0x60 + index));
    };
    await shown();
    await rig.crash();
    await rig.open();
    await shown();
  });

  it("is not given up where it can be read again; a crash in between leaves it as it was, or superseded", async () => {
    for (const landed of [0, 1]) {
      const rig = await running();
      spoilSectors(rig.cache, [at(1, DATA) + 3 * 512]);
      rig.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB;
      void rig.device.message(["give_up_segment", "1"]).catch(() => {});
      await settle();
      expect(rig.cache.held).toBe(1);
      await rig.crash(() => landed === 1);
      await rig.open();
      const expected = landed === 1 ? filled(0x11).with(3, 0) : filled(0x11);
      expect(await rig.read(1)).toEqual(expected);
      await rig.device.dropCaches();
      const id = String(rig.device.statusData.lastWritebackId + 1);
      expect(await failing(rig.device.message(["give_up_segment", id]))).toMatchObject({ code: "EINVAL" });
    }
  });

  it("in the background, and where a state of the past is wanted, nothing later is written", async () => {
    const rig = await running(3);
    await rig.device.message(["allow_writeback", "1"]);
    await rig.clock.pass(5000);
    expect([1, 2, 3, 4, 5, 6].map((block) => below(rig, block))).toEqual([0x11, 0x12, 0, 0, 0, 0]);
    expect(rig.device.statusData.lastWritebackId).toBe(2);
    await rig.crash();
    spoil(rig, [at(3, DATA)]);
    const error = await failing(replay(rig.cache, rig.backing));
    expect(error.message).toContain("segment 3 cannot be read");
    expect([3, 4].map((block) => below(rig, block))).toEqual([0, 0]);
  });
});
