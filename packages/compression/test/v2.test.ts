/** Format 2: what is refused, what rots, what waits, and what is counted. */
import {
  BlockIoError,
  type ImageProblem,
  type LogLevel,
  MemoryDevice,
  TargetRegistry,
  type TargetDevice,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { ManualClock, SeededRandom, contentsOf, manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { check, compression, newReport } from "../src/index.ts";
import { checkOrMend } from "../src/format/single-bit.ts";
import { isSound, layoutV2 } from "../src/format/layout-v2.ts";
import { crc32c } from "@dmkit/block-io";
import { openOn } from "../src/testing/sim-targets.ts";

const BLOCK = 4096;
const SMALL = { format: "v2", journal: 2 * 68 * BLOCK };
const registry = new TargetRegistry([compression]);

const noise = (seed: number, blocks: number): Buffer =>
  new SeededRandom(seed).fill(Buffer.alloc(blocks * BLOCK));
const text = (seed: number, blocks: number): Buffer =>
  Buffer.from(Array.from({ length: blocks * BLOCK }, (_, at) => 97 + ((at * at + seed) % 19)));

async function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : String(error)),
  );
}

async function read(device: TargetDevice, block: number, blocks = 1): Promise<Buffer> {
  const into = Buffer.alloc(blocks * BLOCK, 1);
  await device.read(block * BLOCK, into);
  return into;
}

const open = (lower: MemoryDevice, blocks = 100, values = {}): Promise<TargetDevice> =>
  openOn(lower, blocks * BLOCK, { ...SMALL, ...values }, realEnvironment);

async function problems(lower: MemoryDevice): Promise<ImageProblem[]> {
  const found: ImageProblem[] = [];
  for await (const problem of check(lower)) found.push(problem);
  return found;
}

describe("a device that cannot be as it is wanted", () => {
  /** With a file system on it, as far as anybody can tell. */
  async function inUse(): Promise<MemoryDevice> {
    const lower = new MemoryDevice(400 * BLOCK);
    await lower.write(1024, Buffer.alloc(512, Buffer.from("53ef", "hex")));
    return lower;
  }

  it.each([
    ["too long", 401, {}],
    ["too long in format 1", 401, { format: "v1", journal: 0 }],
    ["no algorithm", 100, { algorithm: "none-such" }],
    ["no algorithm of format 1", 100, { algorithm: "none", format: "v1", journal: 0 }],
    ["a journal larger than it", 100, { journal: 400 * BLOCK }],
    ["a journal in format 1", 100, { format: "v1" }],
    ["memory in format 1", 100, { format: "v1", journal: 0, memory: 65_536 }],
  ])("%s: is not made, and what was there stays", async (_, blocks, values) => {
    for (const force of [false, true]) {
      const lower = force ? await inUse() : new MemoryDevice(400 * BLOCK);
      const before = await contentsOf(lower);
      expect(["EINVAL", "ENOENT"]).toContain(await code(open(lower, blocks, { ...values, force })));
      expect((await contentsOf(lower)).equals(before)).toBe(true);
    }
  });

  it("is opened with the journal it has, as it was asked for, and with no other", async () => {
    const lower = new MemoryDevice(400 * BLOCK);
    // Rounded up.
    for (const journal of [SMALL.journal - 100, SMALL.journal, 0]) {
      await (await open(lower, 100, { journal })).close();
    }
    expect(await code(open(lower, 100, { journal: 2 * SMALL.journal }))).toBe("EINVAL");
    const old = new MemoryDevice(400 * BLOCK);
    await (await open(old, 100, { format: "v1", journal: 0 })).close();
    expect(await code(openOn(old, 100 * BLOCK, { journal: 4096 }, realEnvironment))).toBe("EINVAL");
    expect(await code(openOn(old, 100 * BLOCK, { memory: 65_536 }, realEnvironment))).toBe("EINVAL");
    expect(await code(openOn(old, 100 * BLOCK, {}, realEnvironment))).toBe("no error");
  });
});

describe("the table", () => {
  it.each([
    "0 2048 compression a.img writethrough",
    "0 2048 compression a.img writeback 5",
    "0 2048 compression /dev/sdb writeback 30 6 format v1 algorithm lz4 discard_holes 1",
    "0 2048 compression a.img writethrough 4 max_extent 16384 memory 1048576",
  ])("%s is read and printed", (line) => {
    expect(printTable(parseTable(line, registry))).toBe(line);
  });

  it("has an alias", () => {
    const [segment] = parseTable("0 2048 compress a.img writeback 5", registry);
    expect(segment?.target.name).toBe("compression");
  });

  it.each([
    "0 8 compression a.img",
    "0 8 compression a.img writeback",
    "0 8 compression a.img writeback 0",
    "0 8 compression a.img writesometimes",
    "0 8 compression a.img writeback 5 2 format v3",
    "0 8 compression a.img writeback 5 1 format",
    "0 8 compression a.img writethrough 2 colour blue",
    "0 8 compression a.img writethrough 2 max_extent 262144",
  ])("%s is refused", (line) => {
    expect(() => parseTable(line, registry)).toThrow(BlockIoError);
  });
});

describe("opening", () => {
  it("refuses what is too large, not a multiple, or asks for something else", async () => {
    const lower = new MemoryDevice(2 ** 21);
    await (await open(lower)).close();
    expect(await code(open(lower, 400))).toBe("EINVAL");
    expect(await code(open(lower, 10, { algorithm: "zstd" }))).toBe("EINVAL");
    expect(await code(open(lower, 10, { max_extent: 5000 }))).toBe("EINVAL");
    expect(await code(open(lower, 10, { format: "v1" }))).toBe("EFORMAT");
    expect(await code(open(new MemoryDevice(BLOCK), 1))).toBe("EINVAL");
    expect(await code(open(new MemoryDevice(2 ** 21), 1, { algorithm: "lz5" }))).toBe("ENOENT");
    await (await open(lower, 10, { algorithm: "lz4" })).close();
  });

  it("makes no device over something else, unless told to", async () => {
    const lower = new MemoryDevice(2 ** 21);
    await lower.write(65_536, noise(1, 1));
    expect(await code(open(lower))).toBe("EFORMAT");
    const device = await open(lower, 100, { force: true });
    expect((await read(device, 0, 100)).equals(Buffer.alloc(100 * BLOCK))).toBe(true);
    await device.close();
  });

  it("replays nothing after a clean close", async () => {
    const lower = new MemoryDevice(2 ** 21);
    const device = await open(lower);
    await device.write(0, noise(1, 50));
    await device.close();
    expect(await problems(lower)).toEqual([]);
  });

  it("accepts only layouts that it would make", () => {
    const layout = layoutV2(1000, 2 * 68 * BLOCK);
    if (layout === undefined) throw new Error("no layout");
    expect(isSound(layout)).toBe(true);
    for (const key of Object.keys(layout)) {
      for (const value of [0, Number.NaN, 2 ** 52, layout[key as keyof typeof layout] + 1]) {
        expect(isSound({ ...layout, [key]: value }), `${key} ${value}`).toBe(false);
      }
    }
  });
});

describe("parts of extents", () => {
  it("that are rewritten leave the rest as it was, raw or compressed, also after reopening", async () => {
    const seed = 1 + (process.pid % 1000);
    const random = new SeededRandom(seed);
    for (const max_extent of [4096, 65_536, 131_072]) {
      const lower = new MemoryDevice(2 ** 22);
      let device = await open(lower, 200, { max_extent });
      const model = Buffer.alloc(200 * BLOCK);
      for (let step = 0; step < 40; step += 1) {
        const blocks = 1 + random.below(40);
        const first = random.below(200 - blocks);
        const kind = random.below(4);
        const data =
          kind === 0
            ? noise(step + 1, blocks)
            : kind === 1
              ? Buffer.alloc(blocks * BLOCK)
              : text(step, blocks);
        await device.write(first * BLOCK, data, { fua: random.chance(0.4) });
        data.copy(model, first * BLOCK);
        if (random.chance(0.05)) {
          await device.close();
          device = await open(lower, 200, { max_extent });
        }
        if (step % 10 === 0) expect((await read(device, 0, 200)).equals(model), `seed ${seed}`).toBe(true);
      }
      await device.close();
      expect(await problems(lower)).toEqual([]);
      device = await open(lower, 200);
      expect((await read(device, 0, 200)).equals(model), `seed ${seed}`).toBe(true);
      await device.close();
    }
  });
});

describe("memory", () => {
  it("is bounded: who writes more waits, and nothing is lost", async () => {
    const lower = new MemoryDevice(2 ** 22);
    const device = await open(lower, 600, { memory: 65_536 });
    const data = noise(4, 600);
    await Promise.all(
      Array.from({ length: 150 }, (_, index) =>
        device.write(index * 4 * BLOCK, data.subarray(index * 4 * BLOCK, (index + 1) * 4 * BLOCK)),
      ),
    );
    expect((await read(device, 0, 600)).equals(data)).toBe(true);
    await device.close();
  });

  it("keeps what is overwritten before a flush from ever being written", async () => {
    const lower = new MemoryDevice(2 ** 22);
    const device = await open(lower, 100);
    for (let round = 0; round < 50; round += 1) await device.write(0, text(round, 1));
    await device.flush();
    expect(device.status()).toMatch(/^Data Size 4096 Compressed Data Size \d+ Meta Size/);
    await device.close();
  });
});

describe("damage", () => {
  /** A device with text in blocks 0–31, noise in 40–47, everything else never written. */
  async function filled(): Promise<MemoryDevice> {
    const lower = new MemoryDevice(2 ** 21);
    const device = await open(lower);
    await device.write(0, text(1, 32));
    await device.write(40 * BLOCK, noise(2, 8));
    await device.close();
    return lower;
  }

  const expected = Buffer.concat([
    text(1, 32),
    Buffer.alloc(8 * BLOCK),
    noise(2, 8),
    Buffer.alloc(52 * BLOCK),
  ]);

  it("of any single bit gives the right bytes or EIO, never others", async () => {
    const lower = await filled();
    const random = new SeededRandom(1 + (process.pid % 1000));
    const whole = Buffer.alloc(lower.size);
    await lower.read(0, whole);
    const used: number[] = [];
    for (let sector = 0; sector < whole.length / 512; sector += 1) {
      if (whole.subarray(sector * 512, (sector + 1) * 512).some((byte) => byte !== 0)) used.push(sector);
    }
    for (let round = 0; round < 200; round += 1) {
      const at = (used[random.below(used.length)] as number) * 512 + random.below(512);
      const broken = Buffer.from(whole.subarray(0, whole.length));
      broken[at] = (broken[at] as number) ^ (1 << random.below(8));
      const damaged = new MemoryDevice(lower.size);
      await damaged.write(0, broken);
      const device = await open(damaged);
      for (let block = 0; block < 100; block += 4) {
        const into = Buffer.alloc(4 * BLOCK);
        const result = await code(device.read(block * BLOCK, into));
        if (result === "EIO") continue;
        if (result !== "no error" || !into.equals(expected.subarray(block * BLOCK, (block + 4) * BLOCK)))
          throw new Error(`byte ${at}: ${result}, wrong bytes at block ${block}`);
      }
    }
  });

  it("of a payload concerns its extent only, is counted, logged, found by check, and gone when overwritten", async () => {
    const lower = await filled();
    const report = newReport();
    for await (const problem of check(lower, undefined, report)) throw new Error(problem.text);
    expect(report).toMatchObject({ format: "v2", algorithm: "lz4", holes: report.dataBlocks - 40, raw: 1 });
    expect(report.compressed).toBe(2);

    const payload = Buffer.alloc(512);
    const layout = layoutV2(lower.size / BLOCK, SMALL.journal);
    const place = (layout?.dataStart ?? 0) * BLOCK;
    await lower.read(place, payload);
    payload[100] = (payload[100] as number) ^ 1;
    await lower.write(place, payload);
    // What the journal had is gone: records that came later are over it.
    const { journalStart = 0, journalBlocks = 0 } = layout ?? {};
    for (const slot of [0, journalBlocks / 2])
      await lower.write((journalStart + slot) * BLOCK, Buffer.alloc(BLOCK));
    expect(await problems(lower)).toMatchObject([
      { kind: "extent", severity: "error", location: "blocks 0 … 15", offset: place },
    ]);

    const logged: [LogLevel, string][] = [];
    const logger = { log: (level: LogLevel, message: string) => void logged.push([level, message]) };
    const device = await openOn(lower, 100 * BLOCK, SMALL, { ...realEnvironment, logger });
    expect(await code(read(device, 15))).toBe("EIO");
    expect(logged).toContainEqual(["error", "damaged extent"]);
    expect(Number(await device.message(["damaged"]))).toBeGreaterThan(0);
    expect(await code(device.message(["colour"]))).toBe("EINVAL");
    expect((await read(device, 16, 84)).equals(expected.subarray(16 * BLOCK))).toBe(true);
    // Part of it is overwritten: the rest is lost for good, and known to be.
    await device.write(BLOCK, noise(9, 1));
    await device.flush();
    expect((await read(device, 1)).equals(noise(9, 1))).toBe(true);
    expect(await code(read(device, 0))).toBe("EIO");
    expect(await code(read(device, 2))).toBe("EIO");
    await device.write(0, text(1, 16));
    await device.close();
    expect(await problems(lower)).toEqual([]);
  });

  it("of both superblocks is refused, of one is healed", async () => {
    const lower = await filled();
    const sector = Buffer.alloc(512);
    await lower.read(0, sector);
    sector[200] = 1;
    await lower.write(0, sector);
    expect(await problems(lower)).toMatchObject([{ kind: "superblock-copy", severity: "warning" }]);
    const device = await open(lower);
    expect((await read(device, 0, 100)).equals(expected)).toBe(true);
    // Nothing was written, but for the copy.
    await device.close();
    expect(await problems(lower)).toEqual([]);
    for (const copy of [0, 1]) await lower.write(copy * BLOCK, sector);
    expect(await code(open(lower))).toBe("EFORMAT");
  });
});

describe("a flipped bit", () => {
  it("is found wherever it is, and more than one is not put right", () => {
    const random = new SeededRandom(3);
    const data = random.fill(Buffer.alloc(512));
    const sum = crc32c(data, 17);
    for (let bit = 0; bit < 4096; bit += 1) {
      const broken = Buffer.from(data);
      broken[bit >> 3] = (broken[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(checkOrMend(broken, 17, sum)).toBe(true);
      expect(broken.equals(data)).toBe(true);
    }
    for (let round = 0; round < 2000; round += 1) {
      expect(checkOrMend(random.fill(Buffer.alloc(512)), 17, sum)).toBe(false);
    }
  });
});

/** A memory device without space for writes that begin at or behind `from`, while there is one. */
class Full extends MemoryDevice {
  from: number | undefined;
  fsyncs: "ok" | "fail" = "ok";

  protected override doWrite(offset: number, data: Buffer): Promise<void> {
    if (this.from === undefined || offset < this.from) return super.doWrite(offset, data);
    return Promise.reject(new BlockIoError("no space", { code: "ENOSPC", device: this.name, op: "write" }));
  }

  protected override doFlush(): Promise<void> {
    if (this.fsyncs === "ok") return super.doFlush();
    return Promise.reject(new BlockIoError("no space", { code: "ENOSPC", device: this.name, op: "flush" }));
  }
}

describe("no space below", () => {
  const size = 4 * 1024 * 1024;
  // The journal, and the places of payloads behind it.
  it.each<[string, (device: { store: { dataOffset: number } }) => number]>([
    ["for the journal", () => 0],
    ["for payloads that are in the journal", ({ store }) => store.dataOffset],
  ])("%s: flushes fail, nothing is lost, old data is there, and it heals", async (_name, place) => {
    const lower = new Full(size);
    const clock = new ManualClock();
    const told: string[] = [];
    const logger = { log: (_level: string, message: string) => void told.push(message) };
    const environment = { ...manualEnvironment(1, clock), logger };
    const device = await openOn(lower, 200 * BLOCK, SMALL, environment);
    const old = text(1, 4);
    for (const block of [0, 96]) await device.write(block * BLOCK, old);
    await device.flush();
    await device.flush();
    lower.from = place(device as never);
    const fresh = noise(2, 8);
    await device.write(32 * BLOCK, fresh);
    const codes = [await code(device.flush()), await code(device.flush()), await code(device.flush())];
    expect(codes.slice(1)).toEqual(["ENOSPC", "ENOSPC"]);
    expect(await read(device, 32, 8)).toEqual(fresh);
    expect(await read(device, 0, 4)).toEqual(old);
    expect(await read(device, 96, 4)).toEqual(old);
    // What waits is bounded; a write that finds no room for it is told.
    const more = noise(3, 1);
    await device.write(40 * BLOCK, more);
    await device.write(33 * BLOCK, more);
    await clock.pass(20_000);
    expect(told.filter((line) => line.includes("no space"))).toHaveLength(1);
    lower.from = undefined;
    await clock.pass(60_000);
    await device.flush();
    fresh.set(more, BLOCK);
    for (const opened of [device, await openOn(await copyOf(lower), 200 * BLOCK, SMALL, realEnvironment)]) {
      expect(await read(opened, 32, 8)).toEqual(fresh);
      expect(await read(opened, 40)).toEqual(more);
      expect(await read(opened, 0, 4)).toEqual(old);
      await opened.close();
    }
    expect(clock.pending).toBe(0);
    expect((await problems(lower)).filter(({ severity }) => severity !== "info")).toEqual([]);
  });

  it("format 1 goes on as well: metadata is in memory, and flushed when there is room", async () => {
    const lower = new Full(size);
    const clock = new ManualClock();
    const told: string[] = [];
    const logger = { log: (_level: string, message: string) => void told.push(message) };
    const environment = { ...manualEnvironment(1, clock), logger };
    const options = { mode: "writeback", interval: 1, format: "v1" };
    const device = await openOn(lower, 200 * BLOCK, options, environment);
    const [old, fresh] = [text(1, 4), noise(2, 8)];
    await device.write(0, old);
    await device.flush();
    await device.write(32 * BLOCK, fresh);
    lower.from = 0;
    await clock.pass(5000);
    expect(await code(device.flush())).toBe("ENOSPC");
    await clock.pass(5000);
    expect(told).toEqual(["no space is left below"]);
    expect(await read(device, 32, 8)).toEqual(fresh);
    expect(await code(device.write(40 * BLOCK, old))).toBe("ENOSPC");
    lower.from = undefined;
    await clock.pass(5000);
    await device.write(40 * BLOCK, old);
    await device.flush();
    for (const opened of [device, await openOn(await copyOf(lower), 200 * BLOCK, options, realEnvironment)]) {
      expect(await read(opened, 0, 4)).toEqual(old);
      expect(await read(opened, 32, 8)).toEqual(fresh);
      expect(await read(opened, 40, 4)).toEqual(old);
      await opened.close();
    }
    expect(clock.pending).toBe(0);
  });

  it("at an fsync it is the end, and reads go on", async () => {
    const lower = new Full(size);
    const device = await openOn(lower, 200 * BLOCK, SMALL, realEnvironment);
    await device.write(0, text(1, 1));
    await device.flush();
    await device.write(BLOCK, text(2, 1));
    lower.fsyncs = "fail";
    expect(await code(device.flush())).toBe("ENOSPC");
    lower.fsyncs = "ok";
    expect(await code(device.write(0, text(3, 1)))).toBe("EIO");
    expect(await read(device, 0)).toEqual(text(1, 1));
  });

  it("writes that find no room in memory are told so, and do not hang", async () => {
    const lower = new Full(size);
    const device = await open(lower, 200, { memory: 64 * 1024 });
    lower.from = 0;
    const codes = new Set<string>();
    for (let block = 0; block < 60; block += 1)
      codes.add(await code(device.write(block * BLOCK, noise(block, 1))));
    expect([...codes]).toEqual(["no error", "ENOSPC"]);
    lower.from = undefined;
    for (let block = 0; block < 60; block += 1) await device.write(block * BLOCK, noise(block, 1));
    await device.flush();
    for (let block = 0; block < 60; block += 1) expect(await read(device, block)).toEqual(noise(block, 1));
    await device.close();
  });
});

/** As a power failure would leave it, where everything has landed. */
async function copyOf(device: MemoryDevice): Promise<MemoryDevice> {
  const copy = new MemoryDevice(device.size);
  const all = Buffer.alloc(device.size);
  await device.read(0, all);
  await copy.write(0, all);
  return copy;
}
