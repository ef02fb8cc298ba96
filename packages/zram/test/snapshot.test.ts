/** Snapshots: contents saved at close and restored at open, and what is refused. */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  MemoryDevice,
  crc32c,
  openFile,
  parseOptions,
  realEnvironment,
  withCapabilities,
} from "@dmkit/block-io";
import { BadSectors, ManualClock, PowerCut, SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import type { ZramDevice } from "../src/index.ts";
import { openZram } from "../src/open/open.ts";
import { zramOptions } from "../src/options.ts";
import { snapshotRoom } from "../src/device/snapshot/place.ts";
import { audit } from "../src/testing/audit.ts";
import { open } from "../src/testing/sim-targets.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
console.log(`DMKIT_SEED=${seed}`);

const PAGE = 4096;
const PAGES = 64;
const ROOM = 200 * PAGE;
const noise = (seed: number, length = PAGE): Buffer => new SeededRandom(seed).fill(Buffer.alloc(length));
const text = (seed: number): Buffer =>
  Buffer.from(Array.from({ length: PAGE }, (_, at) => 97 + ((at * (seed + 3)) % 23)));

async function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : String(error)),
  );
}

const start = (
  snapshot: BlockDevice,
  values: Readonly<Record<string, unknown>> = {},
  backing?: MemoryDevice,
  environment = realEnvironment,
): Promise<ZramDevice> => open(PAGES * PAGE, values, environment, { snapshot, backing });

/** Where nobody waits long. */
const hasty: Environment = {
  ...realEnvironment,
  clock: { ...realEnvironment.clock, after: (_, callback) => realEnvironment.clock.after(0, callback) },
};

/** A device with these bytes. */
async function holding(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

function figures(device: ZramDevice): Readonly<Record<string, string>> {
  const words = device.status().split(" ");
  return Object.fromEntries(
    Array.from({ length: words.length / 2 }, (_, at) => [words[2 * at], words[2 * at + 1]]),
  ) as Record<string, string>;
}

/** How many pages cannot be read; all others are as expected. */
async function missing(device: ZramDevice, expected: Buffer): Promise<number> {
  const into = Buffer.alloc(PAGE);
  let lost = 0;
  for (let page = 0; page < PAGES; page += 1) {
    const found = await code(device.read(page * PAGE, into));
    if (found === "no error")
      expect(into.equals(expected.subarray(page * PAGE, (page + 1) * PAGE)), `page ${page}`).toBe(true);
    else expect(found).toBe("EIO");
    if (found !== "no error") lost += 1;
  }
  return lost;
}

/** Pages of every kind. */
async function fill(device: ZramDevice): Promise<void> {
  for (let page = 0; page < 20; page += 1) await device.write(page * PAGE, text(page));
  for (let page = 20; page < 30; page += 1) await device.write(page * PAGE, noise(page));
  await device.write(40 * PAGE, Buffer.alloc(PAGE, "abcdefgh"));
}

async function saved(): Promise<MemoryDevice> {
  const snapshot = new MemoryDevice(ROOM);
  const device = await start(snapshot);
  await fill(device);
  await device.close();
  return snapshot;
}

/** It has no space, when it is told so. */
class Narrow extends MemoryDevice {
  isFull = false;

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    const error = new BlockIoError("no space left", { code: "ENOSPC" });
    return this.isFull ? Promise.reject(error) : super.doWrite(offset, from);
  }
}

/** As a file whose fsync fails: what it was to make stable is gone, and nothing more is written to it. */
class FailedFlush extends MemoryDevice {
  readonly #stable: Buffer;
  readonly #isFull: () => boolean;

  constructor(stable: Buffer, isFull: () => boolean) {
    super(stable.length);
    this.#stable = stable;
    this.#isFull = isFull;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    this.#stable.copy(into, 0, offset);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    from.copy(this.#stable, offset);
  }

  protected override async doFlush(): Promise<void> {
    const failure = new BlockIoError("no space left", { code: "ENOSPC", device: this.name, op: "flush" });
    if (!this.#isFull()) return;
    this.fail(failure);
    throw failure;
  }
}

describe("a disk that is secured before it is closed", () => {
  it("goes on where that fails, with all it has, and is saved when there is room", async () => {
    const snapshot = new Narrow(ROOM);
    const device = await start(snapshot);
    await fill(device);
    snapshot.isFull = true;
    await device.suspend();
    await expect(device.secure()).rejects.toMatchObject({ code: "ENOSPC", lossless: true });
    await device.resume();
    snapshot.isFull = false;
    const turns = [1, 2, 3];
    for (const turn of turns) {
      await device.write(50 * PAGE, noise(turn));
      await device.suspend();
      await device.secure();
      await device.resume();
    }
    // What was written after it was secured is saved by close.
    await device.discard(0, PAGE);
    const before = await contentsOf(device);
    await device.close();
    const again = await start(snapshot);
    expect((await contentsOf(again)).equals(before)).toBe(true);
    // And nothing is written where nothing has changed.
    await again.secure();
    snapshot.isFull = true;
    await again.close();
  });

  it("opens its device anew where that could not be flushed, and writes all of it again", async () => {
    const disk = Buffer.alloc(ROOM);
    let isFull = false;
    let [opened, closed] = [0, 0];
    const options = parseOptions(zramOptions, { snapshot: "snapshot" });
    const device = await openZram(options, {
      name: "zram",
      size: PAGES * PAGE,
      environment: realEnvironment,
      async lower() {
        opened += 1;
        return new FailedFlush(disk, () => isFull);
      },
      async release(given) {
        closed += 1;
        await given.close();
      },
    });
    await fill(device);
    isFull = true;
    await device.suspend();
    for (const _ of [1, 2])
      await expect(device.secure()).rejects.toMatchObject({ code: "ENOSPC", lossless: true });
    isFull = false;
    await device.secure();
    await device.resume();
    const before = await contentsOf(device);
    expect([opened, closed]).toEqual([3, 2]);
    await device.close();
    expect((await contentsOf(await start(await holding(disk)))).equals(before)).toBe(true);
  });

  it("is not written to another file that has taken the name of its own", async () => {
    const folder = mkdtempSync(join(tmpdir(), "dmkit-zram-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const path = join(folder, "snapshot");
    const first = await openFile(path, { createSize: ROOM });
    const failure = new BlockIoError("no space left", { code: "ENOSPC", op: "flush" });
    first.flush = () => Promise.reject(failure);
    let opened = 0;
    const device = await openZram(parseOptions(zramOptions, { snapshot: path }), {
      name: "zram",
      size: PAGES * PAGE,
      environment: realEnvironment,
      lower: async () => (opened++ === 0 ? first : openFile(path, { lock: false })),
      release: async () => {},
    });
    await fill(device);
    await device.suspend();
    await expect(device.secure()).rejects.toMatchObject({ code: "ENOSPC" });
    renameSync(path, join(folder, "aside"));
    writeFileSync(path, Buffer.alloc(ROOM));
    await expect(device.secure()).rejects.toMatchObject({ code: "ENOENT", lossless: true });
    expect(readFileSync(path).equals(Buffer.alloc(ROOM))).toBe(true);
    await device.resume();
    await device.close().catch(() => {});
    await first.close().catch(() => {});
  });

  it("says what is lost where it is closed all the same", async () => {
    const snapshot = new Narrow(ROOM);
    const device = await start(snapshot);
    await fill(device);
    snapshot.isFull = true;
    await expect(device.close()).rejects.toMatchObject({
      code: "ENOSPC",
      reason: expect.stringContaining("lost"),
    });
  });

  it("is read-only, and closed without a word, where its snapshots are", async () => {
    const snapshot = await saved();
    const bytes = await contentsOf(snapshot);
    Object.assign(snapshot, { limits: withCapabilities(snapshot.limits, { readOnly: true }) });
    const device = await start(snapshot);
    expect(device.limits.capabilities.readOnly).toBe(true);
    expect(await code(device.write(0, noise(1)))).toBe("EROFS");
    expect(await code(device.message(["reset"]))).toBe("EROFS");
    const into = Buffer.alloc(PAGE);
    await device.read(20 * PAGE, into);
    expect(into.equals(noise(20))).toBe(true);
    await device.close();
    expect((await contentsOf(snapshot)).equals(bytes)).toBe(true);
  });
});

describe("a page that has rotted on the backing device", () => {
  it.each([0, 1])("is EIO, and no snapshot takes it for sound; compressed there: %s", async (compressed) => {
    const snapshot = new MemoryDevice(ROOM);
    const backing = new MemoryDevice(PAGES * PAGE);
    const values = { compressed_writeback: compressed };
    const device = await start(snapshot, values, backing, hasty);
    await fill(device);
    await device.message(["writeback", "all"]);
    const before = await contentsOf(device);
    const page = 21;
    const block = device.parts.pages.table.low(page) * PAGE;
    const bytes = Buffer.alloc(PAGE);
    await backing.read(block, bytes);
    // The last byte that is stored of it: an algorithm need not notice.
    bytes[device.parts.pages.table.length(page) - 1] =
      (bytes[device.parts.pages.table.length(page) - 1] ?? 0) ^ 1;
    await backing.write(block, bytes);
    await expect(device.read(page * PAGE, Buffer.alloc(PAGE))).rejects.toMatchObject({ code: "EIO" });
    expect(device.health()).toMatchObject({ state: "degraded", why: expect.stringContaining("1 pages") });
    await device.suspend();
    await expect(device.secure()).rejects.toMatchObject({ code: "EIO" });
    await device.resume();
    await device.close();
    const again = await start(snapshot, values, new MemoryDevice(PAGES * PAGE), hasty);
    await expect(again.read(page * PAGE, Buffer.alloc(PAGE))).rejects.toMatchObject({ code: "EIO" });
    await again.write(page * PAGE, before.subarray(page * PAGE, (page + 1) * PAGE));
    expect((await contentsOf(again)).equals(before)).toBe(true);
    await again.close();
  });
});

describe("a page that the backing device does not give", () => {
  it("for a moment is not lost where the disk is closed in that moment", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const backing = new BadSectors(PAGES * PAGE);
    const clock = new ManualClock();
    const device = await start(snapshot, {}, backing, { ...realEnvironment, clock });
    await fill(device);
    await device.message(["writeback", "all"]);
    const before = await contentsOf(device);
    for (const page of [21, 22]) backing.bad.add(device.parts.pages.table.low(page) * 8);
    const closed = device.close();
    await expect.poll(() => clock.pending).toBeGreaterThan(0);
    await clock.pass(1000);
    backing.bad.clear();
    await clock.pass(1000);
    await closed;
    const again = await start(snapshot);
    expect(again.health().state).toBe("ok");
    expect((await contentsOf(again)).equals(before)).toBe(true);
  });

  it("is lost, and nothing else: the rest is saved, and it is read again when it was written", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const backing = new BadSectors(PAGES * PAGE);
    const device = await start(snapshot, {}, backing, hasty);
    await fill(device);
    await device.message(["writeback", "all"]);
    const before = await contentsOf(device);
    const page = 21;
    // Somewhere inside of what is the page's block.
    backing.bad.add(device.parts.pages.table.low(page) * 8 + 3);
    expect(device.health().state).toBe("ok");
    // It cannot be saved without that page; it goes on, and is closed.
    await device.suspend();
    await expect(device.secure()).rejects.toMatchObject({ code: "EIO", lossless: true });
    await device.resume();
    expect(device.health()).toMatchObject({ state: "degraded", why: expect.stringContaining("1 pages") });
    // An error that passes costs nothing.
    const { bad } = backing;
    const sectors = [...bad];
    bad.clear();
    await device.suspend();
    await device.secure();
    await device.resume();
    expect(device.health().state).toBe("ok");
    expect((await contentsOf(await start(await holding(await contentsOf(snapshot))))).equals(before)).toBe(
      true,
    );
    for (const sector of sectors) bad.add(sector);
    await device.write(50 * PAGE, noise(50));
    // There is no later time.
    await device.close();

    for (const round of [1, 2]) {
      const again = await start(snapshot, {}, round === 1 ? new MemoryDevice(PAGES * PAGE) : undefined);
      expect(audit(again)).toEqual([]);
      expect(again.health()).toMatchObject({ state: "degraded", why: expect.stringContaining("1 pages") });
      expect(await code(again.read(page * PAGE, Buffer.alloc(512)))).toBe("EIO");
      expect(await code(again.write(page * PAGE, noise(1, 512)))).toBe("EIO");
      const into = Buffer.alloc(PAGE);
      for (let other = 0; other < PAGES; other += 1) {
        if (other === page) continue;
        await again.read(other * PAGE, into);
        const at = other * PAGE;
        expect(into.equals(other === 50 ? noise(50) : before.subarray(at, at + PAGE))).toBe(true);
      }
      if (round === 2) {
        await again.write(page * PAGE, noise(7));
        expect(again.health().state).toBe("ok");
      } else await again.write(50 * PAGE, noise(50));
      await again.close();
    }
    const last = await start(snapshot);
    const into = Buffer.alloc(PAGE);
    await last.read(page * PAGE, into);
    expect(into.equals(noise(7))).toBe(true);
  });
});

describe("a sector that holds nothing", () => {
  it("stops nothing where it is the mark of the backing device, and is written anew by force", async () => {
    const snapshot = await saved();
    const expected = await contentsOf(await start(snapshot));
    const backing = new BadSectors(PAGES * PAGE);
    await (await start(await holding(await contentsOf(snapshot)), {}, backing)).close();
    backing.bad.add(0);
    const device = await start(snapshot, {}, backing);
    expect((await contentsOf(device)).equals(expected)).toBe(true);
    expect(device.health()).toMatchObject({ state: "degraded", help: expect.stringContaining("force") });
    expect(await code(device.message(["writeback", "all"]))).toBe("EINVAL");
    await device.close();
    await (await start(snapshot, { force: 1 }, backing)).close();
    const again = await start(snapshot, {}, backing);
    expect(again.health().state).toBe("ok");
    await again.message(["writeback", "all"]);
    await again.close();
    // Beside it there is nothing at all.
    backing.bad.add(5);
    expect((await start(snapshot, {}, backing)).health().state).toBe("ok");
  });

  it("stops nothing behind the header of a snapshot; of the header itself it is said what to do", async () => {
    const snapshot = new BadSectors(ROOM);
    await snapshot.write(0, await contentsOf(await saved()));
    const expected = await contentsOf(await start(snapshot));
    const second = snapshotRoom(PAGES) / 512;
    for (const sector of [1, 7, second + 3]) {
      snapshot.bad.add(sector);
      expect((await contentsOf(await start(snapshot))).equals(expected)).toBe(true);
    }
    snapshot.bad.add(second);
    await expect(start(snapshot)).rejects.toMatchObject({
      code: "EIO",
      hint: expect.stringContaining("zero"),
    });
    await snapshot.write(second * 512, Buffer.alloc(PAGE));
    expect((await contentsOf(await start(snapshot))).equals(expected)).toBe(true);
  });
});

/** Fails once. */
class Passing extends BadSectors {
  protected override doRead(offset: number, into: Buffer): Promise<void> {
    try {
      return super.doRead(offset, into);
    } catch (error) {
      this.bad.clear();
      throw error;
    }
  }
}

describe("a page that the snapshot's device does not give, or gives damaged", () => {
  async function spoilt(
    form: "unreadable" | "damaged",
    make = (): BadSectors => new BadSectors(ROOM),
  ): Promise<{ snapshot: BadSectors; expected: Buffer; bytes: Buffer; mend: () => Promise<void> }> {
    const snapshot = make();
    await snapshot.write(0, await contentsOf(await saved()));
    const expected = await contentsOf(await start(snapshot));
    const whole = await contentsOf(snapshot);
    // The last one of the copy that counts.
    const end = whole.findLastIndex((byte) => byte !== 0);
    if (form === "unreadable") snapshot.bad.add(Math.floor(end / 512));
    else await snapshot.write(end - (end % 512), Buffer.alloc(512, 1));
    const mend = async (): Promise<void> => {
      snapshot.bad.clear();
      await snapshot.write(0, whole);
    };
    const now = Buffer.from(whole);
    if (form === "damaged") now.fill(1, end - (end % 512), end - (end % 512) + 512);
    return { snapshot, expected, bytes: now, mend };
  }

  it.each(["unreadable", "damaged"] as const)(
    "costs writing while it is %s, and nothing later",
    async (form) => {
      const { snapshot, expected, bytes, mend } = await spoilt(form);
      const warnings: string[] = [];
      const logger = { log: (_: string, message: string): void => void warnings.push(message) };
      const device = await open(PAGES * PAGE, {}, { ...realEnvironment, logger }, { snapshot });
      expect(warnings.at(-1)).toMatch(
        /sector \d+ of the snapshot's device memory.*read-only.*bad unreadable/,
      );
      expect(await missing(device, expected)).toBe(1);
      expect(device.health().state).toBe("degraded");
      expect(await code(device.write(0, noise(1)))).toBe("EROFS");
      await device.close();
      const { bad } = snapshot;
      const sectors = [...bad];
      bad.clear();
      expect((await contentsOf(snapshot)).equals(bytes)).toBe(true);
      for (const sector of sectors) bad.add(sector);
      await mend();
      const again = await start(snapshot);
      expect(await missing(again, expected)).toBe(0);
      await again.write(0, noise(1));
      await again.close();
    },
  );

  it.each(["unreadable", "damaged"] as const)(
    "is given up by a word, %s, until it is written",
    async (form) => {
      const { snapshot, expected } = await spoilt(form);
      const device = await start(snapshot, { bad: "unreadable" });
      await device.write(50 * PAGE, noise(50));
      noise(50).copy(expected, 50 * PAGE);
      await device.close();
      for (const _ of [1, 2]) {
        const again = await start(snapshot);
        expect(audit(again)).toEqual([]);
        expect(await missing(again, expected)).toBe(1);
        expect(again.health()).toMatchObject({ state: "degraded", help: expect.stringContaining("anew") });
        await again.write(50 * PAGE, noise(50));
        await again.close();
      }
      const last = await start(snapshot);
      for (let page = 0; page < PAGES; page += 1)
        await last.write(page * PAGE, expected.subarray(page * PAGE, (page + 1) * PAGE));
      expect(await missing(last, expected)).toBe(0);
      expect(last.health().state).toBe("ok");
    },
  );

  it("costs nothing if it is given when it is asked for once more", async () => {
    const { snapshot } = await spoilt("unreadable", () => new Passing(ROOM));
    const device = await start(snapshot);
    await device.write(0, noise(1));
    await device.close();
  });
});

describe("a snapshot", () => {
  it.each([{ comp_algorithm: "lz4" }, { comp_algorithm: "zstd" }, { recomp_algorithm: "deflate" }])(
    "brings everything back, with %j",
    async (values) => {
      const snapshot = new MemoryDevice(ROOM);
      const backing = new MemoryDevice(20 * PAGE);
      let device = await start(snapshot, values, backing);
      expect((await contentsOf(device)).equals(Buffer.alloc(PAGES * PAGE))).toBe(true);
      for (let round = 0; round < 3; round += 1) {
        await fill(device);
        await device.write((50 + round) * PAGE + 512, noise(round, 1024));
        await device.discard(round * PAGE, PAGE);
        await device.message(["writeback", "huge"]);
        if ("recomp_algorithm" in values) await device.message(["recompress", "all"]);
        const before = await contentsOf(device);
        await device.close();
        device = await start(snapshot, values, new MemoryDevice(20 * PAGE));
        expect((await contentsOf(device)).equals(before)).toBe(true);
        expect(await device.message(["same_pages"])).toBe("1");
      }
      await device.close();
    },
  );

  it("of any bit is refused, costs its page, or changes nothing", async () => {
    const snapshot = await saved();
    const whole = await contentsOf(snapshot);
    const device = await start(snapshot);
    const expected = await contentsOf(device);
    const random = new SeededRandom(seed);
    for (let round = 0; round < 300; round += 1) {
      const at = round < 100 ? random.below(600) : random.below(30 * PAGE);
      const broken = Buffer.from(whole);
      broken[at] = (broken[at] as number) ^ (1 << random.below(8));
      try {
        const again = await start(await holding(broken));
        const lost = await missing(again, expected);
        expect(again.limits.capabilities.readOnly, `seed ${seed}, byte ${at}`).toBe(lost > 0);
      } catch (error) {
        expect((error as BlockIoError).code, `seed ${seed}, byte ${at}`).toBe("EFORMAT");
      }
    }
  });

  it("with a length that no page is compressed to is refused: in memory it would be another form", async () => {
    for (const length of [3073, 4093, 4094, 4095, 4097]) {
      const device = new MemoryDevice(2 * ROOM);
      const disk = await start(device);
      await disk.write(0, noise(1));
      await disk.close();
      const bytes = await contentsOf(device);
      // The entry of page 0, and the sums of what it says and of the header.
      bytes.writeUInt16LE(length, PAGE + 4);
      bytes.writeUInt32LE(crc32c(bytes.subarray(2 * PAGE, 2 * PAGE + length)), PAGE + 8);
      bytes.writeUInt32LE(length, 32);
      bytes.writeUInt32LE(crc32c(bytes.subarray(PAGE, PAGE + 16)), 40);
      bytes.writeUInt32LE(0, 12);
      bytes.writeUInt32LE(crc32c(bytes.subarray(0, 512)), 12);
      expect([length, await code(start(await holding(bytes)))]).toEqual([length, "EFORMAT"]);
    }
  });

  it("that is cut short by a crash leaves the one before it, whichever copy that is", async () => {
    const random = new SeededRandom(seed);
    let snapshot = await saved();
    for (let round = 0; round < 2; round += 1) {
      const whole = await contentsOf(snapshot);
      const before = await contentsOf(await start(await holding(whole)));
      let after: Buffer | undefined;
      for (let limit = 1; after === undefined; limit += 1) {
        const cut = new PowerCut(whole, limit);
        const device = await start(cut);
        for (let page = 10; page < 25; page += 1) await device.write(page * PAGE, noise(100 * round + page));
        const written = await contentsOf(device);
        const failed = await code(device.close());
        if (failed === "no error") {
          after = written;
          snapshot = cut.survivor(random);
        } else expect(failed).toBe("EIO");
        const again = await start(cut.survivor(random));
        const shown = await contentsOf(again);
        const legal = [before, written].some((contents) => contents.equals(shown));
        expect(legal, `seed ${seed}, round ${round}, write ${limit}`).toBe(true);
        // Also when it was closed once more since, without a crash.
        await again.close();
      }
      expect((await contentsOf(await start(snapshot))).equals(after)).toBe(true);
    }
  });

  it("that was the first and not completed leaves an empty disk, which says so, and can be saved", async () => {
    for (const limit of [2, 3]) {
      const cut = new PowerCut(Buffer.alloc(ROOM), limit);
      const device = await start(cut);
      await fill(device);
      expect(await code(device.close())).toBe("EIO");
      let snapshot = cut.survivor(new SeededRandom(seed));
      const warnings: string[] = [];
      const logger = { log: (_: string, message: string): void => void warnings.push(message) };
      // Cut short once more: there is still none before it.
      for (const round of [1, 2]) {
        const cutAgain = new PowerCut(await contentsOf(snapshot), limit);
        const again = await open(
          PAGES * PAGE,
          {},
          { ...realEnvironment, logger },
          { snapshot: round === 1 ? cutAgain : snapshot },
        );
        expect(warnings).toEqual(Array(round).fill(expect.stringContaining("empty")));
        expect((await contentsOf(again)).equals(Buffer.alloc(PAGES * PAGE))).toBe(true);
        await fill(again);
        expect(await code(again.close())).toBe(round === 1 ? "EIO" : "no error");
        if (round === 1) snapshot = cutAgain.survivor(new SeededRandom(seed));
      }
      expect(
        (await contentsOf(await start(snapshot))).equals(await contentsOf(await start(await saved()))),
      ).toBe(true);
    }
  });

  it("that was not completed, with one before it that is gone, is refused", async () => {
    const cut = new PowerCut(await contentsOf(await saved()), 2);
    const device = await start(cut);
    await device.write(0, noise(1));
    expect(await code(device.close())).toBe("EIO");
    const second = await contentsOf(cut.survivor(new SeededRandom(seed)));
    const header = second.subarray(snapshotRoom(PAGES), snapshotRoom(PAGES) + PAGE);
    second.fill(0, 0, PAGE);
    expect(await code(start(await holding(second)))).toBe("EFORMAT");
    // Nor where it was to take the place of the first copy.
    const first = Buffer.alloc(ROOM);
    header.copy(first);
    expect(await code(start(await holding(first)))).toBe("EFORMAT");
  });

  it("that is the newest and damaged is not replaced by the one before it without being told to", async () => {
    const snapshot = await saved();
    const device = await start(snapshot);
    const before = await contentsOf(device);
    await device.write(0, noise(9));
    await device.close();
    const second = snapshotRoom(PAGES);
    for (const at of [second + 20, second + PAGE + 5]) {
      const broken = await contentsOf(snapshot);
      broken[at] = (broken[at] as number) ^ 1;
      const damaged = await holding(broken);
      const error = await start(damaged).then(
        () => undefined,
        (reason: unknown) => reason as BlockIoError,
      );
      expect([error?.code, error?.reason]).toEqual(["EFORMAT", expect.stringContaining(`byte ${second}`)]);
      await damaged.write(second, Buffer.alloc(PAGE));
      expect((await contentsOf(await start(damaged))).equals(before)).toBe(true);
    }
  });

  it("of version 1 is read, and never taken for the newest again", async () => {
    const bytes = await contentsOf(await saved());
    // As version 1 has it: another magic, and zeroes from byte 80 on.
    bytes.write("dmkitZR1", 0, "latin1");
    bytes.fill(0, 80, 512);
    bytes.fill(0, 12, 16);
    bytes.writeUInt32LE(crc32c(bytes.subarray(0, 512)), 12);
    const snapshot = await holding(bytes);
    const device = await start(snapshot);
    expect((await contentsOf(device)).equals(await contentsOf(await start(await saved())))).toBe(true);
    await device.write(0, noise(1));
    const expected = await contentsOf(device);
    await device.close();
    expect((await contentsOf(snapshot)).toString("latin1", 0, 8)).not.toBe("dmkitZR1");
    expect((await contentsOf(await start(snapshot))).equals(expected)).toBe(true);
  });

  it("of pages that were written back or recompressed comes back under the same limit of memory", async () => {
    for (const values of [
      { mem_limit: 131_072, recomp_algorithm: "deflate", comp_algorithm: "lzo" },
      { mem_limit: 131_072 },
    ]) {
      const snapshot = new MemoryDevice(ROOM);
      const device = await start(snapshot, values, new MemoryDevice(PAGES * PAGE));
      for (let page = 0; page < PAGES; page += 1) {
        await device.write(page * PAGE, page % 2 === 0 ? noise(page) : text(page));
        if (page % 8 !== 7) continue;
        await device.message(["writeback", "huge"]);
        if ("recomp_algorithm" in values) await device.message(["recompress", "all"]);
      }
      const [before, kept] = [await contentsOf(device), figures(device)];
      await device.close();
      const again = await start(snapshot, values, new MemoryDevice(PAGES * PAGE));
      expect((await contentsOf(again)).equals(before)).toBe(true);
      const same = ({
        bd_count,
        compr_data_size,
        huge_pages,
      }: Readonly<Record<string, string>>): unknown => ({
        bd_count,
        compr_data_size,
        huge_pages,
      });
      expect(same(figures(again))).toEqual(same(kept));
      // Without the backing device there is too little memory, and too much would be used.
      expect(await code(start(snapshot, values))).toBe("ENOSPC");
      expect(await code(start(snapshot, values, new MemoryDevice(2 * PAGE)))).toBe("ENOSPC");
      await (await start(snapshot, { ...values, mem_limit: 0 })).close();
    }
  });

  it("comes back although mem_limit has become smaller: only further writes are refused", async () => {
    const device = await start(await saved(), { mem_limit: 65_536 });
    expect((await contentsOf(device)).equals(await contentsOf(await start(await saved())))).toBe(true);
    const codes = new Set<string>();
    for (let page = 41; page < PAGES; page += 1)
      codes.add(await code(device.write(page * PAGE, noise(page))));
    expect(codes).toContain("ENOSPC");
  });

  it("is only read as what it is", async () => {
    const snapshot = await saved();
    expect(await code(start(snapshot, { comp_algorithm: "lzo" }))).toBe("EINVAL");
    expect(await code(open((PAGES - 1) * PAGE, {}, realEnvironment, { snapshot }))).toBe("EINVAL");
    // There must be room for two.
    expect(await code(start(new MemoryDevice(2 * snapshotRoom(PAGES) - PAGE)))).toBe("EINVAL");
    for (const at of [0, snapshotRoom(PAGES)]) {
      const foreign = new MemoryDevice(ROOM);
      await foreign.write(at, noise(1));
      expect(await code(start(foreign))).toBe("EFORMAT");
    }
  });
});
