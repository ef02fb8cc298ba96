/**
 * Whose plog it is, where no sector is left behind its last segment: the name is in the first sector then, and stays
 * there whatever fails. And plogs that older versions have left without one.
 */
import { MemoryDevice, crc32c } from "@dmkit/block-io";
import { manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { writeboostImages } from "../src/index.ts";
import { plogSegmentSize } from "../src/format/geometry.ts";
import { type HandDisk, type Lands, everything, nothing } from "./support/hand.ts";
import { work } from "./support/offline.ts";
import { BLOCK, Rig, type Shape, filled } from "./support/rig.ts";

const IDENTITY = 4096;
const SEGMENT = plogSegmentSize(5);

/** Bytes that are no zeroes, in sectors of which none is like the other. */
function noise(length: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, at) => ((at * 31) ^ (at >> 7)) | 1));
}

function bytesOf(disk: HandDisk | undefined): Buffer {
  return Buffer.from((disk as HandDisk).visible);
}

/** Changes what is on a disk, without a trace. */
function put(disk: HandDisk, offset: number, bytes: Buffer): void {
  for (const content of [disk.stable, disk.visible]) bytes.copy(content, offset);
}

const shape = { order: 5, slots: 9, plog: 3 * SEGMENT, options: { pool: 3 } } satisfies Shape;

/** A cache in use: block 1 is in the log, block 2 in the plog alone. */
async function used({ plog = shape.plog, order = shape.order } = {}): Promise<Rig> {
  const rig = new Rig({ ...shape, order, plog });
  await rig.open();
  await rig.segment(1, 0x11);
  await rig.device.dropCaches();
  await rig.segment(2, 0x22);
  return rig;
}

/** Another cache in use, with uuids of its own. */
async function another(): Promise<Rig> {
  const rig = new Rig({ ...shape });
  await rig.open({ environment: manualEnvironment(2, rig.clock) });
  await rig.segment(7, 0x77);
  return rig;
}

/** As {@link used}; the power failed. */
async function crashed(size: { plog?: number; order?: number } = {}): Promise<Rig> {
  const rig = await used(size);
  await rig.crash(nothing);
  return rig;
}

/** Closed in order. */
async function closed(): Promise<Rig> {
  const rig = await used();
  await rig.device.close();
  await rig.crash(nothing);
  return rig;
}

async function expectRefused(rig: Rig, options = {}): Promise<void> {
  const before = [rig.cache, rig.plog].map(bytesOf);
  await expect(rig.open(options)).rejects.toMatchObject({ code: "EFORMAT", device: "plog" });
  const after = [rig.cache, rig.plog].map(bytesOf);
  expect(after.map((bytes, index) => bytes.equals(before[index] as Buffer))).toEqual([true, true]);
}

async function expectContents(rig: Rig): Promise<void> {
  expect(await rig.read(1)).toEqual(filled(0x11));
  expect(await rig.read(2)).toEqual(filled(0x22));
}

/** What no flush covers survives like this. */
const torn: [string, Lands][] = [
  ["nothing", nothing],
  ["all", everything],
  ["the first sectors", (_, sector) => sector === 0],
  ["all but the first sectors", (_, sector) => sector > 0],
  ["every other sector", (_, sector) => sector % 2 === 0],
];

describe("a cache that was closed in order, though its plog could not be zeroed durably", () => {
  it.each([
    [4, 1],
    [4, 3],
    [5, 1],
    [5, 3],
  ])("opens with its plog, whatever is in it (order %d, %d segments)", async (order, segments) => {
    for (const [survives, lands] of torn) {
      const rig = await used({ order, plog: segments * plogSegmentSize(order) });
      (rig.plog as HandDisk).refuse = ({ op }) => op === "flush";
      await rig.device.close();
      await rig.crash(lands);
      await expect(rig.open(), survives).resolves.toBeDefined();
      await expectContents(rig);
      // And once more, with a crash while what is left is zeroed.
      await rig.crash(lands);
      await rig.open();
      await expectContents(rig);
    }
  });

  it("opens after a crash at any step of opening it", async () => {
    for (let step = 1; ; step += 1) {
      const rig = await used();
      (rig.plog as HandDisk).refuse = ({ op }) => op === "flush";
      await rig.device.close();
      await rig.crash(({ offset }, sector) => offset + sector * 512 >= 2048);
      let left = step;
      for (const disk of [rig.cache, rig.plog as HandDisk])
        disk.refuse = ({ op }) => op !== "read" && (left -= 1) < 0;
      const opened = await rig.open().then(
        () => true,
        () => false,
      );
      await rig.crash(({ op }, sector) => op === "write" && sector > 0);
      await rig.open();
      await expectContents(rig);
      if (opened) break;
    }
  });

  it("does not open with another device in its place", async () => {
    const rig = await used();
    (rig.plog as HandDisk).refuse = ({ op }) => op === "flush";
    await rig.device.close();
    await rig.crash(nothing);
    const stranger = await another();
    await stranger.crash(nothing);
    for (const other of [noise(shape.plog), bytesOf(stranger.plog)]) {
      put(rig.plog as HandDisk, 0, other);
      await expectRefused(rig);
    }
  });
});

describe("a plog whose name is in its first sector", () => {
  it("goes on where the log ends, after a crash", async () => {
    const rig = await crashed();
    await rig.open();
    await expectContents(rig);
  });

  it("is told from any other by a cache that needs its own", async () => {
    const inUse = await another();
    const atRest = await another();
    await atRest.device.close();
    const rig = await crashed();
    const own = bytesOf(rig.plog);
    for (const bytes of [
      bytesOf(inUse.plog),
      bytesOf(atRest.plog),
      Buffer.alloc(shape.plog),
      noise(shape.plog),
    ]) {
      put(rig.plog as HandDisk, 0, bytes);
      await expectRefused(rig);
      await expectRefused(rig, { force: true });
    }
    put(rig.plog as HandDisk, 0, own);
    await rig.open();
    await expectContents(rig);
  });

  it("is recognised, and no blank device", async () => {
    const { plog } = await closed();
    const device = new MemoryDevice(shape.plog, { name: "plog" });
    await device.write(0, bytesOf(plog));
    expect(await writeboostImages.detect(device)).toMatchObject({ certainty: "magic", role: "plog" });
    const rig = new Rig(shape);
    put(rig.plog as HandDisk, 0, bytesOf(plog));
    await expectRefused(rig);
    await rig.open({ force: true });
  });

  it("gives the identity record back to a cache that has lost it, and opens without that, too", async () => {
    for (const make of [crashed, closed]) {
      for (const plog of [shape.plog, shape.plog + 512]) {
        const rig = make === crashed ? await crashed({ plog }) : await closed();
        const flipped = Buffer.from(rig.cache.stable.subarray(IDENTITY, IDENTITY + 512));
        flipped.writeUInt8(flipped.readUInt8(50) ^ 1, 50);
        put(rig.cache, IDENTITY, flipped);
        const twin = new Rig(shape);
        [twin.backing, twin.cache, twin.plog] = [rig.backing.crash(), rig.cache.crash(), rig.plog?.crash()];
        const { backing, cache, plog: log } = twin;
        const all = { backing, cache, plog: log as HandDisk };
        const { repaired, left } = (await writeboostImages.repair?.(all, work)) ?? {};
        expect(repaired?.map(({ kind }) => kind)).toContain("identity");
        expect(left).toEqual([]);
        for (const one of [twin, rig]) {
          if (one === rig)
            [rig.backing, rig.cache, rig.plog] = [rig.backing.crash(), rig.cache.crash(), rig.plog?.crash()];
          await one.open();
          await expectContents(one);
        }
      }
    }
  });

  it("is dumped and restored byte for byte", async () => {
    for (const make of [crashed, closed]) {
      const { backing, cache, plog } = await make();
      const all = { backing, cache, plog: plog as HandDisk };
      const before = bytesOf(plog);
      const dump: unknown = JSON.parse(JSON.stringify(await writeboostImages.dump?.(all, work)));
      await all.plog.write(0, Buffer.alloc(512, 9));
      await writeboostImages.restore?.(all, dump, work);
      expect(bytesOf(plog).equals(before)).toBe(true);
    }
  });
});

describe("a cache that was closed in order, and is given another plog", () => {
  it.each([0, 512])(
    "does not take the first one for it later (%d bytes behind the segments)",
    async (rest) => {
      const rig = new Rig({ ...shape, plog: shape.plog + rest });
      await rig.open();
      await rig.segment(1, 0x11);
      await rig.device.close();
      await rig.crash(nothing);
      const first = rig.plog as HandDisk;
      rig.plog = new Rig({ ...shape, plog: shape.plog + rest }).plog;
      await rig.open({ environment: manualEnvironment(3, rig.clock) });
      await rig.segment(2, 0x22);
      await rig.crash(nothing);
      const second = rig.plog;
      rig.plog = first;
      await expectRefused(rig);
      rig.plog = second;
      await rig.open();
      await expectContents(rig);
      await rig.device.close();
      // Now nothing is missing from it.
      await rig.crash(nothing);
      rig.plog = first;
      await rig.open();
      await expectContents(rig);
    },
  );
});

describe("a plog that an older version has left without a name", () => {
  async function unnamed(): Promise<Rig> {
    const rig = await crashed();
    put(rig.plog as HandDisk, 256, Buffer.alloc(256));
    const sector = Buffer.from(rig.cache.stable.subarray(IDENTITY, IDENTITY + 512));
    sector.writeUInt8(0, 104);
    sector.writeUInt32LE(0, 8);
    sector.writeUInt32LE(crc32c(sector), 8);
    put(rig.cache, IDENTITY, sector);
    return rig;
  }

  it("goes on where the log ends, and has one from then on", async () => {
    const rig = await unnamed();
    await rig.open();
    await expectContents(rig);
    await rig.crash(nothing);
    expect((rig.plog as HandDisk).stable.toString("latin1", 256, 264)).toBe("dmkitWB1");
    await rig.open();
    await expectContents(rig);
  });

  it("is not refused for two bytes of what is written, which look like a file system", async () => {
    const rig = await unnamed();
    const plog = rig.plog as HandDisk;
    const data = noise(BLOCK);
    // The second sector of data, of what the crash has torn.
    Buffer.from("7824", "hex").copy(data, 1040 - 512);
    put(plog, 512, data);
    await rig.open();
    expect(await rig.read(1)).toEqual(filled(0x11));
  });

  it("is refused for a file system that is one", async () => {
    const rig = await unnamed();
    put(rig.plog as HandDisk, 1080, Buffer.from("53ef0100", "hex"));
    put(rig.plog as HandDisk, 1024, Buffer.alloc(56));
    put(rig.plog as HandDisk, 1084, Buffer.alloc(20));
    await expectRefused(rig);
    await rig.open({ force: true });
  });
});

it("a block of data never hides the name: it stays in the first sector through every use of it", async () => {
  const rig = await used({ plog: SEGMENT });
  for (let round = 0; round < 8; round += 1) {
    await rig.writeSectors(3 + round, 0, 1 + (round % 8), round);
    await rig.device.flush();
    expect((rig.plog as HandDisk).stable.toString("latin1", 256, 264)).toBe("dmkitWB1");
  }
  await rig.device.close();
  expect((rig.plog as HandDisk).stable.subarray(0, 256)).toEqual(Buffer.alloc(256));
  expect((rig.plog as HandDisk).stable.subarray(512)).toEqual(Buffer.alloc(SEGMENT - 512));
});
