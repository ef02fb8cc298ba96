/** Faults of the persistent log that random runs do not reach: each by an exact order of things. */
import { rawCrc32c, isZero } from "@dmkit/block-io";
import { replaced, settle } from "@dmkit/block-io/testing";
import { takeStartName } from "../src/device/log/plog-place.ts";
import { PlogWriter } from "../src/device/log/plog-writer.ts";
import { describe, expect, it } from "vitest";
import { type Case, Findings, directed } from "./support/cases.ts";
import { type HandDisk, altered, everything, nothing } from "./support/hand.ts";
import { BLOCK, MIB, Rig, deciding, filled, wrapped } from "./support/rig.ts";

/** A plog record of one sector with its data, byte by byte. */
function record(id: number, sector: number, index: number, byte: number, sound = true): Buffer {
  const bytes = Buffer.alloc(1024, byte);
  bytes.fill(0, 0, 512);
  bytes.writeUInt32LE(id, 0);
  bytes.writeUInt32LE(sector, 8);
  bytes.writeUInt32LE(sound ? rawCrc32c(bytes.subarray(512)) : 1, 16);
  bytes[20] = index;
  bytes[21] = 1;
  return bytes;
}

const SEGMENT_4 = 9 * 512;
const SEGMENT_5 = 27 * 512;

const cases: readonly Case[] = [
  {
    // A write that takes sectors of the older copy along is torn between its records: the older copy still has
    // the others, durably.
    fault: "torn-records-hide-the-older-copy",
    inject: deciding({ lacks: () => 0 }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 5, plog: 3 * SEGMENT_4 });
      await rig.open();
      for (const sector of [0, 2, 4]) await rig.writeSectors(5, sector, 1, 0xa0 + sector);
      await rig.device.flush();
      // Does not fit any more: a new segment, sector 4 in a record of its own.
      await rig.writeSectors(5, 0, 3, 0xbb);
      if (rig.plog !== undefined) rig.plog.hold = ({ op }) => op === "flush";
      rig.device.flush().catch(() => {});
      // The first record of the new segment survives, with its data.
      await rig.reopen((_, sector) => sector < 4);
      found.same("what was flushed", (await rig.read(5)).slice(2, 6), [0xbb, 0, 0xa4, 0]);
      await rig.device.dropCaches();
      await rig.reopen();
      found.same("and stays so", (await rig.read(5)).slice(2, 6), [0xbb, 0, 0xa4, 0]);
      return found.all;
    },
  },
  {
    // The first record of a segment is torn, the second one landed: the segment is not there, and its id is
    // used again. The old second record lies just behind the new first one.
    fault: "keeps-stale-plog",
    inject: wrapped((disk, name) =>
      name === "plog" ? altered(disk, { writeZeroes: async () => {} }) : disk,
    ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ plog: 3 * SEGMENT_4 });
      await rig.open();
      await rig.writeSectors(5, 0, 1, 0xaa);
      await rig.writeSectors(5, 1, 1, 0xbb);
      if (rig.plog !== undefined) rig.plog.hold = ({ op }) => op === "flush";
      rig.device.flush().catch(() => {});
      // Two records of two sectors each: the first two are lost.
      await rig.reopen(({ length }, sector) => length !== 2048 || sector >= 2);
      found.same("neither was flushed", await rig.read(5), filled(0));
      await rig.writeSectors(5, 1, 1, 0xcc);
      await rig.device.flush();
      await rig.reopen();
      found.same("what was flushed last", (await rig.read(5))[1], 0xcc);
      return found.all;
    },
  },
  {
    // One plog segment only. The data of the first write holds what looks like a record of the next segment,
    // exactly where that segment's second record would be.
    fault: "user-data-is-taken-for-a-record",
    inject: deciding({ resemblesRecord: () => false }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ order: 5, slots: 5, plog: SEGMENT_5 });
      await rig.open();
      const data = Buffer.alloc(BLOCK, 0x11);
      record(2, 10 * 8, 1, 0xee).copy(data, 512);
      await rig.device.write(5 * BLOCK, data);
      await rig.device.flush();
      await rig.write(6, 0x22);
      await rig.write(7, 0x33);
      await rig.writeSectors(8, 0, 1, 0x44);
      await rig.device.flush();
      await rig.reopen();
      found.same("the last write", (await rig.read(8))[0], 0x44);
      found.same("a block nobody wrote", (await rig.read(10))[0], 0);
      return found.all;
    },
  },
  {
    fault: "believes-records-without-checksum",
    inject: deciding({ isSound: () => true }),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ plog: 3 * SEGMENT_4 });
      await rig.open();
      await rig.segment(5, 0xaa);
      await rig.device.dropCaches();
      await rig.crash();
      // The smallest id is one that does not hold; the one after it does.
      for (const [segment, id, sound] of [
        [1, 2, false],
        [2, 3, true],
      ] as const) {
        const bytes = record(id, 5 * 8, 0, 0xee, sound);
        bytes.copy(rig.plog?.stable as Buffer, segment * SEGMENT_4);
        bytes.copy(rig.plog?.visible as Buffer, segment * SEGMENT_4);
      }
      await rig.open();
      found.same("block 5", (await rig.read(5))[0], 0xaa);
      return found.all;
    },
  },
  {
    // The slot of a segment is torn although the plog says no more: its plog segment was given away as soon as
    // the segment had been written, not flushed.
    fault: "reuses-plog-before-the-cache-is-flushed",
    inject: () =>
      replaced<(this: PlogWriter) => Promise<void>>(
        PlogWriter.prototype,
        "commit",
        (original) =>
          async function (this: PlogWriter) {
            unflushed = true;
            try {
              await original.call(this);
            } finally {
              unflushed = false;
            }
          },
      ),
    async scenario() {
      const found = new Findings();
      const rig = new Rig({ slots: 5, plog: SEGMENT_4 });
      rig.wrap = (disk, name) =>
        name !== "cache"
          ? disk
          : altered(disk, { flush: () => (unflushed ? Promise.resolve() : disk.flush()) });
      await rig.open();
      await rig.write(5, 0xaa);
      await rig.device.flush();
      await rig.write(6, 0xbb);
      await rig.device.flush();
      await rig.reopen();
      found.same("both barriers", [(await rig.read(5))[0], (await rig.read(6))[0]], [0xaa, 0xbb]);
      return found.all;
    },
  },
];

let unflushed = false;

/** Nothing but the name, which is where a record has zeroes, and no driver looks. */
function expectNoRecords({ plog }: Rig): void {
  const bytes = Buffer.from((plog as HandDisk).stable);
  expect(takeStartName(bytes)).toBeDefined();
  expect(isZero(bytes)).toBe(true);
}

directed(cases);

describe("a close in order", () => {
  it("leaves nothing in the plog alone: the cache can be opened as type 0 then", async () => {
    const rig = new Rig({ order: 5, slots: 5, plog: 3 * SEGMENT_5 });
    const device = await rig.open();
    await rig.write(1, 0x11);
    await rig.writeSectors(2, 3, 2, 0x22);
    await device.close();
    await rig.crash();
    rig.plog = undefined;
    await rig.open();
    expect(await rig.read(1)).toEqual(filled(0x11));
    expect(await rig.read(2)).toEqual([0, 0, 0, 0x22, 0x22, 0, 0, 0]);
  });

  it("leaves a plog of zeroes: the driver of 2014 believes it whatever the log says", async () => {
    const rig = new Rig({ order: 5, slots: 5, plog: 3 * SEGMENT_5 });
    const device = await rig.open();
    await rig.segment(1, 0x11);
    // Reaches the cache device with the segment, and the plog never.
    await rig.write(2, 0x22);
    await device.close();
    await rig.crash(nothing);
    expectNoRecords(rig);
  });

  it("leaves one of zeroes, too, where a longer segment was before", async () => {
    const rig = new Rig({ order: 5, slots: 9, plog: SEGMENT_5 });
    const device = await rig.open();
    for (const block of [1, 2, 3]) await rig.write(block, block);
    await device.flush();
    await rig.writeSectors(4, 0, 1, 0x44);
    await device.flush();
    await device.close();
    await rig.crash(nothing);
    expectNoRecords(rig);
  });

  it("needs no plog that can be written", async () => {
    const rig = new Rig({ order: 5, slots: 9, plog: 3 * SEGMENT_5, options: { pool: 3 } });
    const device = await rig.open();
    await rig.segment(1, 0x11);
    if (rig.plog !== undefined) rig.plog.refuse = ({ op }) => op !== "read";
    await device.close();
    await rig.crash(nothing);
    rig.plog = undefined;
    await rig.open();
    expect(await rig.read(1)).toEqual(filled(0x11));
  });

  it("waits for a segment that is closed and still on its way", async () => {
    const rig = new Rig({ slots: 5, plog: 3 * SEGMENT_4, options: { pool: 3 } });
    await rig.open();
    await rig.write(10, 0xa1);
    rig.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB;
    rig.device.dropCaches().catch(() => {});
    await settle();
    let closed = false;
    rig.device.close().then(
      () => (closed = true),
      () => {},
    );
    await settle();
    expect(closed).toBe(false);
    await rig.crash(nothing);
    rig.plog = undefined;
    // Not closed in order: without the plog flushed data would be lost.
    await expect(rig.open()).rejects.toMatchObject({ code: "EFORMAT" });
  });
});

describe("rot at the end of the log", () => {
  it("is not patched with what plog segments of before still hold", async () => {
    const rig = new Rig({ order: 5, slots: 60, plog: 8 * SEGMENT_5, options: { pool: 7 } });
    const device = await rig.open();
    rig.backing.code = "ENOSPC";
    rig.backing.refuse = ({ op }) => op === "write";
    // Of each segment a barrier brings the first block to the plog; the others reach the cache device without one.
    for (let segment = 0; segment < 5; segment += 1) {
      await rig.write(3 * segment, 0xa0 + segment);
      await device.flush();
      await rig.write(3 * segment + 1, 0xa0 + segment);
      await rig.write(3 * segment + 2, 0xa0 + segment);
      // Flushes the cache device, and fails then.
      await device.dropCaches().catch(() => {});
      await settle();
    }
    await rig.write(50, 0x55);
    await device.flush();
    await rig.crash(everything);
    for (const content of [rig.cache.stable, rig.cache.visible]) content.fill(0x77, MIB + 5000, MIB + 5010);
    await rig.open();
    // All older, and nothing with holes.
    for (const block of [0, 1, 2, 3, 50]) expect(await rig.read(block)).toEqual(filled(0));
  });
});

describe("suspend and resume", () => {
  it("take effect in order of arrival", async () => {
    const rig = new Rig({ slots: 3 });
    const device = await rig.open({ tunables: { allow_writeback: 1 } });
    await rig.segment(1, 0x11);
    await Promise.all([device.suspend(), device.resume()]);
    let written = 0;
    const writing = (async () => {
      for (; written < 8; written += 1) await rig.segment(written, 0x20 + written);
    })();
    for (let second = 0; second < 20; second += 1) await rig.clock.pass(1000);
    await writing;
    expect(written).toBe(8);
  });
});

describe("the plog of another cache, without a name", () => {
  it("gives nothing to a cache that had none", async () => {
    const other = new Rig({ slots: 5, plog: 3 * SEGMENT_4, options: { pool: 3 } });
    await other.open();
    await other.segment(7, 0x77);
    await other.device.dropCaches();
    other.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB;
    await other.write(8, 0x88);
    other.device.flush().catch(() => {});
    await settle();
    await other.crash(nothing);
    const rig = new Rig({ slots: 5, options: { pool: 3 } });
    await rig.open();
    await rig.segment(1, 0x11);
    await rig.device.close();
    await rig.crash(nothing);
    // As an older version has left it.
    (other.plog as HandDisk).visible.fill(0, 256, 512);
    rig.plog = other.plog;
    await expect(rig.open()).rejects.toMatchObject({ code: "EFORMAT" });
    await rig.open({ force: true });
    expect((await rig.read(8))[0]).toBe(0);
    expect((await rig.read(1))[0]).toBe(0x11);
  });
});
