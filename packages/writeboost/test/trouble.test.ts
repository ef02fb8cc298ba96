/** Devices below that are full, or bad in places: what needs them fails and is named, everything else goes on. */
import { type BlockDevice, type BlockIoError, type Logger, type StorageFacts, done } from "@dmkit/block-io";
import { manualEnvironment, settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { SLOTS_START } from "../src/format/geometry.ts";
import { parseStatus } from "../src/index.ts";
import { type HandDisk, altered } from "./support/hand.ts";
import { BLOCK, Rig, type Shape, filled } from "./support/rig.ts";

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "done",
    (error: unknown) => (error as BlockIoError).code,
  );

async function opened(shape: Shape): Promise<{ rig: Rig; log: string[] }> {
  const rig = new Rig(shape);
  const log: string[] = [];
  const logger: Logger = {
    log: (level, message, fields) => log.push(JSON.stringify([level, message, fields])),
  };
  await rig.open({ environment: { ...manualEnvironment(1, rig.clock), logger } });
  return { rig, log };
}

function fill(disk: HandDisk): void {
  disk.code = "ENOSPC";
  disk.refuse = ({ op, offset }) => op === "write" && (disk.name !== "cache" || offset >= SLOTS_START);
}

function free(disk: HandDisk): void {
  disk.refuse = () => false;
}

const troubleOf = (rig: Rig) => parseStatus(rig.device.status()).trouble;

describe("no space below", () => {
  it("a flush that finds none fails with ENOSPC, loses nothing, and the next one covers it", async () => {
    const { rig, log } = await opened({ slots: 9 });
    await rig.segment(1, 0x11);
    fill(rig.cache);
    await rig.write(2, 0x22);
    expect(await codeOf(rig.device.flush())).toBe("ENOSPC");
    expect(await codeOf(rig.device.flush())).toBe("ENOSPC");
    expect(rig.device.failure).toBeUndefined();
    expect(troubleOf(rig)).toMatchObject({ out_of_space: 1, dead: 0 });
    expect(JSON.parse(await rig.device.message(["info"]))).toMatchObject({
      out_of_space: expect.stringContaining("ENOSPC"),
    });
    // Everything can be read: what is in the cache, in RAM, and on the backing device.
    for (const [block, byte] of [
      [1, 0x11],
      [2, 0x22],
      [200, 0],
    ] as const)
      expect(await rig.read(block)).toEqual(filled(byte));
    const errors = log.filter((line) => line.includes("error"));
    expect(errors).toHaveLength(1);
    expect(errors[0]).toContain("ENOSPC");
    free(rig.cache);
    await rig.device.flush();
    expect(troubleOf(rig).out_of_space).toBe(0);
    await rig.reopen();
    expect(await rig.read(2)).toEqual(filled(0x22));
  });

  it("without anybody asking it is tried again", async () => {
    const { rig } = await opened({ slots: 9 });
    fill(rig.cache);
    await rig.write(2, 0x22);
    await codeOf(rig.device.flush());
    await rig.clock.pass(3000);
    expect(troubleOf(rig).out_of_space).toBe(1);
    free(rig.cache);
    await rig.clock.pass(1000);
    expect(troubleOf(rig).out_of_space).toBe(0);
    expect(rig.device.statusData.lastFlushedId).toBe(1);
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it("writes are refused when memory is full as well, and go on when there is space", async () => {
    const { rig } = await opened({ slots: 20, options: { pool: 2 } });
    fill(rig.cache);
    const codes: string[] = [];
    for (let block = 1; block <= 5; block += 1) codes.push(await codeOf(rig.write(block, block)));
    expect(codes.slice(0, 2)).toEqual(["done", "done"]);
    expect(codes.at(-1)).toBe("ENOSPC");
    expect(await rig.read(1)).toEqual(filled(1));
    free(rig.cache);
    for (let block = 1; block <= 5; block += 1) await rig.segment(block, block + 16);
    await rig.reopen();
    for (let block = 1; block <= 5; block += 1) expect(await rig.read(block)).toEqual(filled(block + 16));
  });

  it("an fsync that fails is the end, also for want of space, and the reason is named", async () => {
    const { rig } = await opened({ slots: 9 });
    rig.cache.code = "ENOSPC";
    rig.cache.refuse = ({ op }) => op === "flush";
    await rig.write(2, 0x22);
    expect(await codeOf(rig.device.flush())).toBe("EIO");
    free(rig.cache);
    const later = await rig.write(3, 0x33).catch((error: unknown) => error as BlockIoError);
    expect(later).toMatchObject({ code: "EIO", message: expect.stringContaining("ENOSPC") });
    expect(troubleOf(rig).dead).toBe(1);
  });

  it("a plog without space fails the barrier, and the next one covers everything", async () => {
    const { rig } = await opened({ slots: 9, plog: 9 * 512 * 9 });
    await rig.segment(1, 0x11);
    if (rig.plog === undefined) throw new Error("no plog");
    fill(rig.plog);
    await rig.write(2, 0x22);
    await rig.write(2, 0x23);
    expect(await codeOf(rig.device.flush())).toBe("ENOSPC");
    expect(await rig.read(2)).toEqual(filled(0x23));
    free(rig.plog);
    await rig.device.flush();
    await rig.reopen();
    expect(await rig.read(1)).toEqual(filled(0x11));
    expect(await rig.read(2)).toEqual(filled(0x23));
  });

  it("a close that has no space for its notes loses nothing", async () => {
    const { rig } = await opened({ slots: 9 });
    await rig.segment(1, 0x11);
    rig.cache.code = "ENOSPC";
    rig.cache.refuse = ({ op, offset }) => op === "write" && offset < SLOTS_START;
    await rig.device.dropCaches();
    await rig.device.close();
    await rig.reopen();
    expect(await rig.read(1)).toEqual(filled(0x11));
  });

  it("a backing device without space keeps the data in the cache, and is told once", async () => {
    const { rig, log } = await opened({ slots: 9, options: { tunables: { allow_writeback: 1 } } });
    fill(rig.backing);
    await rig.segment(1, 0x11);
    await rig.clock.pass(10_000);
    expect(rig.device.statusData).toMatchObject({ lastWritebackId: 0, trouble: { bad_blocks: 0 } });
    expect(log.filter((line) => line.includes("error"))).toHaveLength(1);
    expect(rig.device.info()).toMatchObject({ writeback_error: expect.stringContaining("ENOSPC") });
    free(rig.backing);
    await rig.clock.pass(2000);
    expect(rig.device.statusData.lastWritebackId).toBe(1);
  });
});

/** A place of the backing device that takes no data. */
function spoil(rig: Rig, ...blocks: readonly number[]): void {
  rig.backing.refuse = ({ op, offset, length }) =>
    op === "write" && blocks.some((block) => offset < (block + 1) * BLOCK && block * BLOCK < offset + length);
}

describe("a bad spot of the backing device", () => {
  it.each([
    ["one", [5]],
    ["several, together and apart", [5, 6, 7, 90]],
  ])("%s: the ring goes round, and only they stay dirty", async (_name, bad) => {
    const { rig, log } = await opened({ order: 5, slots: 8 });
    spoil(rig, ...bad);
    for (let block = 0; block < 100; block += 1) await rig.segment(block, block + 1);
    const { trouble, lastWritebackId } = rig.device.statusData;
    expect(lastWritebackId).toBeGreaterThan(80);
    expect(trouble).toMatchObject({ bad_blocks: bad.length });
    expect(trouble.writeback_errors).toBeGreaterThan(0);
    expect(rig.device.facts()).toMatchObject({ bad_blocks: bad.length });
    expect(log.some((line) => line.includes("does not take some blocks"))).toBe(true);
    // Told, although everything else is written back.
    expect(await codeOf(rig.device.dropCaches())).toBe("EIO");
    expect(rig.device.statusData.dirtyBlocks).toBe(bad.length);
    await rig.reopen();
    for (let block = 0; block < 100; block += 1) expect(await rig.read(block)).toEqual(filled(block + 1));
  });

  it("heals: when the spot takes data again it is written, by itself", async () => {
    const { rig } = await opened({ slots: 9, options: { tunables: { allow_writeback: 1 } } });
    spoil(rig, 5);
    await rig.segment(5, 0x55);
    await rig.clock.pass(10_000);
    const { currentId, trouble } = rig.device.statusData;
    expect(trouble.bad_blocks).toBe(1);
    // Tried ever more seldom: each time takes a segment.
    await rig.clock.pass(300_000);
    expect(rig.device.statusData.currentId - currentId).toBeLessThan(10);
    free(rig.backing);
    await rig.clock.pass(70_000);
    expect(rig.device.statusData).toMatchObject({ dirtyBlocks: 0, trouble: { bad_blocks: 0 } });
    expect(rig.backing.stable[5 * BLOCK]).toBe(0x55);
    await rig.device.close();
  });

  it.each([
    ["was written back", false],
    ["was only read", true],
  ])("in a ring that counts as full after a crash, a block that %s stops nothing", async (_name, isRead) => {
    const options = { tunables: { read_cache_threshold: 2 } };
    const { rig } = await opened({ order: 4, slots: 6, options });
    if (isRead) await rig.read(5);
    else await rig.segment(5, 0x55);
    await rig.device.flush();
    for (let block = 10; block < 15; block += 1) await rig.segment(block, block);
    await rig.device.dropCaches();
    expect(rig.device.statusData).toMatchObject({ lastFlushedId: 6, lastWritebackId: 6 });
    await rig.crash();
    spoil(rig, 5);
    await rig.open();
    expect(rig.device.statusData).toMatchObject({ lastFlushedId: 6, lastWritebackId: 0 });
    for (let block = 20; block < 40; block += 1) await rig.segment(block, block);
    await rig.device.dropCaches();
    expect(rig.device.statusData).toMatchObject({ dirtyBlocks: 0, trouble: { bad_blocks: 0 } });
    expect(await rig.read(5)).toEqual(filled(isRead ? 0 : 0x55));
  });

  it("a ring full of them: writers are told, reads go on, and it heals", async () => {
    const { rig } = await opened({ order: 4, slots: 6 });
    rig.backing.refuse = ({ op }) => op === "write";
    const codes: string[] = [];
    for (let block = 0; block < 12; block += 1) codes.push(await codeOf(rig.segment(block, block + 1)));
    expect(codes[0]).toBe("done");
    expect(codes.at(-1)).toBe("EIO");
    for (const [block, code] of codes.entries()) {
      if (code === "done") expect(await rig.read(block)).toEqual(filled(block + 1));
    }
    free(rig.backing);
    for (let block = 0; block < 12; block += 1) await rig.segment(block, block + 1);
    await rig.device.dropCaches();
    expect(rig.device.statusData.dirtyBlocks).toBe(0);
  });
});

/** What the backing device is asked for by writeback. */
async function written(rig: Rig, work: () => Promise<void>): Promise<string[]> {
  const asked: string[] = [];
  rig.wrap = (disk: BlockDevice, name) =>
    name !== "backing"
      ? disk
      : altered(disk, {
          write: (offset, from, options) => {
            asked.push(`write ${offset / BLOCK}+${from.length / BLOCK}`);
            return disk.write(offset, from, options);
          },
          writeZeroes: (offset, length, options) => {
            asked.push(
              `zero ${offset / BLOCK}+${length / BLOCK}${options?.mayUnmap === true ? " unmap" : ""}`,
            );
            return disk.writeZeroes(offset, length, options);
          },
        });
  await rig.open();
  await work();
  await rig.device.dropCaches();
  return asked;
}

describe("writeback", () => {
  it("gives the space back that clients have given back", async () => {
    const rig = new Rig({ order: 7, slots: 9 });
    const asked = await written(rig, async () => {
      for (const block of [3, 4, 5, 8, 9]) await rig.write(block, 0xee);
      await rig.device.discard(4 * BLOCK, BLOCK);
      await rig.device.writeZeroes(5 * BLOCK, BLOCK);
      await rig.device.writeZeroes(9 * BLOCK, BLOCK / 2);
    });
    expect(asked).toEqual(["write 3+1", "zero 4+2 unmap", "write 8+2"]);
    expect(await rig.read(4)).toEqual(filled(0));
    expect(await rig.read(9)).toEqual([0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
  });

  it("asks in the order of addresses, also where requests are put together of several blocks", async () => {
    const rig = new Rig({ order: 10, slots: 4 });
    const asked = await written(rig, async () => {
      // Neighbours that are apart in the segment, between single blocks.
      for (let block = 0; block < 60; block += 3) await rig.write(block, 1);
      for (let block = 1; block < 60; block += 6) await rig.write(block, 2);
    });
    const places = asked.map((one) => Number(/\d+/.exec(one)?.[0]));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(asked).toContain("write 0+2");
  });

  it("clients that flush all the time keep it waiting for some seconds only", async () => {
    const rig = new Rig({ slots: 2000, options: { tunables: { allow_writeback: 1 } } });
    await rig.open();
    for (let turn = 0; turn < 12; turn += 1) {
      for (let barrier = 0; barrier < 60; barrier += 1) await rig.segment(barrier, turn);
      await rig.clock.pass(500);
      if (turn === 5) expect(rig.device.statusData.lastWritebackId).toBe(0);
    }
    expect(rig.device.statusData.lastWritebackId).toBeGreaterThan(0);
  });
});

describe("the modulator", () => {
  /** Whether it allows writeback while the storage below tells this account each second. */
  async function allows(
    accountOf: (second: number) => readonly StorageFacts[],
    threshold = 20,
  ): Promise<number> {
    const rig = new Rig({ slots: 9, options: { tunables: { writeback_threshold: threshold } } });
    let second = 0;
    rig.wrap = (disk, name) =>
      name === "backing" ? altered(disk, { storage: async () => accountOf(second) }) : disk;
    await rig.open();
    await rig.device.message(["enable_writeback_modulator", "1"]);
    for (second = 0; second < 3; second += 1) await rig.clock.pass(1000);
    await settle();
    return rig.device.statusData.tunables.allow_writeback as number;
  }

  it("goes by what the system knows of the disk, whoever makes the load", async () => {
    expect(await allows((second) => [{ id: "disk", busy: 5000 + second * 310 }])).toBe(0);
    expect(await allows((second) => [{ id: "disk", busy: 5000 + second * 310 }], 40)).toBe(1);
    // The busiest of several counts.
    const two = (second: number) => [
      { id: "a", busy: 0 },
      { id: "b", busy: second * 310 },
    ];
    expect(await allows(two)).toBe(0);
  });

  it("else by its own requests, also those that are carried out at once", async () => {
    const rig = new Rig({ slots: 9, options: { tunables: { writeback_threshold: 20 } } });
    rig.wrap = (disk, name) =>
      name !== "backing"
        ? disk
        : altered(disk, {
            read: (_offset, into) => {
              rig.clock.advance(30);
              into.fill(0);
              return done;
            },
          });
    await rig.open();
    await rig.device.message(["enable_writeback_modulator", "1"]);
    for (let turn = 0; turn < 3; turn += 1) {
      for (let read = 0; read < 10; read += 1) await rig.read(200 + read);
      await rig.clock.pass(700);
    }
    expect(rig.device.statusData.tunables.allow_writeback).toBe(0);
  });
});
