/** discard_cache: what becomes of segments that have been written back, in exact orders of requests and crashes. */
import { type BlockDevice, MemoryDevice, rawCrc32c } from "@dmkit/block-io";
import { ManualClock, manualEnvironment, settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { openAt, openWriteboost, writeboostImages } from "../src/index.ts";
import { everything } from "./support/hand.ts";
import { work } from "./support/offline.ts";
import { MIB, Rig, filled } from "./support/rig.ts";

// Order 4: a slot is a head and one block.
const SLOT = 8192;
const slotAt = (id: number, slots: number): number => MIB + ((id - 1) % slots) * SLOT;

const discards = (rig: Rig): number[] =>
  rig.cache.log.filter(({ op }) => op === "discard").map(({ offset }) => offset);

/** Segments 1 … `segments`, each of the block of its number, filled with that. */
async function logged(
  segments: number,
  slots = 8,
  shape: ConstructorParameters<typeof Rig>[0] = {},
): Promise<Rig> {
  const rig = new Rig({ slots, ...shape });
  await rig.open();
  for (let block = 1; block <= segments; block += 1) await rig.segment(block, block);
  return rig;
}

async function problemsOf(rig: Rig): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const problem of writeboostImages.check({ cache: rig.cache, backing: rig.backing }, work))
    found.push(problem);
  return found;
}

describe("what is written back is given back", () => {
  it("leaves heads of empty segments, byte for byte, and discards the data behind them", async () => {
    const rig = await logged(3);
    await rig.device.dropCaches();
    await rig.segment(9, 9);
    expect(discards(rig)).toEqual([]);
    const before = Buffer.from(rig.cache.visible);
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    expect(discards(rig)).toEqual([1, 2, 3].map((id) => slotAt(id, 8) + 4096));
    for (const id of [1, 2, 3, 4]) {
      const at = slotAt(id, 8);
      const sector = Buffer.alloc(512);
      sector.writeUInt32LE(id, 0);
      sector.writeUInt32LE(rawCrc32c(before.subarray(at + 512, at + 4096)), 8);
      const isEmpty = id < 4;
      expect(
        rig.cache.visible.subarray(at, at + 512).equals(isEmpty ? sector : before.subarray(at, at + 512)),
      ).toBe(true);
      expect(
        rig.cache.visible.subarray(at + 512, at + 4096).equals(before.subarray(at + 512, at + 4096)),
      ).toBe(true);
    }
    // Block 1 lies at sector 8, and was whole.
    expect(rig.cache.visible.readUInt32LE(slotAt(1, 8) + 512)).toBe(8);
    expect(rig.cache.visible.readUInt8(slotAt(1, 8) + 520)).toBe(0xff);
    expect(rig.device.facts()).toMatchObject({ discard_cache: 1, discarded_bytes: 3 * 4096 });
    const reads = rig.backing.asked("read");
    expect([await rig.read(2), await rig.read(9)]).toEqual([filled(2), filled(9)]);
    expect(rig.backing.asked("read") - reads).toBe(1);
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
    expect(await problemsOf(rig)).toEqual([]);
    await rig.open();
    expect([await rig.read(1), await rig.read(9)]).toEqual([filled(1), filled(9)]);
    expect(rig.device.statusData).toMatchObject({ lastFlushedId: 4, lastWritebackId: 3, dirtyBlocks: 1 });
    await rig.device.close();
  });

  it("goes on with whatever is written back, and offers no view that would lack it", async () => {
    const rig = await logged(2);
    await rig.device.message(["discard_cache", "1"]);
    await rig.segment(1, 11);
    await rig.device.dropCaches();
    await settle();
    expect(discards(rig)).toHaveLength(3);
    await rig.segment(2, 12);
    await rig.crash();
    for (const id of [0, 1, 2])
      await expect(openAt({ cache: rig.cache, backing: rig.backing }, id)).rejects.toMatchObject({
        code: "EINVAL",
      });
    const view = await openAt({ cache: rig.cache, backing: rig.backing }, 3);
    const into = Buffer.alloc(4096);
    await view.read(2 * 4096, into);
    expect(into[0]).toBe(2);
    await view.close();
    await rig.open();
    expect([await rig.read(1), await rig.read(2)]).toEqual([filled(11), filled(12)]);
  });

  it.each([
    ["nothing", undefined],
    ["everything", everything],
  ])("a crash before the heads are durable, of which %s lands, loses nothing", async (_what, lands) => {
    const rig = await logged(3);
    await rig.device.dropCaches();
    // The first is that of the record.
    let flushes = 0;
    rig.cache.hold = ({ op }) => op === "flush" && ++flushes > 1;
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    expect(discards(rig)).toEqual([]);
    await rig.reopen(lands);
    for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(block));
    expect(rig.device.statusData.lastWritebackId).toBe(3);
  });

  it("an older copy never becomes empty after a newer one", async () => {
    const rig = await logged(1);
    await rig.segment(2, 2);
    await rig.segment(1, 11);
    await rig.device.dropCaches();
    let flushes = 0;
    rig.cache.hold = ({ op }) => op === "flush" && ++flushes > 1;
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    // The heads of segments 1 and 2 wait for that flush; that of segment 3, with the newer copy, has not been touched.
    const heads = rig.cache.log
      .filter(({ op, length }) => op === "write" && length === 512)
      .map(({ offset }) => offset);
    expect(heads.filter((offset) => offset >= MIB)).toEqual([slotAt(1, 8), slotAt(2, 8)]);
    rig.cache.hold = () => false;
    rig.cache.release();
    await settle();
    expect(discards(rig)).toHaveLength(3);
    expect(await rig.read(1)).toEqual(filled(11));
    await rig.device.close();
  });
});

describe("beside clients", () => {
  it("no segment is opened in a slot that is being emptied", async () => {
    const rig = await logged(4, 5);
    await rig.device.dropCaches();
    rig.cache.hold = ({ op, offset }) => op === "discard" || (op === "write" && offset === slotAt(2, 5));
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    // Segment 5 has a slot of its own; that of segment 6 would lie where the first one is.
    const writing = rig.write(5, 5).then(() => rig.write(6, 6));
    await settle();
    expect(rig.device.statusData.currentId).toBe(6);
    expect(
      rig.cache.log.filter(
        ({ op, offset, length }) => op === "write" && offset === slotAt(1, 5) && length === SLOT,
      ),
    ).toHaveLength(1);
    for (let round = 0; round < 4; round += 1) {
      rig.cache.release();
      await settle();
    }
    rig.cache.hold = () => false;
    rig.cache.release();
    await writing;
    await rig.device.flush();
    await rig.reopen();
    for (const block of [1, 2, 3, 4, 5, 6]) expect(await rig.read(block)).toEqual(filled(block));
    await rig.device.close();
  });

  it("a read that was under way is answered with what the backing device has", async () => {
    const rig = await logged(2);
    await rig.device.close();
    let go!: () => void;
    const gate = new Promise<void>((resolve) => (go = resolve));
    rig.wrap = (disk, name) =>
      new Proxy(disk, {
        get(target, key) {
          if (key === "read" && name === "cache")
            return async (offset: number, into: Buffer): Promise<void> => {
              if (into.length === 4096 && offset === slotAt(1, 8) + 4096) await gate;
              await target.read(offset, into);
            };
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === "function" ? (value as () => unknown).bind(target) : value;
        },
      });
    await rig.open();
    await rig.device.dropCaches();
    const reading = rig.read(1);
    await settle();
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    expect(discards(rig)).toHaveLength(2);
    go();
    expect(await reading).toEqual(filled(1));
    await rig.device.close();
  });

  it.each([
    ["0", undefined],
    ["1", 204_800],
  ])("type %s: where writers have gone round the ring, it begins when they rest", async (_type, plog) => {
    const rig = await logged(4, 4, plog === undefined ? {} : { plog });
    await rig.device.dropCaches();
    await rig.write(5, 5);
    await rig.write(6, 6);
    await rig.device.flush();
    await rig.write(7, 7);
    await rig.device.message(["discard_cache", "1"]);
    await settle();
    expect(discards(rig)).toEqual([]);
    await rig.clock.pass(10_000);
    expect(discards(rig).length).toBeGreaterThan(0);
    await rig.device.dropCaches();
    await rig.clock.pass(10_000);
    expect(rig.device.facts()).toMatchObject({ dirty_blocks: 0 });
    await rig.device.flush();
    await rig.reopen();
    for (const block of [1, 2, 3, 4, 5, 6, 7]) expect(await rig.read(block)).toEqual(filled(block));
    await rig.device.close();
    expect(rig.clock.pending).toBe(0);
  });

  it("leaves alone what reads have put there, and what is suspended", async () => {
    const rig = await logged(2);
    await rig.device.dropCaches();
    await rig.device.message(["read_cache_threshold", "4"]);
    await rig.device.message(["discard_cache", "1"]);
    await rig.clock.pass(5000);
    expect(discards(rig)).toEqual([]);
    await rig.device.suspend();
    await rig.device.message(["read_cache_threshold", "0"]);
    await rig.clock.pass(5000);
    expect(discards(rig)).toEqual([]);
    await rig.device.resume();
    await settle();
    expect(discards(rig)).toHaveLength(2);
    await rig.device.close();
  });
});

describe("errors", () => {
  it("a head that cannot be read stops it there; a discard that fails does nothing", async () => {
    const rig = await logged(3);
    await rig.device.close();
    await rig.open();
    await rig.device.dropCaches();
    rig.cache.refuse = ({ op, offset }) => op === "discard" || (op === "read" && offset === slotAt(2, 8));
    await rig.device.message(["discard_cache", "1"]);
    await rig.clock.pass(5000);
    expect(discards(rig)).toEqual([]);
    expect(await rig.read(1)).toEqual(filled(1));
    rig.cache.refuse = ({ op }) => op === "discard";
    await rig.clock.pass(5000);
    expect(discards(rig)).toHaveLength(3);
    expect(rig.device.health().state).toBe("ok");
    for (const block of [1, 2, 3]) expect(await rig.read(block)).toEqual(filled(block));
    await rig.device.close();
  });

  it("a device that takes no discards is told of: to who sends the message, and when it is opened", async () => {
    const deaf = (lower: BlockDevice): BlockDevice =>
      new Proxy(lower, {
        get(target, key) {
          if (key === "limits") {
            const { limits } = target;
            return { ...limits, capabilities: { ...limits.capabilities, discard: "none" } };
          }
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === "function" ? (value as () => unknown).bind(target) : value;
        },
      });
    const told: string[] = [];
    const environment = {
      ...manualEnvironment(1, new ManualClock()),
      logger: { log: (_level: string, message: string): void => void told.push(message) },
    };
    const devices = {
      backing: new MemoryDevice(MIB),
      cache: deaf(new MemoryDevice(MIB + 8 * SLOT)),
      plog: undefined,
    };
    const plain = await openWriteboost(devices, { order: 4, environment });
    await expect(plain.message(["discard_cache", "1"])).rejects.toMatchObject({ code: "ENOTSUP" });
    expect(plain.settings()).not.toHaveProperty("discard_cache");
    await plain.close();
    expect(told).toEqual([]);
    const asked = await openWriteboost(devices, { order: 4, environment, tunables: { discard_cache: 1 } });
    expect(told).toEqual(["free segments are not discarded"]);
    await asked.close();
  });
});
