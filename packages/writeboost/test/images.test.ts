/** The declaration for offline tools: recognising, describing, drawing and making images. */
import {
  type BlockDevice,
  BlockIoError,
  type Extent,
  type ImageProblem,
  type MapRange,
  MemoryDevice,
  isZero,
} from "@dmkit/block-io";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openWriteboost, writeboostImages as images } from "../src/index.ts";
import {
  IDENTITY,
  ORDER,
  RECORD,
  SLOT,
  disksOf,
  flip,
  make,
  memoryOf,
  slotAt,
  work,
} from "./support/offline.ts";
import { HandDisk, altered } from "./support/hand.ts";
import { MIB } from "./support/rig.ts";

async function checked(devices: Record<string, BlockDevice>): Promise<ImageProblem[]> {
  return all(images.check(devices, work));
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** Only what is there: a role that is not given is absent. */
function given(devices: Record<string, BlockDevice | undefined>): Record<string, BlockDevice> {
  const entries = Object.entries(devices).filter(
    (entry): entry is [string, BlockDevice] => entry[1] !== undefined,
  );
  return Object.fromEntries(entries);
}

/** Knows its holes to the sector. */
class SparseDisk extends HandDisk {
  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    for (let at = offset; at < offset + length; at += 512) {
      yield { offset: at, length: 512, kind: isZero(this.visible, at, at + 512) ? "hole" : "data" };
    }
  }
}

describe("detect", () => {
  it("knows cache and plog, and says nothing of a backing device", async () => {
    const { cache, plog, backing } = disksOf(await make());
    expect(await images.detect(cache)).toMatchObject({ certainty: "magic", role: "cache" });
    expect(await images.detect(plog as BlockDevice)).toMatchObject({ certainty: "magic", role: "plog" });
    expect(await images.detect(backing)).toBeUndefined();
  });

  it("knows a plog by its records alone", async () => {
    const made = await make();
    const { plog } = disksOf(made, ({ plog: bytes }) => bytes.fill(0, bytes.length - 512));
    expect(await images.detect(plog as BlockDevice)).toMatchObject({ certainty: "plausible", role: "plog" });
  });

  it("knows a cache by its identity record where sector 0 is damaged or zero", async () => {
    const made = await make();
    const damaged = disksOf(made, ({ cache }) => flip(cache, 1)).cache;
    expect((await images.detect(damaged))?.text).toContain("header is damaged");
    const blank = disksOf(made, ({ cache }) => cache.fill(0, 0, 512)).cache;
    expect((await images.detect(blank))?.text).toContain("header is zero");
  });

  it.each([512, 4096, 8192, MIB, 3 * MIB])(
    "says nothing of %d bytes of zeroes, or of rubbish",
    async (size) => {
      expect(await images.detect(new MemoryDevice(size))).toBeUndefined();
      expect(await images.detect(await memoryOf(Buffer.alloc(size, 0x5a)))).toBeUndefined();
    },
  );
});

describe("without the backing device", () => {
  it("a cache of dmkit's own is checked all the same: its identity record knows the size", async () => {
    const { cache, plog } = disksOf(await make());
    expect((await checked(given({ cache, plog }))).map(({ kind }) => kind)).toEqual(["plog-ahead"]);
    expect(await images.info({ cache }, work)).toMatchObject({ backing_bytes: MIB, last_segment: 18 });
  });

  it("one of an old driver is checked as far as possible, and not repaired", async () => {
    const made = await make({ plog: false });
    const { cache, backing } = disksOf(made, ({ cache: bytes }) => {
      bytes.fill(0, IDENTITY, IDENTITY + 512);
      flip(bytes, slotAt(21) + 4096);
    });
    const alone = await checked({ cache });
    expect(alone.map(({ kind, repair }) => [kind, repair])).toEqual([["torn", undefined]]);
    expect((await checked({ cache, backing }))[0]?.repair).toBeDefined();
    expect(await images.info({ cache }, work)).toMatchObject({ backing_bytes: "unknown" });
    expect(cache.asked("write")).toBe(0);
  });
});

describe("info and map", () => {
  it("throw EFORMAT for what is no cache", async () => {
    const cache = new MemoryDevice(2 * MIB);
    await expect(images.info({ cache }, work)).rejects.toMatchObject({ code: "EFORMAT" });
    await expect(images.map({ cache }, work)).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it("draw what is where, in order and without overlaps", async () => {
    const { cache, backing } = disksOf(await make({ plog: false }), ({ cache: bytes }) =>
      flip(bytes, slotAt(21) + 4096),
    );
    const { strips, legend } = await images.map({ cache, backing }, work);
    const [own, below] = strips.map(({ ranges }) => [...ranges]) as [MapRange[], MapRange[]];
    expect(own).toEqual([
      { offset: 0, length: MIB, kind: "superblock" },
      { offset: MIB, length: 2 * SLOT, kind: "clean" },
      { offset: MIB + 2 * SLOT, length: 6 * SLOT, kind: "dirty" },
      { offset: MIB + 8 * SLOT, length: SLOT, kind: "bad" },
      { offset: MIB + 9 * SLOT, length: 3 * SLOT, kind: "clean" },
    ]);
    expect(below.some(({ kind }) => kind === "dirty")).toBe(true);
    for (const ranges of [own, below]) {
      for (const [index, { offset, kind }] of ranges.entries()) {
        const before = ranges[index - 1];
        expect(offset).toBeGreaterThanOrEqual(before === undefined ? 0 : before.offset + before.length);
        expect(legend[kind]).toBeDefined();
      }
    }
  });
});

describe("format", () => {
  it("makes a cache that opens, and zeroes the plog", async () => {
    const made = await make();
    const { cache, backing, plog } = disksOf(made);
    await images.format?.({ cache, plog: plog as BlockDevice }, { segment_size_order: "5" }, work);
    expect(plog?.stable.equals(Buffer.alloc(plog.size))).toBe(true);
    expect(await checked({ cache, backing })).toEqual([]);
    const device = await openWriteboost({ cache, backing, plog });
    expect(device.statusData).toMatchObject({ lastFlushedId: 0 });
    await device.close();
  });

  it("zeroes each head that may hold anything, durably, whatever parts of slots are holes", async () => {
    const slots = 40;
    const place = fc.tuple(fc.nat((slots * SLOT) / 512 - 1), fc.integer({ min: 1, max: 100 }));
    await fc.assert(
      fc.asyncProperty(fc.array(place), fc.array(place), async (written, discarded) => {
        const bytes = Buffer.alloc(MIB + slots * SLOT);
        for (const [at, sectors] of written)
          bytes.fill(7, MIB + at * 512, Math.min(bytes.length, MIB + (at + sectors) * 512));
        const cache = new SparseDisk("cache", bytes);
        // Holes that a crash would fill again.
        for (const [at, sectors] of discarded) {
          const offset = MIB + at * 512;
          await cache.discard(offset, Math.min(sectors * 512, cache.size - offset));
        }
        await images.format?.({ cache }, { segment_size_order: String(ORDER) }, work);
        cache.crash();
        for (let slot = 0; slot < slots; slot += 1) {
          const start = MIB + slot * SLOT;
          expect(isZero(cache.stable, start, start + 4096)).toBe(true);
        }
      }),
    );
  });

  it("changes nothing where the device cannot say what it holds", async () => {
    const { cache } = disksOf(await make());
    const broken = altered(cache, {
      // oxlint-disable-next-line require-yield -- it fails before it has anything to say.
      async *extents() {
        throw new BlockIoError("no", { code: "EIO" });
      },
    });
    await expect(
      images.format?.({ cache: broken }, { segment_size_order: String(ORDER) }, work),
    ).rejects.toMatchObject({ code: "EIO" });
    expect(cache.asked("write")).toBe(0);
  });

  it("leaves a new sparse device alone but for its first MiB, and says that it is done", async () => {
    const cache = new SparseDisk("cache", MIB + 40 * SLOT);
    const seen: [number, number][] = [];
    const progress = (done: number, total: number): void => void seen.push([done, total]);
    await images.format?.({ cache }, { segment_size_order: String(ORDER) }, { ...work, progress });
    expect(cache.log.filter(({ op, offset }) => op === "write" && offset >= MIB)).toEqual([]);
    expect(seen).toEqual([[40, 40]]);
  });

  it.each<[string, Record<string, string>, string]>([
    ["an order out of range", { segment_size_order: "11" }, "EPARSE"],
    ["an option that does not exist", { order: "5" }, "EPARSE"],
    ["a dialect that does not exist", { dialect: "v3" }, "EPARSE"],
    ["a ring too small", { segment_size_order: "10" }, "EINVAL"],
    ["v2 of another order", { segment_size_order: "5", dialect: "v2" }, "EINVAL"],
  ])("refuses %s and writes nothing", async (_name, options, code) => {
    const { cache } = disksOf(await make());
    await expect(images.format?.({ cache }, options, work)).rejects.toMatchObject({ code });
    expect(cache.asked("write")).toBe(0);
  });
});

describe("all of it", () => {
  const operations: [
    string,
    (devices: Record<string, BlockDevice>, signal: AbortSignal) => Promise<unknown>,
  ][] = [
    ["info", (devices, signal) => images.info(devices, { ...work, signal })],
    ["check", (devices, signal) => all(images.check(devices, { ...work, signal }))],
    ["repair", async (devices, signal) => images.repair?.(devices, { ...work, signal })],
    ["dump", async (devices, signal) => images.dump?.(devices, { ...work, signal })],
    ["map", (devices, signal) => images.map(devices, { ...work, signal })],
    [
      "format",
      async (devices, signal) => images.format?.(devices, { segment_size_order: "5" }, { ...work, signal }),
    ],
  ];

  it.each(operations)("%s ends with the signal's reason", async (_name, run) => {
    const disks = disksOf(await make());
    const reason = new Error("enough");
    await expect(run(given({ ...disks }), AbortSignal.abort(reason))).rejects.toBe(reason);
    expect(disks.cache.asked("write")).toBe(0);
  });

  it.each(operations.filter(([name]) => name !== "format" && name !== "repair"))(
    "%s writes nothing",
    async (_name, run) => {
      const disks = disksOf(await make(), ({ cache }) => cache.fill(7, RECORD, RECORD + 1));
      await run(given({ ...disks }), new AbortController().signal);
      for (const disk of [disks.cache, disks.backing, disks.plog])
        expect(disk?.log.every(({ op }) => op === "read")).toBe(true);
    },
  );

  it("reports its progress from nothing to all", async () => {
    const disks = given({ ...disksOf(await make()) });
    const seen: number[] = [];
    const progress = (done: number, total: number): void => void seen.push(done / total);
    await all(images.check(disks, { ...work, progress }));
    expect(seen.toSorted((a, b) => a - b)).toEqual(seen);
    expect(seen.at(-1)).toBe(1);
  });

  it("refuses one device in two roles", async () => {
    const { cache } = disksOf(await make());
    await expect(images.info({ cache, backing: cache }, work)).rejects.toMatchObject({ code: "EINVAL" });
  });
});
