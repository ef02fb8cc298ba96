import {
  BlockIoError,
  type Environment,
  MemoryDevice,
  TargetRegistry,
  type WriteOptions,
  openTable,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type OpenTrackedOptions, type TrackedDevice, openTracked, tracked } from "../src/index.ts";

const CHUNK = 4096;
const CHUNKS = 40;
const small = { granularity: CHUNK, epochs: 4 };

/** Counts what is written. */
class Counted extends BadSectors {
  writes = 0;
  flushes = 0;
  /** Bytes where writes began. */
  readonly offsets: number[] = [];

  override write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    this.writes += 1;
    this.offsets.push(offset);
    return super.write(offset, from, options);
  }

  /** Each flush waits for it. */
  beforeFlush: () => Promise<void> = () => Promise.resolve();
  flushing = 0;

  override async flush(): Promise<void> {
    this.flushes += 1;
    this.flushing += 1;
    await this.beforeFlush();
    await super.flush();
    this.flushing -= 1;
  }
}

interface Devices {
  readonly data: MemoryDevice;
  readonly bitmap: Counted;
}

const devices = (): Devices => ({ data: new MemoryDevice(CHUNKS * CHUNK), bitmap: new Counted(2 ** 18) });

const opened = ({ data, bitmap }: Devices, options: OpenTrackedOptions = small): Promise<TrackedDevice> =>
  openTracked(data, bitmap, options);

function chunksIn(device: TrackedDevice, name: string): number[] {
  const epoch = device.epochs.find((one) => one.name === name);
  return Array.from({ length: CHUNKS }, (_, chunk) => chunk).filter((chunk) => epoch?.bits.get(chunk));
}

const write = (device: TrackedDevice, chunk: number, count = 1): Promise<void> =>
  device.write(chunk * CHUNK, Buffer.alloc(count * CHUNK, 7));

async function refused(work: Promise<unknown>): Promise<BlockIoError> {
  const error = await work.then(
    () => "it was allowed",
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(BlockIoError);
  expect((error as BlockIoError).hint).toBeTruthy();
  return error as BlockIoError;
}

const all = Array.from({ length: CHUNKS }, (_, chunk) => chunk);

describe("bitmaps", () => {
  it("are those of sets of chunks, whatever is done", async () => {
    const chunk = fc.nat(CHUNKS - 1);
    const name = fc.constantFrom("a", "b", "c");
    const step = fc.oneof(
      fc.record({
        kind: fc.constantFrom("write", "zero", "trim"),
        chunk,
        count: fc.integer({ min: 1, max: 5 }),
      }),
      fc.record({ kind: fc.constantFrom("begin", "drop", "merge"), name, into: name }),
      fc.record({ kind: fc.constantFrom("reopen", "crash", "flush") }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const below = devices();
        const model = new Map<string, Set<number>>();
        let device = await opened(below, { ...small, ahead: 0 });
        for (const one of steps) {
          if ("chunk" in one) {
            const count = Math.min(one.count, CHUNKS - one.chunk);
            const [offset, length] = [one.chunk * CHUNK + 512, count * CHUNK - 512];
            if (one.kind === "write") await device.write(offset, Buffer.alloc(length));
            else if (one.kind === "zero") await device.writeZeroes(offset, length);
            else await device.discard(offset, length);
            for (const set of model.values()) for (let at = 0; at < count; at += 1) set.add(one.chunk + at);
          } else if ("name" in one) {
            const [set, other] = [model.get(one.name), model.get(one.into)];
            const message = one.kind === "merge" ? [one.kind, one.name, one.into] : [one.kind, one.name];
            const isRight =
              one.kind === "begin"
                ? set === undefined
                : set !== undefined && (one.kind === "drop" || (other !== undefined && other !== set));
            if (isRight) await device.message(message);
            else await refused(device.message(message));
            if (isRight && one.kind === "begin") model.set(one.name, new Set());
            if (isRight && one.kind === "merge") for (const at of set ?? []) other?.add(at);
            if (isRight && one.kind !== "begin") model.delete(one.name);
          } else if (one.kind === "flush") await device.flush();
          else {
            if (one.kind === "reopen") await device.close();
            device = await opened(below, { ahead: 0 });
          }
          for (const [known, set] of model)
            expect(chunksIn(device, known)).toEqual([...set].toSorted((a, b) => a - b));
          expect(device.epochs.map((epoch) => epoch.name).toSorted()).toEqual([...model.keys()].toSorted());
          expect(device.epochs.map(({ marked }) => marked)).toEqual(
            device.epochs.map((epoch) => model.get(epoch.name)?.size),
          );
        }
      }),
      { numRuns: 30 },
    );
  });

  it("cost nothing where chunks are marked already, and one page for all who wait", async () => {
    const below = devices();
    const device = await opened(below);
    await write(device, 3);
    const { bitmap } = below;
    bitmap.writes = 0;
    bitmap.flushes = 0;
    await device.begin("a");
    const [began, flushed] = [bitmap.writes, bitmap.flushes];
    await Promise.all([1, 5, 9, 13, 30].map((chunk) => write(device, chunk)));
    // The first one does not wait for the others.
    expect(bitmap.writes - began).toBeLessThanOrEqual(2);
    expect(bitmap.flushes - flushed).toBeLessThanOrEqual(2);
    const written = bitmap.writes;
    for (const chunk of [1, 5, 9, 13, 30]) await write(device, chunk);
    await device.write(5 * CHUNK, Buffer.alloc(512), { fua: true });
    expect(bitmap.writes).toBe(written);
    expect(chunksIn(device, "a")).toEqual([1, 5, 9, 13, 30]);
    expect(device.status()).toBe(`8 ${CHUNKS} 1/4 0 ${written - began} ${written - began} a 5`);
  });

  it("of an epoch begin without what was waited for in the one before", async () => {
    const below = devices();
    const device = await opened(below);
    await device.begin("a");
    let open = (): void => {};
    const gate = new Promise<void>((resolve) => (open = resolve));
    below.bitmap.beforeFlush = () => gate;
    // The second one finds its bit set, and joins the flush that is under way.
    const first = write(device, 5);
    await expect.poll(() => below.bitmap.flushing).toBe(1);
    const second = write(device, 5);
    open();
    await Promise.all([first, second]);
    await device.begin("b");
    await write(device, 9);
    await write(device, 5);
    expect(chunksIn(device, "b")).toEqual([5, 9]);
  });

  it("are marked ahead of a stream, by no more than it has written", async () => {
    const device = await opened(devices(), { ...small, ahead: 4 });
    await device.begin("a");
    for (let chunk = 8; chunk < 24; chunk += 1) {
      await write(device, chunk);
      const marked = chunksIn(device, "a");
      expect(marked.slice(0, chunk - 7)).toEqual(all.slice(8, chunk + 1));
      expect(marked.length).toBeLessThanOrEqual(Math.min(2 * (chunk - 7), chunk - 7 + 4));
    }
    const { bitmap_commits: commits } = device.facts();
    expect(commits).toBeLessThan(8);
    await device.message(["set", "ahead", "0"]);
    await write(device, 38);
    expect(chunksIn(device, "a").at(-1)).toBe(38);
    expect(device.settings()).toEqual({ ahead: 0 });
  });

  it("refuse writes whose bits cannot be made stable, and go on when they can", async () => {
    const below = devices();
    const device = await opened(below);
    await device.begin("a");
    await write(device, 0);
    below.bitmap.heals = false;
    below.bitmap.gives = true;
    for (let sector = 0; sector < below.bitmap.size / 512; sector += 1) below.bitmap.bad.add(sector);
    const error = await refused(write(device, 7));
    expect([error.code, error.op, error.offset]).toEqual(["EIO", "write", 7 * CHUNK]);
    const back = Buffer.alloc(CHUNK);
    await device.read(7 * CHUNK, back);
    expect(back.every((byte) => byte === 0)).toBe(true);
    expect(device.health().state).toBe("degraded");
    await write(device, 0);
    expect((await refused(device.begin("b"))).code).toBe("EIO");
    below.bitmap.bad.clear();
    await write(device, 7);
    expect(device.health().state).toBe("ok");
    expect(chunksIn(await opened(below), "a")).toEqual([0, 7]);
  });

  it("are offered as dirty bitmaps of qemu", async () => {
    const device = await opened(devices());
    await device.begin("a");
    await write(device, 2, 3);
    const [description] = device.descriptions;
    expect(description?.name).toBe("qemu:dirty-bitmap:a");
    const runs = async (offset: number, length: number): Promise<number[][]> => {
      const found: number[][] = [];
      for await (const run of description?.describe(offset, length) ?? [])
        found.push([run.length, run.status]);
      return found;
    };
    expect(await runs(0, device.size)).toEqual([
      [2 * CHUNK, 0],
      [3 * CHUNK, 1],
      [(CHUNKS - 5) * CHUNK, 0],
    ]);
    expect(await runs(3 * CHUNK + 512, CHUNK)).toEqual([[CHUNK, 1]]);
    expect(await runs(2 * CHUNK - 512, 1024)).toEqual([
      [512, 0],
      [512, 1],
    ]);
  });
});

describe("what is lost, or changed unseen, is marked", () => {
  const told: string[] = [];
  const environment: Environment = {
    ...realEnvironment,
    logger: { log: (level, message) => void (level === "warn" && told.push(message)) },
  };

  async function closed(below: Devices): Promise<void> {
    const device = await opened(below);
    await device.begin("a");
    await write(device, 2);
    await device.close();
    told.length = 0;
  }

  it("a page that is damaged, zeroed, or cannot be read", async () => {
    for (const how of ["damaged", "zeroed", "unreadable"]) {
      const below = devices();
      await closed(below);
      const at = 131_072;
      if (how === "unreadable") below.bitmap.bad.add(at / 512);
      else {
        const sector = Buffer.alloc(512);
        if (how === "damaged") await below.bitmap.read(at, sector);
        await below.bitmap.write(at, sector.fill(0, 32));
      }
      const device = await opened(below, { environment });
      expect(chunksIn(device, "a"), how).toEqual(all);
      expect(told, how).toHaveLength(1);
      expect(device.health().state, how).toBe("degraded");
      expect(device.facts()["lost_pages"], how).toBe(1);
      expect(device.list(), how).toMatch(/^a \S+ 163840\/163840 more-than-changed$/);
      // It is mended, and known to be more than has changed.
      const again = await opened(below);
      expect([chunksIn(again, "a"), again.facts()["lost_pages"]], how).toEqual([all, 0]);
      expect(again.list(), how).toContain("more-than-changed");
      await device.drop("a");
      expect(device.health().state, how).toBe("ok");
    }
  });

  it("a device that was changed behind the bitmaps, or is another one", async () => {
    const below = devices();
    await closed(below);
    await below.data.write(9 * CHUNK, Buffer.alloc(512, 1));
    const device = await opened(below, { environment });
    expect(chunksIn(device, "a")).toEqual(all);
    expect(told).toHaveLength(1);
    expect(device.health().state).toBe("degraded");
  });

  it("not what was written before a crash, and nothing where nobody tracks", async () => {
    const below = devices();
    await closed(below);
    const device = await opened(below, { environment });
    await write(device, 4);
    expect(chunksIn(await opened(below, { environment }), "a")).toEqual([2, 4]);
    expect(told).toEqual([]);
  });

  it("while it is only read, too, and nothing is written then", async () => {
    const below = devices();
    await closed(below);
    await below.bitmap.write(131_072, Buffer.alloc(512));
    below.bitmap.writes = 0;
    const device = await opened(below, { environment, readOnly: true });
    expect(chunksIn(device, "a")).toEqual(all);
    expect(device.list()).toContain("more-than-changed");
    expect((await refused(device.message(["begin", "b"]))).code).toBe("EROFS");
    await device.close();
    expect(below.bitmap.writes).toBe(0);
  });

  it("either copy of the superblock is enough; without both it is refused, until they are made anew", async () => {
    for (const place of [0, 65_536]) {
      const below = devices();
      await closed(below);
      await below.bitmap.write(place, Buffer.alloc(8192, 0xff));
      const device = await opened(below);
      expect(chunksIn(device, "a")).toEqual([2]);
      await below.bitmap.write(65_536 - place, Buffer.alloc(8192, 0xff));
      expect(chunksIn(await opened(below), "a")).toEqual([2]);
    }
    const below = devices();
    await closed(below);
    for (const place of [100, 65_636])
      await below.bitmap.write(place - (place % 512), Buffer.alloc(512, 0xff));
    expect((await refused(opened(below))).code).toBe("EFORMAT");
    const lost = devices();
    await closed(lost);
    for (const place of [7680, 65_536 + 7680]) await lost.bitmap.write(place, Buffer.alloc(512, 0xff));
    const error = await refused(opened(lost));
    expect(error.code).toBe("EFORMAT");
    expect(error.hint).toContain("reset");
    const device = await opened(lost, { ...small, reset: ["a", "old"] });
    expect([chunksIn(device, "a"), chunksIn(device, "old")]).toEqual([all, all]);
    await device.begin("new");
    await write(device, 1);
    expect(chunksIn(await opened(lost), "new")).toEqual([1]);
    expect(chunksIn(await opened(lost), "old")).toEqual(all);
  });
});

describe("the superblock", () => {
  it("is written to the copy first that may not be whole", async () => {
    const below = devices();
    const { bitmap } = below;
    const device = await opened(below);
    const written = async (work: () => Promise<unknown>): Promise<number[]> => {
      bitmap.offsets.length = 0;
      await work().catch(() => {});
      return bitmap.offsets.filter((place) => place < 131_072);
    };
    expect(await written(() => device.begin("a"))).toEqual([0, 65_536]);
    bitmap.heals = false;
    bitmap.gives = true;
    bitmap.bad.add(65_536 / 512);
    expect(await written(() => device.drop("a"))).toEqual([0, 65_536]);
    bitmap.bad.clear();
    // Either state may be found now, so writes are marked in the epoch that may be there.
    await write(device, 5);
    expect(chunksIn(device, "a")).toEqual([5]);
    expect(await written(() => device.drop("a"))).toEqual([65_536, 0]);
    expect(device.list()).toBe("");
    // A copy that is damaged is the first to be written by opening, too.
    await bitmap.write(65_536, Buffer.alloc(512, 1));
    expect(await written(() => opened(below))).toEqual([65_536, 0]);
    await bitmap.write(0, Buffer.alloc(512, 1));
    expect(await written(() => opened(below))).toEqual([0, 65_536]);
  });
});

describe("what cannot be is refused", () => {
  it("names and numbers in messages", async () => {
    const device = await opened(devices());
    const code = async (...words: string[]): Promise<string> => (await refused(device.message(words))).code;
    for (const name of ["", "x".repeat(64), "a b", "a,b", "\u001b[0m"])
      expect(await code("begin", name)).toBe("EINVAL");
    expect(await code("begin")).toBe("EINVAL");
    expect(await code("begin", "a", "b")).toBe("EINVAL");
    expect(await code("merge", "a")).toBe("EINVAL");
    expect(await code("drop", "a")).toBe("ENOENT");
    for (const name of ["a", "b", "c", "d"]) await device.begin(name);
    expect(await code("begin", "a")).toBe("EEXIST");
    expect(await code("begin", "e")).toBe("ENOSPC");
    expect(await code("merge", "a", "a")).toBe("EINVAL");
    expect(await code("merge", "a", "e")).toBe("ENOENT");
    await device.drop("b");
    await device.begin("e");
    expect(device.list().split("\n")).toHaveLength(4);
  });

  it("a beginning whose moment fails has not been", async () => {
    const below = devices();
    const device = await opened(below);
    const failure = new BlockIoError("no", { code: "EIO", hint: "wait" });
    expect(await refused(device.begin("a", () => Promise.reject(failure)))).toBe(failure);
    expect(device.list()).toBe("");
    await write(device, 0);
    await device.begin("a");
    expect(chunksIn(device, "a")).toEqual([]);
  });

  it("devices that do not go together", async () => {
    const below = devices();
    await (await opened(below)).close();
    const code = async (options: OpenTrackedOptions, data = below.data): Promise<string> =>
      (await refused(openTracked(data, below.bitmap, options))).code;
    expect(await code({ size: 4096 })).toBe("EINVAL");
    expect(await code({ granularity: 8192 })).toBe("EINVAL");
    expect(await code({ epochs: 5 })).toBe("EINVAL");
    expect(await code({}, new MemoryDevice(2 ** 20))).toBe("EINVAL");
    expect(await code({ size: CHUNKS * CHUNK }, new MemoryDevice(2 ** 12))).toBe("EINVAL");
    expect(await code({ reset: ["a", "a"] })).toBe("EINVAL");
    expect(await code({ reset: ["a", "b c"] })).toBe("EINVAL");
    expect(await code({ reset: ["a", "b", "c", "d", "e"] })).toBe("EINVAL");
    const bytes = Buffer.alloc(2 ** 18);
    await below.bitmap.read(0, bytes);
    // The larger part of a device can be left.
    const more = new MemoryDevice(2 ** 20);
    const device = await openTracked(more, below.bitmap, { size: CHUNKS * CHUNK });
    expect(device.size).toBe(CHUNKS * CHUNK);
  });

  it("bitmap devices that hold something else, are too small, or cannot be written", async () => {
    const data = new MemoryDevice(2 ** 20);
    const full = new MemoryDevice(2 ** 20);
    await full.write(8192, Buffer.alloc(512, 1));
    expect((await refused(openTracked(data, full))).code).toBe("EFORMAT");
    await (await openTracked(data, full, { force: true })).close();
    await (await openTracked(data, full)).close();
    for (const size of [4096, 2 ** 16, 2 ** 17])
      expect((await refused(openTracked(data, new MemoryDevice(size)))).code).toBe("EINVAL");
    expect((await refused(openTracked(data, new MemoryDevice(2 ** 18), { readOnly: true }))).code).toBe(
      "EROFS",
    );
    const odd = { granularity: 12_288 };
    expect((await refused(openTracked(data, new MemoryDevice(2 ** 18), odd))).code).toBe("EINVAL");
  });
});

describe("a table", () => {
  const registry = new TargetRegistry([tracked]);

  it("is printed as it was read", () => {
    for (const words of ["a b", "a b 4 granularity 4096 epochs 3", "a b 6 reset x,y force 1 ahead 7"]) {
      const table = `0 8 tracked ${words}`;
      expect(printTable(parseTable(table, registry))).toBe(table);
    }
    for (const words of ["a", "a b 2 granularity 1", "a b 2 epochs 65", "a b 2 nothing 1", "a b 2 ahead -1"])
      expect(() => parseTable(`0 8 tracked ${words}`, registry)).toThrow(BlockIoError);
  });

  it("is opened", async () => {
    const table = parseTable("0 2048 tracked mem:1M mem:1M 2 granularity 4096", registry);
    const device = await openTable(table, { environment: realEnvironment });
    expect(await device.message(["begin", "a"])).toBe("");
    await device.write(0, Buffer.alloc(512));
    expect(device.status()).toContain("a 1");
    await device.close();
  });
});
