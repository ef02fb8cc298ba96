/** Every tunable changes what the device does when it is sent as a message; time is moved by hand. */
import type { BlockIoError } from "@dmkit/block-io";
import { settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { RECORD_START } from "../src/format/superblock.ts";
import { parseStatus } from "../src/index.ts";
import { options, tunableNames } from "../src/options.ts";
import { Rig } from "./support/rig.ts";

/** A rig with segments 1 … `segments` flushed, and nothing allowed. */
async function running(segments: number, slots = 40): Promise<Rig> {
  const rig = new Rig({ slots });
  await rig.open();
  for (let block = 1; block <= segments; block += 1) await rig.segment(block, block);
  return rig;
}

const writtenBack = (rig: Rig): number => rig.device.statusData.lastWritebackId;
const records = (rig: Rig): number => rig.cache.log.filter(({ offset }) => offset === RECORD_START).length;

describe("messages", () => {
  it("drop_caches is refused while nothing is written back, and works again afterwards", async () => {
    const rig = await running(3);
    await rig.device.suspend();
    await expect(rig.device.message(["drop_caches"])).rejects.toMatchObject({ code: "EBUSY" });
    await rig.device.resume();
    await rig.device.message(["drop_caches"]);
    expect(writtenBack(rig)).toBe(3);
    await rig.device.close();
  });

  it("allow_writeback lets it happen, and forbids it again", async () => {
    const rig = await running(3);
    await rig.clock.pass(60_000);
    expect(writtenBack(rig)).toBe(0);
    await rig.device.message(["allow_writeback", "1"]);
    await rig.clock.pass(1000);
    expect(writtenBack(rig)).toBe(3);
    await rig.device.message(["allow_writeback", "0"]);
    await rig.segment(9, 9);
    await rig.clock.pass(60_000);
    expect(writtenBack(rig)).toBe(3);
  });

  it("enable_writeback_modulator allows it while the backing device is idle", async () => {
    const rig = await running(3);
    await rig.device.message(["enable_writeback_modulator", "1"]);
    await rig.clock.pass(3000);
    expect(writtenBack(rig)).toBe(3);
    expect(rig.device.statusData.tunables.allow_writeback).toBe(1);
  });

  it("writeback_threshold is what the modulator holds the load against; 0 is never", async () => {
    const rig = await running(3);
    await rig.device.message(["writeback_threshold", "0"]);
    await rig.device.message(["allow_writeback", "1"]);
    await rig.device.message(["enable_writeback_modulator", "1"]);
    await rig.clock.pass(1000);
    expect(rig.device.statusData.tunables.allow_writeback).toBe(0);
    // Busy half of every second: too much for 40 %, not for 60 %.
    await rig.device.message(["writeback_threshold", "40"]);
    const halfBusy = async (): Promise<void> => {
      rig.backing.hold = ({ op }) => op === "read";
      const reading = rig.read(200);
      await settle();
      await rig.clock.pass(500);
      rig.backing.hold = () => false;
      rig.backing.release();
      await reading;
      await rig.clock.pass(500);
    };
    await halfBusy();
    expect(rig.device.statusData.tunables.allow_writeback).toBe(0);
    await rig.device.message(["writeback_threshold", "60"]);
    await halfBusy();
    expect(rig.device.statusData.tunables.allow_writeback).toBe(1);
  });

  it("nr_max_batched_writeback is how many segments share a flush of the backing device", async () => {
    for (const [batch, flushes] of [
      [1, 6],
      [3, 2],
      [6, 1],
    ] as const) {
      const rig = await running(6);
      await rig.device.message(["nr_max_batched_writeback", String(batch)]);
      const before = rig.backing.asked("flush");
      await rig.device.message(["allow_writeback", "1"]);
      await rig.clock.pass(5000);
      expect([batch, writtenBack(rig)]).toEqual([batch, 6]);
      expect(rig.backing.asked("flush") - before).toBe(flushes);
    }
  });

  it("update_record_interval writes the record that often, and not at all for 0", async () => {
    const rig = await running(2);
    await rig.device.dropCaches();
    await rig.clock.pass(100_000);
    const before = records(rig);
    await rig.device.message(["update_record_interval", "5"]);
    await rig.clock.pass(4999);
    expect(records(rig)).toBe(before);
    await rig.clock.pass(1);
    expect(records(rig)).toBe(before + 1);
    await rig.device.message(["update_record_interval", "0"]);
    await rig.segment(7, 7);
    await rig.device.dropCaches();
    await rig.clock.pass(100_000);
    expect(records(rig)).toBe(before + 1);
    // And it is durable.
    await rig.reopen();
    expect(writtenBack(rig)).toBe(2);
  });

  it("sync_interval makes durable what nobody asked to be", async () => {
    const rig = await running(0);
    await rig.write(5, 5);
    await rig.clock.pass(100_000);
    expect(rig.device.statusData.lastFlushedId).toBe(0);
    await rig.device.message(["sync_interval", "2"]);
    await rig.clock.pass(2000);
    expect(rig.device.statusData).toMatchObject({ lastFlushedId: 1, partialFlushes: 0 });
    await rig.reopen();
    expect((await rig.read(5))[0]).toBe(5);
  });

  it("read_cache_threshold lets reads enter the cache, and keeps them out again", async () => {
    const rig = await running(0);
    const reads = async (block: number): Promise<number> => {
      await rig.read(block);
      const before = rig.backing.asked("read");
      await rig.read(block);
      return rig.backing.asked("read") - before;
    };
    expect(await reads(5)).toBe(1);
    await rig.device.message(["read_cache_threshold", "4"]);
    expect(await reads(6)).toBe(0);
    await rig.device.message(["read_cache_threshold", "0"]);
    expect(await reads(7)).toBe(1);
  });

  it("sequential_cutoff sends large writes of a stream past the log, and back into it", async () => {
    const rig = await running(0);
    const past = async (): Promise<number> => {
      const before = rig.backing.asked("write");
      for (const block of [0, 2, 4]) await rig.device.write(block * 4096, Buffer.alloc(8192, block + 1));
      return rig.backing.asked("write") - before;
    };
    expect(await past()).toBe(0);
    await rig.device.message(["drop_caches"]);
    await rig.device.message(["sequential_cutoff", "8192"]);
    // What is in the log stays there: it would come back after a crash.
    expect(await past()).toBe(0);
    const before = rig.backing.asked("write");
    await rig.device.write(8 * 4096, Buffer.alloc(8192, 9));
    expect(rig.backing.asked("write") - before).toBe(1);
    await rig.device.message(["sequential_cutoff", "0"]);
    await rig.device.write(10 * 4096, Buffer.alloc(8192, 11));
    expect(rig.backing.asked("write") - before).toBe(1);
    expect((await rig.read(9))[0]).toBe(9);
    expect((await rig.read(4))[0]).toBe(5);
  });

  it("promote_after is for which miss a block that is read enters the cache", async () => {
    const rig = await running(0);
    await rig.device.message(["read_cache_threshold", "4"]);
    const reads = async (block: number, times: number): Promise<number> => {
      const before = rig.backing.asked("read");
      for (let at = 0; at < times; at += 1) await rig.read(block);
      return rig.backing.asked("read") - before;
    };
    await rig.device.message(["promote_after", "3"]);
    expect(await reads(5, 6)).toBe(3);
    await rig.device.message(["promote_after", "0"]);
    expect(await reads(7, 6)).toBe(6);
    await rig.device.message(["promote_after", "1"]);
    expect(await reads(9, 6)).toBe(1);
  });

  it("write_around_mode sends writes past the log where it has nothing of them, and reads into it", async () => {
    const rig = await running(1);
    await rig.device.message(["write_around_mode", "1"]);
    await rig.device.message(["read_cache_threshold", "4"]);
    const before = rig.backing.asked("write");
    await rig.write(20, 1);
    await rig.write(30, 2);
    expect(rig.backing.asked("write") - before).toBe(2);
    // In the log, or a part of a block only: to the log.
    await rig.write(1, 7);
    await rig.writeSectors(40, 1, 2, 9);
    expect(rig.backing.asked("write") - before).toBe(2);
    expect(rig.device.statusData.dirtyBlocks).toBe(2);
    // What was read before a write of it was begun, and answered after, does not stay.
    rig.backing.hold = ({ op }) => op === "read";
    const early = rig.read(20);
    const other = rig.read(50);
    await settle();
    await rig.write(20, 3);
    rig.backing.hold = () => false;
    rig.backing.release();
    await Promise.all([early, other]);
    const reads = rig.backing.asked("read");
    expect([(await rig.read(20))[0], rig.backing.asked("read") - reads]).toEqual([3, 1]);
    // That of another block does.
    expect([(await rig.read(50))[0], rig.backing.asked("read") - reads]).toEqual([0, 1]);
    // Nor does what is read while a write of it is under way.
    rig.backing.hold = ({ op }) => op === "write";
    const writing = rig.write(70, 4);
    await settle();
    await rig.read(70);
    rig.backing.hold = () => false;
    rig.backing.release();
    await writing;
    expect((await rig.read(70))[0]).toBe(4);
    await rig.device.flush();
    await rig.reopen();
    expect([(await rig.read(20))[0], (await rig.read(30))[0], (await rig.read(1))[0]]).toEqual([3, 2, 7]);
    await rig.device.message(["write_around_mode", "0"]);
    const { dirtyBlocks } = rig.device.statusData;
    await rig.write(60, 6);
    expect(rig.device.statusData.dirtyBlocks).toBe(dirtyBlocks + 1);
  });

  it("writeback_rate is what the background writes in a second; drop_caches does not wait for it", async () => {
    // Segments of one block; the nearly full ring, which is written back at any rate, is far away.
    const rig = await running(24, 100);
    await rig.device.message(["writeback_rate", "8192"]);
    await rig.device.message(["allow_writeback", "1"]);
    for (let second = 1; second <= 5; second += 1) {
      await rig.clock.pass(1000);
      expect(writtenBack(rig)).toBeLessThanOrEqual(2 * second + 2);
      expect(writtenBack(rig)).toBeGreaterThanOrEqual(2 * second - 2);
    }
    await rig.device.message(["drop_caches"]);
    expect(writtenBack(rig)).toBe(24);
    for (const block of [1, 2, 3, 4, 5, 6]) await rig.segment(block, 9);
    await rig.device.message(["writeback_rate", "1"]);
    await rig.clock.pass(60_000);
    expect(writtenBack(rig)).toBe(25);
    await rig.device.message(["writeback_rate", "0"]);
    await rig.clock.pass(1000);
    expect(writtenBack(rig)).toBe(30);
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it("writeback_pause waits until clients have asked for nothing for so long", async () => {
    const rig = await running(6);
    await rig.device.message(["writeback_pause", "2000"]);
    await rig.device.message(["allow_writeback", "1"]);
    for (let at = 0; at < 10; at += 1) {
      await rig.clock.pass(1500);
      await rig.read(200);
    }
    expect(writtenBack(rig)).toBe(0);
    await rig.clock.pass(4500);
    expect(writtenBack(rig)).toBe(6);
    // A writer that needs the slot does not wait for a pause.
    await rig.device.message(["writeback_pause", "3600000"]);
    for (let block = 1; block <= 80; block += 1) await rig.segment(block, 7);
    expect(writtenBack(rig)).toBeGreaterThan(40);
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it.each(tunableNames)("%s out of range is refused with the range, and changes nothing", async (name) => {
    const rig = await running(0);
    const { min, max } = options[name];
    const before = rig.device.status();
    for (const word of [String(min - 1), String(max + 1), "", "1.5", "many"]) {
      const error = (await rig.device
        .message([name, word])
        .catch((thrown: unknown) => thrown)) as BlockIoError;
      expect([word, error.code]).toEqual([word, "EINVAL"]);
      expect(error.hint).toMatch(new RegExp(`${min}\\D+${max.toLocaleString("en")}|${min}\\D+${max}`));
    }
    expect(rig.device.status()).toBe(before);
    for (const value of [min, max]) {
      await rig.device.message([name.toUpperCase(), String(value)]);
      expect(rig.device.statusData.tunables[name]).toBe(value);
      expect(parseStatus(rig.device.status())).toEqual({
        ...rig.device.statusData,
        tunables: expect.objectContaining(
          /batched/.test(name) ||
            (/read_cache|sequential|around|writeback_(rate|pause)|discard|through/.test(name) && value === 0)
            ? {}
            : { [name]: value },
        ) as object,
      });
    }
  });
});
