/** Sectors of the first MiB, and of the plog, that cannot be read: what does not need them goes on, and the rest is named. */
import { type BlockIoError, type Logger, realEnvironment } from "@dmkit/block-io";
import { manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { openAt, repair, replay, writeboostImages } from "../src/index.ts";
import { check } from "./support/check.ts";
import { spoilSectors } from "./support/bad-sectors.ts";
import type { HandDisk } from "./support/hand.ts";
import { type Identity, decodeIdentity, encodeIdentity } from "../src/format/identity.ts";
import { leaveCache } from "../src/open/making/erase-cache.ts";
import { encodeRecord } from "../src/format/superblock.ts";
import { BLOCK, Rig, filled } from "./support/rig.ts";

const SECTOR = 512;
const HEADER = 0;
const IDENTITY = 8 * SECTOR;
const RECORD = 2047 * SECTOR;
const work = { environment: realEnvironment };

async function failing(doing: Promise<unknown>): Promise<BlockIoError> {
  return doing.then(
    () => expect.fail("did not fail"),
    (error: unknown) => error as BlockIoError,
  );
}

async function kindsOf(rig: Rig): Promise<string[]> {
  const problems = await check(rig.cache, rig.backing, { plog: rig.plog });
  return problems.map(({ kind, offset }) => `${kind} ${offset}`);
}

describe("the first MiB", () => {
  /** Segments 1 … 6, each with the block of its number; the first three are written back, and that is recorded. */
  async function used(closed: boolean): Promise<Rig> {
    const rig = new Rig({ order: 4, slots: 12 });
    const device = await rig.open();
    for (const id of [1, 2, 3]) await rig.segment(id, 0x10 + id);
    await device.dropCaches();
    await rig.clock.pass(1);
    for (const id of [4, 5, 6]) await rig.segment(id, 0x10 + id);
    if (closed) await device.close();
    await rig.crash();
    return rig;
  }

  const everything = async (rig: Rig): Promise<void> => {
    for (let id = 1; id <= 6; id += 1) expect(await rig.read(id)).toEqual(filled(0x10 + id));
  };

  it("says that the cache was left behind, also where its header cannot be read", async () => {
    const rig = await used(true);
    await leaveCache(rig.cache);
    const record = Buffer.alloc(BLOCK);
    await rig.cache.read(IDENTITY, record);
    // "dmkitWB1", version 2, left behind.
    expect([record.toString("latin1", 0, 8), record[12], record[105]]).toEqual(["dmkitWB1", 2, 1]);
    expect((await failing(rig.open())).code).toBe("EFORMAT");
    spoilSectors(rig.cache, [HEADER]);
    const error = await failing(rig.open());
    expect([error.code, error.reason]).toEqual(["EFORMAT", expect.stringContaining("exchanged by force")]);
    // It is a cache as before once somebody has repaired it, and the record says no more than the header.
    await repair({ cache: rig.cache, backing: rig.backing }, work);
    await rig.open();
    await everything(rig);
  });

  it.each([
    ["header", HEADER, false],
    ["header", HEADER, true],
    ["record", RECORD, false],
    ["record", RECORD, true],
    ["block of the header, behind it", HEADER + 3 * SECTOR, false],
    ["block of the identity record, behind it", IDENTITY + SECTOR, false],
    ["block of the record, in front of it", RECORD - SECTOR, false],
  ])("%s at %i, closed in order: %s: opens, and is written anew", async (_name, offset, closed) => {
    const rig = await used(closed);
    spoilSectors(rig.cache, [offset]);
    const image = { cache: rig.cache, backing: rig.backing };
    const isNamed = offset === HEADER || offset === RECORD;
    expect(await kindsOf(rig)).toEqual(isNamed ? [`unreadable ${offset}`] : []);
    expect(await writeboostImages.detect(rig.cache)).toMatchObject({ certainty: "magic", role: "cache" });
    expect(await writeboostImages.dump?.(image, work)).toMatchObject({ order: 4, record: closed ? 3 : 0 });
    await (await openAt(image, 6)).close();
    await rig.open();
    await everything(rig);
    await rig.device.dropCaches();
    await rig.device.close();
    await rig.crash();
    expect(await kindsOf(rig)).toEqual([]);
    await rig.open();
    await everything(rig);
  });

  it.each([HEADER, RECORD])("fsck writes what is at %i again", async (offset) => {
    const rig = await used(true);
    const before = Buffer.from(rig.cache.visible);
    rig.cache.visible.fill(0xdb, offset, offset + SECTOR);
    spoilSectors(rig.cache, [offset]);
    const { repaired, left } = await repair({ cache: rig.cache, backing: rig.backing }, work);
    expect([repaired.length, left.length]).toEqual([1, 0]);
    expect(rig.cache.visible.equals(before)).toBe(true);
  });

  it("a header that can be neither read nor written stops nothing", async () => {
    const rig = await used(false);
    spoilSectors(rig.cache, [HEADER], true);
    await rig.open();
    await everything(rig);
    await rig.segment(9, 0x99);
    await rig.device.close();
  });

  it.each([0, 1])(
    "a record that can be neither read nor written stops nothing, and is told (interval %i)",
    async (update_record_interval) => {
      const rig = await used(false);
      spoilSectors(rig.cache, [RECORD], true);
      const told: string[] = [];
      const logger: Logger = { log: (level, message) => void told.push(`${level} ${message}`) };
      const environment = { ...manualEnvironment(1, rig.clock), logger };
      await rig.open({ environment, tunables: { update_record_interval } });
      await rig.device.dropCaches();
      await rig.clock.pass(1000);
      await rig.segment(9, 0x99);
      await rig.device.dropCaches();
      await rig.clock.pass(1000);
      expect(rig.device.health().state).toBe(update_record_interval === 0 ? "ok" : "degraded");
      await everything(rig);
      await rig.device.close();
      expect(told.filter((line) => line.includes("2047"))).toHaveLength(1);
      // The identity record has the number: all is known to be written back.
      await rig.crash();
      spoilSectors(rig.cache, [RECORD], true);
      await rig.open();
      expect(rig.device.statusData).toMatchObject({ lastFlushedId: 7, lastWritebackId: 7, dirtyBlocks: 0 });
      await everything(rig);
    },
  );

  it.each([0, IDENTITY])(
    "a record beyond the end of the log that cannot be corrected: its copy counts (%i)",
    async (zeroed) => {
      const rig = await used(false);
      // As a driver leaves it that knows of no identity record; or with a copy that is as wrong.
      await rig.cache.write(RECORD - 7 * SECTOR, encodeRecord(9));
      const identity = decodeIdentity(rig.cache.visible.subarray(IDENTITY, IDENTITY + BLOCK));
      if (zeroed !== 0) await rig.cache.write(IDENTITY, Buffer.alloc(BLOCK));
      else await rig.cache.write(IDENTITY, encodeIdentity({ ...(identity as Identity), recordedId: 9 }));
      await rig.cache.flush();
      const refuseWrites = (): void => {
        rig.cache.refuse = ({ op, offset, length }) =>
          op === "write" && offset <= RECORD && RECORD < offset + length;
      };
      refuseWrites();
      await rig.open();
      for (const id of [7, 8]) await rig.segment(id, 0x10 + id);
      await rig.crash();
      refuseWrites();
      await rig.open();
      expect(rig.device.statusData).toMatchObject({ lastFlushedId: 8, lastWritebackId: 6, dirtyBlocks: 2 });
      await everything(rig);
    },
  );

  it("the identity record: opening is refused, and what is there can be had", async () => {
    const rig = await used(false);
    spoilSectors(rig.cache, [IDENTITY]);
    const before = Buffer.from(rig.cache.visible);
    const error = await failing(rig.open());
    expect(error.code).toBe("EIO");
    expect(error.hint).toContain("replay --until 6");
    expect(await kindsOf(rig)).toEqual([`unreadable ${IDENTITY}`]);
    const image = { cache: rig.cache, backing: rig.backing };
    await repair(image, work);
    expect(rig.cache.visible.equals(before)).toBe(true);
    await (await openAt(image, 6)).close();
    expect(await replay(rig.cache, rig.backing, { until: 6 })).toBe(6);
    expect(rig.backing.visible.readUInt8(6 * BLOCK)).toBe(0x16);
    // As the hint says.
    await rig.cache.write(IDENTITY, Buffer.alloc(BLOCK));
    await rig.open();
    await everything(rig);
  });

  it.each([
    ["header and identity record", [HEADER, IDENTITY]],
    ["identity record in front of a header of zeroes", [IDENTITY]],
  ])("%s: nothing is formatted", async (_name, offsets) => {
    const rig = await used(false);
    rig.cache.visible.fill(0, 0, SECTOR);
    spoilSectors(rig.cache, offsets);
    const before = Buffer.from(rig.cache.visible);
    expect((await failing(rig.open({ force: true }))).code).toBe("EIO");
    expect(rig.cache.visible.equals(before)).toBe(true);
  });
});

describe("the plog", () => {
  const SEGMENT = 27 * SECTOR;
  const plogOf = ({ plog }: Rig): HandDisk => plog as HandDisk;

  /** Segment 1 is full and on the cache device; of segment 2, in the plog alone, there are two records. */
  async function used(closed = false): Promise<Rig> {
    const rig = new Rig({ order: 5, slots: 5, plog: 4 * SEGMENT + SECTOR });
    await rig.open();
    for (const block of [1, 2, 3]) await rig.write(block, 0x10 + block);
    await rig.device.flush();
    await rig.write(4, 0x14);
    await rig.device.flush();
    await rig.write(5, 0x15);
    await rig.device.flush();
    if (closed) await rig.device.close();
    await rig.crash();
    return rig;
  }

  const readable = async (rig: Rig, last: number): Promise<void> => {
    for (let block = 1; block <= last; block += 1)
      expect(await rig.read(block)).toEqual(filled(0x10 + block));
  };

  it.each([
    ["a record of a segment that is on the cache device", 0],
    ["its data", 3 * SECTOR],
    ["a segment that was never used", 3 * SEGMENT],
    ["what lies behind the last record", SEGMENT + 19 * SECTOR],
  ])("%s is of no account, and is mended", async (_name, offset) => {
    const rig = await used();
    spoilSectors(plogOf(rig), [offset]);
    await kindsOf(rig);
    await rig.open();
    await readable(rig, 5);
    await rig.segment(9, 0x99);
    await rig.reopen();
    await readable(rig, 5);
    expect(await rig.read(9)).toEqual(filled(0x99));
  });

  it.each([
    ["the first record", SEGMENT],
    ["its data", SEGMENT + 5 * SECTOR],
    ["the second record", SEGMENT + 9 * SECTOR],
    ["the data of the second", SEGMENT + 12 * SECTOR],
    ["where a third would be", SEGMENT + 18 * SECTOR],
  ])(
    "%s of the end of the log: opening is refused, and what came before can be had",
    async (_name, offset) => {
      const rig = await used();
      spoilSectors(plogOf(rig), [offset]);
      const before = [rig.cache, plogOf(rig)].map(({ visible }) => Buffer.from(visible));
      const error = await failing(rig.open());
      expect(error).toMatchObject({ code: "EIO", device: "plog" });
      expect(error.message).toContain(`byte ${offset} of the plog cannot be read`);
      expect(error.hint).toContain("replay --until 1");
      expect((await kindsOf(rig)).some((kind) => kind.startsWith("damage"))).toBe(true);
      const image = { cache: rig.cache, backing: rig.backing, plog: plogOf(rig) };
      await repair(image, work);
      await writeboostImages.dump?.(image, work);
      for (const [index, { visible }] of [rig.cache, plogOf(rig)].entries())
        expect(visible.equals(before[index] as Buffer)).toBe(true);
      await (await openAt(image, 1)).close();
      // A copy on a device that is whole, with zeroes in place of what cannot be read.
      plogOf(rig).refuse = () => false;
      await plogOf(rig).write(offset, Buffer.alloc(SECTOR));
      await rig.open();
      await readable(rig, 3);
    },
  );

  it("the name: the plog of a cache in use is refused", async () => {
    const rig = await used();
    spoilSectors(plogOf(rig), [4 * SEGMENT]);
    const error = await failing(rig.open());
    expect(error).toMatchObject({ code: "EFORMAT", device: "plog" });
    expect(error.message).toContain("cannot be read");
    expect(await kindsOf(rig)).toContain("plog-foreign undefined");
  });

  it("a segment of no account that cannot be emptied is named", async () => {
    const rig = await used();
    spoilSectors(plogOf(rig), [3 * SECTOR], true);
    expect((await failing(rig.open())).message).toContain("plog segment 0 can neither be read nor emptied");
  });

  it("a copy on the cache device that its records do not replace as a whole is named where it cannot be read", async () => {
    const rig = await used(true);
    await rig.open();
    // Block 1 is in segment 1 on the cache device; of its newer copy, only this sector is in the plog.
    await rig.device.dropCaches();
    await rig.writeSectors(1, 0, 1, 0x77);
    await rig.device.flush();
    await rig.crash();
    spoilSectors(rig.cache, [1024 * 1024 + BLOCK]);
    const error = await failing(rig.open());
    expect(error).toMatchObject({ code: "EIO", device: "cache" });
    expect(error.message).toContain(`byte ${1024 * 1024 + BLOCK} cannot be read`);
    rig.cache.refuse = () => false;
    await rig.open();
    expect(await rig.read(1)).toEqual([0x77, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11]);
  });

  it("nothing in it counts after an orderly close", async () => {
    const rig = await used(true);
    spoilSectors(plogOf(rig), [0, SEGMENT, 2 * SEGMENT]);
    await rig.open();
    await readable(rig, 5);
  });
});
