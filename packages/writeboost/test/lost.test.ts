/** A sector of the cache device that cannot be read when the ring comes round to it: only what was there is lost. */
import { type BlockIoError, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { openAt, replay, viewRange, writeboostImages } from "../src/index.ts";
import { BlockMap } from "../src/core/block-map.ts";
import { complete } from "../src/core/plog-replay.ts";
import { isWhole } from "../src/format/segment.ts";
import { check } from "./support/check.ts";
import { spoilSectors } from "./support/bad-sectors.ts";
import { BLOCK, MIB, Rig, type Shape, filled } from "./support/rig.ts";

const work = { environment: realEnvironment };
const SLOTS = 9;
const SLOT = 512 * 2 ** 5;
/** A sector of block `index` of a segment. */
const at = (id: number, index: number, sector: number): number =>
  MIB + ((id - 1) % SLOTS) * SLOT + BLOCK * (1 + index) + 512 * sector;

async function failing(doing: Promise<unknown>): Promise<BlockIoError> {
  return doing.then(
    () => expect.fail("did not fail"),
    (error: unknown) => error as BlockIoError,
  );
}

/** Segments of three blocks; in the first one blocks 1, 2 and 3, of which sector 3 of block 2 cannot be read. */
async function spoiled(shape: Shape = {}): Promise<Rig> {
  const rig = new Rig({ order: 5, slots: SLOTS, ...shape });
  await rig.open();
  rig.backing.visible.fill(0xee);
  rig.backing.stable.fill(0xee);
  for (const block of [1, 2, 3]) await rig.write(block, block);
  await rig.device.flush();
  // Out of RAM.
  for (let block = 100; block < 115; block += 1) await rig.write(block, block);
  await rig.device.flush();
  await rig.reopen();
  spoilSectors(rig.cache, [at(1, 1, 3)]);
  return rig;
}

async function goRound(rig: Rig, times: number, from = 130): Promise<void> {
  for (let block = 0; block < times * SLOTS * 3; block += 1)
    await rig.write(from + (block % 100), block % 200);
  await rig.device.flush();
}

/** Of block 2, sector 3 fails, and only that. */
async function expectLost(rig: Rig): Promise<void> {
  const sector = Buffer.alloc(512);
  for (let one = 0; one < 8; one += 1) {
    const reading = rig.device.read(2 * BLOCK + one * 512, sector);
    if (one === 3) expect((await failing(reading)).code).toBe("EIO");
    else await reading.then(() => expect(sector.every((byte) => byte === 2)).toBe(true));
  }
  expect((await failing(rig.read(2))).code).toBe("EIO");
  for (const block of [1, 3]) expect(await rig.read(block)).toEqual(filled(block));
}

describe.each<[string, Shape]>([
  ["type 0", {}],
  ["type 1", { plog: 8 * 27 * 512 }],
])("a sector of the oldest segment that cannot be read, %s", (_name, shape) => {
  it("stops no write, is lost by itself, and stays so until it is written", async () => {
    const rig = await spoiled(shape);
    await goRound(rig, 2);
    await expectLost(rig);
    expect(rig.device.statusData.trouble).toMatchObject({ lost_blocks: 1, bad_blocks: 0, dead: 0 });
    expect(rig.device.health()).toMatchObject({
      state: "degraded",
      why: expect.stringContaining("1 blocks"),
    });
    // What is there of the same block has been written back, and it is on no place that cannot be read any more.
    expect(rig.backing.visible.readUInt8(2 * BLOCK)).toBe(2);
    await rig.reopen();
    await expectLost(rig);
    await goRound(rig, 2);
    await expectLost(rig);
    const dropped = await failing(rig.device.dropCaches());
    expect(dropped).toMatchObject({ code: "EIO", offset: 2 * BLOCK });
    await rig.device.close();
    await rig.reopen();
    await expectLost(rig);
    // A part that leaves something lost is refused; what is not lost may be kept.
    expect((await failing(rig.writeSectors(2, 0, 1, 0x77))).code).toBe("EIO");
    await rig.writeSectors(2, 2, 2, 0x33);
    const now = filled(2).fill(0x33, 2, 4);
    expect(await rig.read(2)).toEqual(now);
    expect(rig.device.health().state).toBe("ok");
    await rig.device.flush();
    await rig.reopen();
    expect(await rig.read(2)).toEqual(now);
    await rig.device.dropCaches();
    expect(rig.device.statusData).toMatchObject({ dirtyBlocks: 0, trouble: { lost_blocks: 0 } });
    expect(await rig.read(2)).toEqual(now);
  });
});

describe("what is lost", () => {
  it.each<[string, (rig: Rig) => Promise<void>, number]>([
    ["written anew", (rig) => rig.write(2, 9), 9],
    ["discarded", (rig) => rig.device.discard(2 * BLOCK, BLOCK), 0],
  ])("before the ring comes round: %s, nothing is lost", async (_name, heal, byte) => {
    const rig = await spoiled();
    expect((await failing(rig.device.dropCaches())).message).toContain("segment 1 cannot be read");
    // Its other blocks are not kept from the backing device.
    expect([1, 3].map((block) => rig.backing.visible.readUInt8(block * BLOCK))).toEqual([1, 3]);
    await heal(rig);
    await rig.device.dropCaches();
    expect(rig.device.statusData).toMatchObject({ dirtyBlocks: 0, trouble: { lost_blocks: 0 } });
    for (const [block, there] of [
      [1, 1],
      [2, byte],
      [3, 3],
    ] as const)
      expect(await rig.read(block)).toEqual(filled(there));
  });

  it("is on the device when its segment is given up, whatever of that a crash leaves", async () => {
    for (const landed of [0, 4, 16]) {
      const rig = await spoiled();
      for (let block = 0; rig.device.statusData.trouble.lost_blocks === 0; block += 1)
        await rig.write(130 + (block % 100), 5);
      await rig.reopen((_write, sector) => sector < landed);
      // Written over, the sector can be read; with what is there else.
      await expectLostOrUnread(rig);
    }
  });

  it("is told offline, dumped and restored, and not shown as what the backing device has", async () => {
    const rig = await spoiled();
    await goRound(rig, 1);
    const { lastWritebackId } = rig.device.statusData;
    await rig.device.close();
    await rig.crash();
    const image = { cache: rig.cache, backing: rig.backing };
    const problems = await check(rig.cache, rig.backing);
    expect(problems).toContainEqual(
      expect.objectContaining({
        kind: "lost",
        location: "backing block 2",
        offset: 2 * BLOCK,
        length: BLOCK,
      }),
    );
    const dump = await writeboostImages.dump?.(image, work);
    const before = Buffer.from(rig.cache.visible);
    await writeboostImages.restore?.(image, dump, work);
    expect(rig.cache.visible.equals(before)).toBe(true);
    // Written back, but for what is lost; views are looked at after that.
    const last = (await viewRange(image)).lastId;
    expect(await failing(replay(rig.cache, rig.backing, { until: last }))).toMatchObject({
      offset: 2 * BLOCK + 3 * 512,
    });
    expect(rig.backing.visible.readUInt8(156 * BLOCK)).toBe(26);
    for (let id = lastWritebackId; id < lastWritebackId + SLOTS; id += 1) {
      const view = await openAt(image, id).catch(() => undefined);
      if (view === undefined) continue;
      expect((await failing(view.read(2 * BLOCK, Buffer.alloc(BLOCK)))).code).toBe("EIO");
      await view.close();
    }
  });
});

describe("a segment rebuilt from the plog", () => {
  it("takes what is lost of an older copy along as lost", () => {
    const rebuilt = {
      id: 1,
      length: 1,
      keys: Float64Array.of(7),
      bits: Uint8Array.of(0b0001),
      lost: new Uint8Array(1),
      image: Buffer.alloc(2 * BLOCK),
    };
    complete(rebuilt, 0, 0b1110, Buffer.alloc(BLOCK, 5), 0b1100);
    const map = new BlockMap(1, 1, 100);
    map.load(0, rebuilt.image, 1, 100 * BLOCK);
    map.adoptAll(Float64Array.of(0), () => {});
    expect([map.valid[0], map.lostOf(0), map.lostBlocks()]).toEqual([0b1111, 0b1100, [7]]);
    expect(isWhole(rebuilt.image)).toBe(true);
  });
});

async function expectLostOrUnread(rig: Rig): Promise<void> {
  const into = Buffer.alloc(512);
  await rig.device.read(2 * BLOCK + 3 * 512, into).then(
    () => expect(into.every((byte) => byte === 2)).toBe(true),
    (error: unknown) => expect((error as BlockIoError).code).toBe("EIO"),
  );
}
