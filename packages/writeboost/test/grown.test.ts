/** Devices that are longer or shorter than they were, or have other blocks: what was flushed is all there, or refused. */
import { BlockIoError, MemoryDevice, crc32c } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { openAt, openWriteboost, replay, writeboostImages } from "../src/index.ts";
import { BLOCK, MIB, Rig } from "./support/rig.ts";
import { HandDisk } from "./support/hand.ts";
import { work } from "./support/offline.ts";

const SLOT = 8192;
const IDENTITY = 4096;

/** A disk with the same start, and another length. */
function resized(disk: HandDisk, size: number): HandDisk {
  const bytes = Buffer.alloc(size);
  disk.stable.copy(bytes);
  return new HandDisk(disk.name, bytes);
}

/** A ring of `slots` that has gone round: one block a segment, `segments` of them, and then the power fails. */
async function wrapped(slots: number, segments: number, plog?: number): Promise<Rig> {
  const rig = new Rig({ slots, ...(plog === undefined ? {} : { plog }) });
  await rig.open();
  for (let id = 1; id <= segments; id += 1) {
    await rig.segment(id % 7, id);
    // As far as it was written back: the rest is in the cache only.
    if (id === segments - 4) await rig.device.dropCaches();
  }
  await rig.crash();
  return rig;
}

async function expectNewest(rig: Rig, segments: number): Promise<void> {
  for (let id = segments - 6; id <= segments; id += 1) expect((await rig.read(id % 7))[0]).toBe(id);
}

/** As drivers leave it that know of no identity record. */
function forget(disk: HandDisk): void {
  disk.stable.fill(0, IDENTITY, IDENTITY + 4096);
  disk.visible.fill(0, IDENTITY, IDENTITY + 4096);
}

/** As dmkit wrote it before the number of slots was in it. */
function asVersion1(disk: HandDisk): void {
  const sector = disk.stable.subarray(IDENTITY, IDENTITY + 512);
  sector[12] = 1;
  sector.fill(0, 88);
  sector.writeUInt32LE(0, 8);
  sector.writeUInt32LE(crc32c(sector), 8);
  sector.copy(disk.visible, IDENTITY);
}

describe("a cache device that was made larger after a crash", () => {
  it.each<[string, (disk: HandDisk) => void]>([
    ["with the number of slots in its identity record", () => {}],
    ["with an identity record of before there was one", asVersion1],
    ["of a driver that leaves no identity record", forget],
  ])("%s has lost nothing", async (_what, change) => {
    // Just come round, in the middle, exactly round, and several times round.
    for (const segments of [11, 17, 20, 57]) {
      const rig = await wrapped(10, segments);
      change(rig.cache);
      for (const more of [1, 10, 13]) {
        const grown = new Rig({ slots: 10 });
        grown.backing = resized(rig.backing, rig.backing.size);
        grown.cache = resized(rig.cache, MIB + (10 + more) * SLOT);
        await grown.open();
        expect(grown.device.statusData).toMatchObject({ segments: 10, lastFlushedId: segments });
        await expectNewest(grown, segments);
        // And it goes on like that, through another crash.
        await grown.segment(3, 200);
        await grown.reopen();
        expect(grown.device.statusData).toMatchObject({ segments: 10, lastFlushedId: segments + 1 });
        expect((await grown.read(3))[0]).toBe(200);
      }
    }
  });

  it("is checked, dumped, restored and viewed as it was", async () => {
    const rig = await wrapped(10, 17);
    rig.cache = resized(rig.cache, MIB + 14 * SLOT);
    const image = { cache: rig.cache, backing: rig.backing };
    const problems = [];
    for await (const problem of writeboostImages.check(image, work)) problems.push(problem);
    expect(problems.filter(({ severity }) => severity !== "info")).toEqual([]);
    expect(await writeboostImages.info?.(image, work)).toMatchObject({ slots: 10, last_segment: 17 });
    expect((await writeboostImages.detect(rig.cache))?.text).toContain("10 slots");
    const dump = JSON.parse(JSON.stringify(await writeboostImages.dump?.(image, work))) as unknown;
    const before = Buffer.from(rig.cache.stable);
    await rig.cache.write(MIB + 2 * SLOT, Buffer.alloc(BLOCK, 0x77));
    await writeboostImages.restore?.(image, dump, work);
    expect(rig.cache.stable.equals(before)).toBe(true);
    const into = Buffer.alloc(512);
    await (await openAt(image, 16)).read((16 % 7) * BLOCK, into);
    expect(into[0]).toBe(16);
    expect(await replay(rig.cache, rig.backing)).toBe(17);
    await rig.backing.read((17 % 7) * BLOCK, into);
    expect(into[0]).toBe(17);
  });

  it("is refused where no number of slots explains what is there", async () => {
    const rig = await wrapped(10, 12);
    rig.cache = resized(rig.cache, MIB + 14 * SLOT);
    forget(rig.cache);
    // Ten slots do not explain this id. Fourteen do not either, but have a whole log without the newest segments.
    rig.cache.visible.writeUInt32LE(12, MIB);
    await expect(rig.open()).rejects.toMatchObject({ code: "EFORMAT" });
    expect(rig.cache.asked("write")).toBe(0);
  });
});

describe("a cache device that was cut short", () => {
  it("is refused, and told how long it must be", async () => {
    for (const change of [(): void => {}, forget]) {
      const rig = await wrapped(10, 17);
      change(rig.cache);
      rig.cache = resized(rig.cache, MIB + 9 * SLOT);
      const error: unknown = await rig.open().catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "EFORMAT" });
      expect((error as BlockIoError).message).toContain(String(MIB + 10 * SLOT));
      expect(rig.cache.asked("write")).toBe(0);
    }
  });
});

describe("a plog device", () => {
  const SEGMENT = 9 * 512;

  async function crashed(): Promise<Rig> {
    const rig = new Rig({ order: 4, slots: 10, plog: 4 * SEGMENT + 512 });
    await rig.open();
    for (let id = 1; id <= 13; id += 1) await rig.segment(id % 7, id);
    await rig.device.flush();
    await rig.crash();
    return rig;
  }

  it("that was made larger has its name and its records where they were, and goes on so", async () => {
    const rig = await crashed();
    const size = rig.plog?.size as number;
    // What is behind the end is not the plog's: as a partition may have it that was made larger.
    const bytes = Buffer.alloc(2 * size, 0xee);
    (rig.plog as HandDisk).stable.copy(bytes);
    rig.plog = new HandDisk("plog", bytes);
    const image = { cache: rig.cache, backing: rig.backing, plog: rig.plog };
    const problems = [];
    for await (const problem of writeboostImages.check(image, work)) problems.push(problem);
    expect(problems.filter(({ severity }) => severity !== "info")).toEqual([]);
    await rig.open();
    for (let id = 7; id <= 13; id += 1) expect((await rig.read(id % 7))[0]).toBe(id);
    for (let id = 14; id <= 20; id += 1) await rig.segment(id % 7, id);
    await rig.reopen();
    for (let id = 14; id <= 20; id += 1) expect((await rig.read(id % 7))[0]).toBe(id);
    expect(rig.plog?.stable.subarray(size).equals(Buffer.alloc(size, 0xee))).toBe(true);
  });

  it("has a name that is not written again, which a power failure might spoil", async () => {
    const rig = await crashed();
    const end = (rig.plog?.size as number) - 512;
    for (const crash of [true, false]) {
      let written = 0;
      (rig.plog as HandDisk).refuse = ({ op, offset, length }) => {
        if (op === "write" && offset + length > end) written += 1;
        return false;
      };
      await rig.open();
      expect(written).toBe(0);
      for (let id = 7; id <= 13; id += 1) expect((await rig.read(id % 7))[0]).toBe(id);
      if (!crash) await rig.device.close();
      await rig.crash();
    }
  });

  it("that was cut short after a crash is refused", async () => {
    const rig = await crashed();
    rig.plog = resized(rig.plog as HandDisk, 3 * SEGMENT);
    await expect(rig.open()).rejects.toMatchObject({ code: "EFORMAT", device: "plog" });
  });

  it("may be exchanged for one of any size after an orderly close", async () => {
    for (const size of [SEGMENT, 3 * SEGMENT + 512, 9 * SEGMENT]) {
      const rig = await crashed();
      await rig.open();
      await rig.device.close();
      rig.plog = new HandDisk("plog", size);
      await rig.reopen();
      await rig.segment(3, 99);
      await rig.reopen();
      expect((await rig.read(3))[0]).toBe(99);
    }
  });
});

describe("a cache device that was made larger, and is to be used to its end", () => {
  const grow = { grow: true };

  it.each([undefined, 9 * 7 * 4096])(
    "has a larger ring, and everything that was dirty, plog: %s",
    async (plog) => {
      const rig = await wrapped(10, 17, plog);
      rig.backing = resized(rig.backing, MIB);
      rig.cache = resized(rig.cache, MIB + 23 * SLOT);
      await rig.open(grow);
      expect(rig.device.statusData).toMatchObject({ segments: 23, dirtyBlocks: 0 });
      await expectNewest(rig, 17);
      for (let id = 18; id <= 60; id += 1) await rig.segment(id % 7, id);
      await rig.reopen();
      expect(rig.device.statusData.segments).toBe(23);
      await expectNewest(rig, 60);
      // Once it is as large as that, the word means nothing.
      const { lastFlushedId } = rig.device.statusData;
      await rig.device.close();
      await rig.crash();
      await rig.open(grow);
      expect(rig.device.statusData).toMatchObject({ segments: 23, lastFlushedId });
    },
  );

  it("keeps its dialect and its order", async () => {
    const rig = new Rig({ order: 10, slots: 3, options: { dialect: "v2" } });
    await rig.open();
    await rig.segment(3, 3);
    await rig.crash();
    rig.cache = resized(rig.cache, rig.cache.size + 2 * 512 * 1024);
    await rig.open({ ...grow, dialect: undefined, order: undefined });
    expect(rig.device.statusData.segments).toBe(5);
    expect(rig.device.info()).toMatchObject({ dialect: "v2", segment_size_order: 10 });
    expect((await rig.read(3))[0]).toBe(3);
  });

  it("stays as it is where something cannot be written back", async () => {
    const rig = await wrapped(10, 17);
    rig.cache = resized(rig.cache, MIB + 23 * SLOT);
    rig.backing = resized(rig.backing, MIB);
    rig.backing.refuse = ({ op }) => op === "write";
    await expect(rig.open(grow)).rejects.toMatchObject({ code: "EIO" });
    rig.backing.refuse = () => false;
    await rig.open();
    expect(rig.device.statusData.segments).toBe(10);
    await expectNewest(rig, 17);
  });

  it("stays as it is where what is new on it takes no writes, with a plog as well", async () => {
    for (const plog of [undefined, 9 * 7 * 4096]) {
      const rig = await wrapped(10, 17, plog);
      rig.cache = resized(rig.cache, MIB + 23 * SLOT);
      rig.backing = resized(rig.backing, MIB);
      rig.cache.refuse = ({ op, offset }) => op === "write" && offset >= MIB + 20 * SLOT;
      rig.cache.code = "ENOSPC";
      await expect(rig.open(grow)).rejects.toMatchObject({ code: "ENOSPC" });
      await rig.open();
      expect(rig.device.statusData.segments).toBe(10);
      await expectNewest(rig, 17);
    }
  });

  it("that was interrupted is named, and goes on when it is opened, with or without the word", async () => {
    for (const word of [grow, {}]) {
      const rig = await wrapped(10, 17);
      rig.cache = resized(rig.cache, MIB + 23 * SLOT);
      rig.backing = resized(rig.backing, MIB);
      const MARK = 0;
      let marked = false;
      rig.cache.refuse = ({ op, offset, length }) => {
        const now = marked;
        marked ||= op === "write" && offset === MARK && length === 4096;
        return now && op === "write";
      };
      // What follows the mark is zeroes, and the header, which does not come.
      await expect(rig.open(grow)).rejects.toMatchObject({ code: "EIO" });
      await rig.crash();
      const found = await writeboostImages.detect(rig.cache);
      expect(found?.text).toContain("being made larger");
      await expect(openAt({ cache: rig.cache, backing: rig.backing }, 17)).rejects.toMatchObject({
        code: "EFORMAT",
      });
      await rig.open(word);
      expect(rig.device.statusData.segments).toBe(23);
      await expectNewest(rig, 17);
    }
  });
});

describe("a backing device", () => {
  it("that was made larger opens after a crash and after an orderly close, and maps what it is told to", async () => {
    for (const close of [false, true]) {
      const rig = await wrapped(10, 17);
      if (close) await (await rig.open()).close();
      await rig.crash();
      rig.backing = resized(rig.backing, 2 * MIB);
      await rig.open({ size: MIB });
      await expectNewest(rig, 17);
      expect(rig.device.size).toBe(MIB);
      await rig.device.close();
      await rig.crash();
      await rig.open();
      expect(rig.device.size).toBe(2 * MIB);
      await rig.segment(300, 5);
      await rig.reopen();
      expect((await rig.read(300))[0]).toBe(5);
      // What is in the log must have a place.
      await rig.crash();
      rig.backing = resized(rig.backing, MIB);
      await expect(rig.open()).rejects.toMatchObject({ code: "EFORMAT", device: "backing" });
    }
  });

  it("that was made larger takes what is dirty by replay, and is checked and viewed", async () => {
    const rig = await wrapped(10, 17);
    rig.backing = resized(rig.backing, 2 * MIB);
    const image = { cache: rig.cache, backing: rig.backing };
    const problems = [];
    for await (const problem of writeboostImages.check(image, work)) problems.push(problem);
    expect(problems.filter(({ severity }) => severity !== "info")).toEqual([]);
    const into = Buffer.alloc(512);
    await (await openAt(image, 17)).read((17 % 7) * BLOCK, into);
    expect(into[0]).toBe(17);
    expect(await replay(rig.cache, rig.backing)).toBe(17);
    for (let id = 11; id <= 17; id += 1) {
      await rig.backing.read((id % 7) * BLOCK, into);
      expect(into[0]).toBe(id);
    }
  });

  it("of which only a part is mapped need not be there behind it", async () => {
    const rig = new Rig({ slots: 10 });
    rig.backing = new HandDisk("backing", 2 * MIB);
    await rig.open({ size: MIB });
    await rig.segment(3, 3);
    await rig.device.close();
    await rig.crash();
    // Others may write there, too.
    await rig.backing.write(MIB + 4096, Buffer.alloc(4096, 9));
    await (await rig.open({ size: MIB })).close();
    await rig.crash();
    rig.backing = resized(rig.backing, MIB + 512);
    await rig.open({ size: MIB });
    expect((await rig.read(3))[0]).toBe(3);
  });
});

describe("a cache device of 4096-byte blocks over a disk of 512", () => {
  it("has blocks of 4096 bytes itself, and says which lengths can be mapped", async () => {
    const backing = new MemoryDevice(MIB + 512);
    const cache = new MemoryDevice(MIB + 6 * SLOT, { logicalBlockSize: 4096 });
    const devices = { backing, cache, plog: undefined };
    await expect(openWriteboost(devices, { order: 4 })).rejects.toMatchObject({ code: "EINVAL" });
    const device = await openWriteboost(devices, { order: 4, size: MIB });
    expect(device.limits.logicalBlockSize).toBe(4096);
    await expect(device.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EINVAL" });
    for (let id = 1; id <= 20; id += 1) await device.write((id % 7) * BLOCK, Buffer.alloc(BLOCK, id));
    const into = Buffer.alloc(BLOCK);
    await device.read((20 % 7) * BLOCK, into);
    expect(into.equals(Buffer.alloc(BLOCK, 20))).toBe(true);
    await device.close();
  });

  it("still has the sectors that were written when its blocks were smaller", async () => {
    const rig = new Rig({ slots: 10 });
    await rig.open();
    await rig.writeSectors(3, 2, 3, 7);
    await rig.device.flush();
    await rig.crash();
    const cache = new MemoryDevice(rig.cache.size, { logicalBlockSize: 4096 });
    await cache.write(0, rig.cache.stable);
    const backing = new MemoryDevice(MIB, { logicalBlockSize: 4096 });
    const device = await openWriteboost({ backing, cache, plog: undefined });
    const into = Buffer.alloc(BLOCK);
    await device.read(3 * BLOCK, into);
    expect(Array.from(into.filter((_, at) => at % 512 === 0))).toEqual([0, 0, 7, 7, 7, 0, 0, 0]);
    await device.dropCaches();
    await device.close();
    await backing.read(3 * BLOCK, into);
    expect(Array.from(into.filter((_, at) => at % 512 === 0))).toEqual([0, 0, 7, 7, 7, 0, 0, 0]);
  });
});
