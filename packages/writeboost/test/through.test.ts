/** write_through: the backing device has what is acknowledged, and the log is never behind it. */
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { dumpImage, openWriteboost, replay, restore } from "../src/index.ts";
import { IDENTITY_START } from "../src/format/identity.ts";
import { everything, nothing } from "./support/hand.ts";
import { work } from "./support/offline.ts";
import { BLOCK, MIB, Rig, filled } from "./support/rig.ts";

/** Segments of one block each, 1 … `segments`, and it writes through from there on. */
async function through(segments: number, slots = 16): Promise<Rig> {
  const rig = new Rig({ slots });
  await rig.open();
  for (let block = 1; block <= segments; block += 1) await rig.segment(block, block);
  await rig.device.message(["write_through", "1"]);
  return rig;
}

/** What a block holds without the cache, if the power fails now. */
const below = (rig: Rig, block: number): number[] =>
  Array.from({ length: 8 }, (_, sector) => rig.backing.stable.readUInt8(block * BLOCK + sector * 512));

const complete = (rig: Rig): unknown => rig.device.facts()["backing_complete"];

describe("writing through", () => {
  it("writes back what is dirty, whatever else is allowed, and says when that is done", async () => {
    const rig = new Rig({ slots: 16 });
    await rig.open();
    for (const block of [1, 2, 3]) await rig.segment(block, block);
    await rig.write(4, 4);
    expect(complete(rig)).toBe(0);
    await rig.device.message(["write_through", "1"]);
    expect(rig.device.statusData.tunables.allow_writeback).toBe(0);
    await rig.clock.pass(2000);
    expect(complete(rig)).toBe(1);
    for (const block of [1, 2, 3, 4]) expect(below(rig, block)).toEqual(filled(block));
    expect(rig.device.settings()).toMatchObject({ write_through: 1 });
    await rig.device.message(["write_through", "0"]);
    expect(complete(rig)).toBe(0);
    await rig.segment(5, 5);
    await rig.clock.pass(60_000);
    expect(below(rig, 5)).toEqual(filled(0));
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it("what the log does not have goes to the backing device alone, parts of blocks too, durably with a flush", async () => {
    const rig = await through(0);
    await settle();
    const { length } = rig.cache.log;
    await rig.write(5, 5);
    await rig.writeSectors(6, 2, 3, 6);
    await rig.device.writeZeroes(7 * BLOCK + 512, 1024);
    expect(rig.cache.log.slice(length)).toEqual([]);
    await rig.device.flush();
    expect(below(rig, 5)).toEqual(filled(5));
    expect(below(rig, 6)).toEqual([0, 0, 6, 6, 6, 0, 0, 0]);
    expect(await rig.read(6)).toEqual([0, 0, 6, 6, 6, 0, 0, 0]);
    await rig.device.close();
  });

  it("what the log has is acknowledged when the backing device has it, durably, and read from the cache", async () => {
    const rig = await through(2);
    await rig.clock.pass(2000);
    for (const [hold, at] of [
      ["write", "cache"],
      ["flush", "cache"],
      ["write", "backing"],
      ["flush", "backing"],
    ] as const) {
      rig[at].hold = ({ op }) => op === hold;
      let over = false;
      const writing = rig.writeSectors(1, 3, 2, 9).then(() => (over = true));
      await settle();
      expect([hold, at, over]).toEqual([hold, at, false]);
      rig[at].hold = () => false;
      rig[at].release();
      await writing;
      expect(below(rig, 1)).toEqual([1, 1, 1, 9, 9, 1, 1, 1]);
    }
    await rig.write(2, 8);
    const reads = rig.backing.asked("read");
    expect(await rig.read(2)).toEqual(filled(8));
    expect(rig.backing.asked("read")).toBe(reads);
    expect(complete(rig)).toBe(1);
    await rig.device.close();
  });

  it("requests that wait share what it costs", async () => {
    const rig = await through(6);
    await rig.device.dropCaches();
    const before = rig.backing.asked("flush");
    rig.backing.hold = ({ op }) => op === "flush";
    const writing = [1, 2, 3, 4, 5, 6].map((block) => rig.write(block, 100 + block));
    await settle();
    rig.backing.hold = () => false;
    rig.backing.release();
    await Promise.all(writing);
    expect(rig.backing.asked("flush") - before).toBeLessThanOrEqual(2);
    for (const block of [1, 2, 3, 4, 5, 6]) expect(below(rig, block)).toEqual(filled(100 + block));
    await rig.device.close();
  });

  it.each([
    ["nothing", undefined],
    ["everything", everything],
  ])(
    "a crash before the backing device has it, of which %s lands: with the cache and without there is one of both",
    async (_what, lands) => {
      const rig = await through(1);
      await rig.device.dropCaches();
      rig.backing.hold = ({ op }) => op === "write";
      void rig.write(1, 9).catch(() => {});
      await settle();
      await rig.crash(lands);
      const without = below(rig, 1);
      expect([filled(1), filled(9)]).toContainEqual(without);
      await rig.open();
      const found = await rig.read(1);
      // The log does not count: what is below may be newer.
      expect(found).toEqual(without);
      await rig.device.dropCaches();
      expect(below(rig, 1)).toEqual(found);
      await rig.device.close();
    },
  );

  it("a block that the backing device does not take is an error for who writes it, for nobody else, and told", async () => {
    const rig = await through(2);
    await rig.device.dropCaches();
    await settle();
    expect(complete(rig)).toBe(1);
    rig.backing.refuse = ({ op, offset }) => op === "write" && offset === BLOCK;
    const [bad, good] = await Promise.allSettled([rig.write(1, 9), rig.write(2, 8)]);
    expect([bad.status, good.status]).toEqual(["rejected", "fulfilled"]);
    expect(below(rig, 2)).toEqual(filled(8));
    expect([complete(rig), rig.device.health().state]).toEqual([0, "degraded"]);
    rig.backing.refuse = () => false;
    await rig.clock.pass(10_000);
    expect(complete(rig)).toBe(1);
    expect(below(rig, 1)).toEqual(filled(9));
    await rig.device.close();
  });

  it("is set in a table, and written back to after a crash", async () => {
    const rig = await through(0);
    await rig.device.message(["write_through", "0"]);
    for (const block of [1, 2]) await rig.segment(block, block);
    await rig.crash();
    await rig.open({ tunables: { write_through: 1 } });
    expect(complete(rig)).toBe(0);
    await rig.clock.pass(2000);
    expect(complete(rig)).toBe(1);
    expect(below(rig, 2)).toEqual(filled(2));
    await rig.device.close();
  });

  it("is switched on while suspended without touching the devices", async () => {
    const rig = new Rig({ slots: 8, plog: 204_800 });
    await rig.open();
    await rig.write(1, 1);
    await rig.device.suspend();
    const { length } = rig.cache.log;
    await rig.device.message(["write_through", "1"]);
    await rig.clock.pass(5000);
    expect(rig.cache.log).toHaveLength(length);
    await rig.device.resume();
    await rig.clock.pass(5000);
    expect(complete(rig)).toBe(1);
    expect(below(rig, 1)).toEqual(filled(1));
    await rig.device.close();
  });
});

it("switched while clients write: whenever it is complete, the backing device alone is a disk with all of it", async () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  const random = new SeededRandom(seed);
  const below = (limit: number): number => Math.floor(random.next() * limit);
  const blocks = 24;
  const backing = new MemoryDevice(blocks * BLOCK);
  const cache = new MemoryDevice(MIB + 12 * 512 * 2 ** 5);
  const options = { order: 5, environment: realEnvironment, tunables: { read_cache_threshold: 8 } };
  const device = await openWriteboost({ backing, cache, plog: undefined }, options);
  const model = Buffer.alloc(blocks * BLOCK);
  const now = Buffer.alloc(model.length);
  for (let round = 0; round < 150; round += 1) {
    if (random.next() < 0.15) await device.message(["write_through", String(below(2))]);
    if (random.next() < 0.05) await device.dropCaches();
    const requests: Promise<void>[] = [];
    // Each in a part of its own: what overlaps has no order.
    for (let part = 0; part < 4; part += 1) {
      const sector = part * 48 + below(40);
      const bytes = 512 * (1 + below(Math.min(20, (part + 1) * 48 - sector)));
      const data = Buffer.alloc(bytes, 1 + below(255));
      const kind = random.next();
      if (kind < 0.2) requests.push(device.read(sector * 512, Buffer.alloc(bytes)));
      else if (kind < 0.3) {
        requests.push(device.writeZeroes(sector * 512, bytes));
        model.fill(0, sector * 512, sector * 512 + bytes);
      } else {
        requests.push(device.write(sector * 512, data));
        data.copy(model, sector * 512);
      }
    }
    await Promise.all(requests);
    if (device.facts()["backing_complete"] === 1) {
      await backing.read(0, now);
      expect([seed, round, now.equals(model)]).toEqual([seed, round, true]);
    }
    await device.read(0, now);
    expect([seed, round, now.equals(model)]).toEqual([seed, round, true]);
  }
  await device.message(["write_through", "1"]);
  await device.dropCaches();
  expect(device.facts()).toMatchObject({ backing_complete: 1 });
  await backing.read(0, now);
  expect([seed, now.equals(model)]).toEqual([seed, true]);
  await device.close();
});

describe("a cache that was written through, taken away by a crash, and put back", () => {
  /** What somebody writes to the backing device without the cache. */
  const without = (rig: Rig, block: number, byte: number): void => {
    for (const bytes of [rig.backing.stable, rig.backing.visible])
      bytes.fill(byte, block * BLOCK, (block + 1) * BLOCK);
  };

  it.each([undefined, MIB + 4096])("begins empty (plog: %s)", async (plog) => {
    const rig = new Rig({ slots: 16, ...(plog === undefined ? {} : { plog }) });
    await rig.open({ tunables: { write_through: 1 } });
    await rig.segment(1, 1);
    await rig.clock.pass(2000);
    expect(complete(rig)).toBe(1);
    await rig.crash(everything);
    without(rig, 1, 9);
    for (let round = 0; round < 2; round += 1) {
      await rig.open({ tunables: { write_through: round } });
      expect(await rig.read(1)).toEqual(filled(9));
      await rig.segment(2, 2 + round);
      await rig.crash(everything);
    }
  });

  it("says so in a dump, which puts it back as it was; and nothing of it is replayed", async () => {
    const rig = new Rig({ slots: 16 });
    await rig.open({ tunables: { write_through: 1 } });
    await rig.segment(1, 1);
    await rig.clock.pass(2000);
    await rig.crash(everything);
    const { backing, cache } = rig;
    const dumped = await dumpImage({ cache, backing, plog: undefined }, work);
    expect(dumped).toMatchObject({ identity: { through: true, clean: false } });
    const other = new MemoryDevice(cache.size);
    await restore({ cache: other, backing, plog: undefined }, dumped, work);
    const record = Buffer.alloc(512);
    await other.read(IDENTITY_START, record);
    expect(record.equals(cache.visible.subarray(IDENTITY_START, IDENTITY_START + 512))).toBe(true);
    without(rig, 1, 9);
    await replay(cache, backing);
    expect(below(rig, 1)).toEqual(filled(9));
  });

  it("is believed as ever when that was switched off, whatever is written next", async () => {
    const rig = new Rig({ slots: 16 });
    await rig.open({ tunables: { write_through: 1 } });
    await rig.clock.pass(2000);
    expect(complete(rig)).toBe(1);
    await rig.device.message(["write_through", "0"]);
    await rig.segment(1, 1);
    await rig.crash(nothing);
    await rig.open();
    expect(await rig.read(1)).toEqual(filled(1));
    await rig.device.close();
  });
});
