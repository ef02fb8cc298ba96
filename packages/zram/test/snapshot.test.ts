/** Snapshots: contents saved at close and restored at open, and what is refused. */
import { BlockIoError, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { ZramDevice } from "../src/index.ts";
import { open } from "../src/testing/sim-targets.ts";

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
  snapshot: MemoryDevice,
  values: Readonly<Record<string, unknown>> = {},
  backing?: MemoryDevice,
): Promise<ZramDevice> => open(PAGES * PAGE, values, realEnvironment, { snapshot, backing });

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

  it("of any bit is refused, or changes nothing", async () => {
    const snapshot = await saved();
    const whole = Buffer.alloc(ROOM);
    await snapshot.read(0, whole);
    const device = await start(snapshot);
    const expected = await contentsOf(device);
    const random = new SeededRandom(1 + (process.pid % 1000));
    let refused = 0;
    for (let round = 0; round < 300; round += 1) {
      const at = round < 100 ? random.below(600) : random.below(30 * PAGE);
      const broken = Buffer.from(whole);
      broken[at] = (broken[at] as number) ^ (1 << random.below(8));
      const damaged = new MemoryDevice(ROOM);
      await damaged.write(0, broken);
      try {
        const again = await start(damaged);
        expect((await contentsOf(again)).equals(expected), `byte ${at}`).toBe(true);
      } catch (error) {
        expect((error as BlockIoError).code, `byte ${at}`).toBe("EFORMAT");
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(100);
  });

  it("that was not completed is refused", async () => {
    const snapshot = await saved();
    const device = await start(snapshot);
    await device.write(0, noise(5));
    class Cut extends MemoryDevice {
      left = 0;
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        this.left -= 1;
        if (this.left < 0) throw new BlockIoError("cut", { code: "EIO" });
        return super.doWrite(offset, from);
      }
    }
    const whole = Buffer.alloc(ROOM);
    await snapshot.read(0, whole);
    for (const left of [1, 2, 3]) {
      const cut = new Cut(ROOM);
      cut.left = Number.POSITIVE_INFINITY;
      await cut.write(0, whole);
      const again = await start(cut);
      cut.left = left;
      expect(await code(again.close())).toBe("EIO");
      cut.left = Number.POSITIVE_INFINITY;
      expect(await code(start(cut)), `after ${left} writes`).toBe("EFORMAT");
    }
  });

  it("is only read as what it is", async () => {
    const snapshot = await saved();
    expect(await code(start(snapshot, { comp_algorithm: "lzo" }))).toBe("EINVAL");
    expect(await code(start(snapshot, { mem_limit: 65_536 }))).toBe("ENOSPC");
    expect(await code(open((PAGES - 1) * PAGE, {}, realEnvironment, { snapshot }))).toBe("EINVAL");
    expect(await code(start(new MemoryDevice(PAGES * PAGE)))).toBe("EINVAL");
    const foreign = new MemoryDevice(ROOM);
    await foreign.write(0, noise(1));
    expect(await code(start(foreign))).toBe("EFORMAT");
  });
});
