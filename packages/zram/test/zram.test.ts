import {
  BlockIoError,
  MemoryDevice,
  TargetRegistry,
  openTable,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type ZramRules, zramRules } from "../src/core/rules.ts";
import { type ZramDevice, zram } from "../src/index.ts";
import { open } from "../src/testing/sim-targets.ts";

const PAGE = 4096;
const registry = new TargetRegistry([zram]);
const text = (seed: number): Buffer =>
  Buffer.from(Array.from({ length: PAGE }, (_, at) => 97 + ((at * (seed + 3)) % 23)));
const noise = (seed: number, length = PAGE): Buffer => new SeededRandom(seed).fill(Buffer.alloc(length));

async function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : String(error)),
  );
}

async function read(device: ZramDevice, offset: number, length = PAGE): Promise<Buffer> {
  const into = Buffer.alloc(length, 1);
  await device.read(offset, into);
  return into;
}

async function attribute(device: ZramDevice, name: string): Promise<number> {
  return Number(await device.message([name]));
}

describe("the table", () => {
  it.each([
    "0 2048 zram lz4",
    "0 2048 zram zstd 2 mem_limit 1048576",
    "0 2048 zram lzo 4 recomp_algorithm zstd backing_dev ./b.img",
  ])("%s is read and printed", (line) => {
    expect(printTable(parseTable(line, registry))).toBe(line);
  });

  it.each(["0 8 zram lz4 1", "0 8 zram lz4 2 colour blue", "0 8 zram lz4 2 mem_limit x", "0 8 zram lz4 0 x"])(
    "%s is refused",
    (line) => {
      expect(() => parseTable(line, registry)).toThrow(BlockIoError);
    },
  );

  it("says which algorithms there are", async () => {
    const table = parseTable("0 2048 zram lz5", registry);
    expect(await code(openTable(table, { environment: realEnvironment }))).toBe("ENOENT");
  });
});

describe("pages", () => {
  it("are absent, same-filled, compressed or huge, and are counted so", async () => {
    const device = await open(16 * PAGE, {}, realEnvironment);
    const same = Buffer.from("abcdefgh".repeat(PAGE / 8));
    await device.write(0, same);
    await device.write(PAGE, text(1));
    await device.write(2 * PAGE, noise(1));
    expect(await attribute(device, "same_pages")).toBe(1);
    expect(await attribute(device, "huge_pages")).toBe(1);
    expect(await attribute(device, "orig_data_size")).toBe(3 * PAGE);
    const compressed = await attribute(device, "compr_data_size");
    expect(compressed).toBeGreaterThan(PAGE);
    expect(compressed).toBeLessThan(2 * PAGE);
    expect((await read(device, 0)).equals(same)).toBe(true);
    expect((await read(device, PAGE)).equals(text(1))).toBe(true);
    expect((await read(device, 2 * PAGE)).equals(noise(1))).toBe(true);
    expect(await device.message(["mm_stat"])).toMatch(/^12288 \d+ \d+ 0 \d+ 1 0 1 1$/);
    expect(device.status()).toContain("disksize 65536 comp_algorithm lz4");
    await device.writeZeroes(0, 3 * PAGE);
    expect(await attribute(device, "orig_data_size")).toBe(0);
    expect(await attribute(device, "mem_used_total")).toBe(0);
    await device.message(["mem_used_max", "0"]);
    expect(await attribute(device, "mem_used_max")).toBe(0);
    await device.close();
  });

  it("that are discarded are counted, and requests that cannot be", async () => {
    const device = await open(16 * PAGE + 512, {}, realEnvironment);
    await device.write(0, noise(1));
    // Whole pages only; the last page of this disk is a sector.
    await device.discard(512, 3 * PAGE);
    await device.discard(15 * PAGE, PAGE + 512);
    await device.writeZeroes(0, 4 * PAGE);
    for (const [offset, length] of [
      [1, 512],
      [0, 100],
      [17 * PAGE, 512],
      [16 * PAGE, PAGE],
    ] as const) {
      await code(device.read(offset, Buffer.alloc(length)));
      await code(device.write(offset, Buffer.alloc(length)));
    }
    expect(await device.message(["io_stat"])).toBe("0 0 8 4");
    expect(device.facts()).toMatchObject({ invalid_io: 8, notify_free: 4 });
    await device.close();
  });

  it("are not filled alike if one byte differs", async () => {
    const device = await open(4 * PAGE, {}, realEnvironment);
    for (const at of [0, 7, 8, 2048, 4088, 4095]) {
      const page = Buffer.alloc(PAGE);
      page[at] = 1;
      await device.write(0, page);
      expect((await read(device, 0)).equals(page)).toBe(true);
      expect(await attribute(device, "same_pages")).toBe(0);
    }
    await device.close();
  });

  it("take part of a page at a time, concurrently, with an algorithm on other threads", async () => {
    for (const comp_algorithm of ["lz4", "zstd"]) {
      const device = await open(4 * PAGE, { comp_algorithm, max_comp_streams: 4 }, realEnvironment);
      const expected = noise(9, 4 * PAGE);
      const order = Array.from({ length: 32 }, (_, sector) => (sector * 13) % 32);
      await Promise.all(
        order.map((sector) =>
          device.write(sector * 512, expected.subarray(sector * 512, sector * 512 + 512)),
        ),
      );
      expect((await read(device, 0, 4 * PAGE)).equals(expected), comp_algorithm).toBe(true);
      await device.close();
    }
  });
});

describe("the limit", () => {
  it("gives ENOSPC and loses nothing", async () => {
    const pages = 64;
    const device = await open(pages * PAGE, { mem_limit: 131_072 }, realEnvironment);
    const written: number[] = [];
    let refused = 0;
    for (let page = 0; page < pages; page += 1) {
      const result = await code(device.write(page * PAGE, noise(page + 1)));
      if (result === "no error") written.push(page);
      else {
        expect(result).toBe("ENOSPC");
        refused += 1;
        expect((await read(device, page * PAGE)).equals(Buffer.alloc(PAGE))).toBe(true);
      }
    }
    expect(refused).toBeGreaterThan(0);
    // What is there can be overwritten by as much, and survives being overwritten by more.
    await device.write(0, noise(1000));
    expect((await read(device, 0)).equals(noise(1000))).toBe(true);
    for (const page of written.slice(1))
      expect((await read(device, page * PAGE)).equals(noise(page + 1))).toBe(true);
    expect(await attribute(device, "mem_used_total")).toBeLessThanOrEqual(131_072);
    await device.discard(0, pages * PAGE);
    await device.write(0, noise(7));
    await device.message(["mem_limit", "0"]);
    await device.close();
  });
});

describe("messages", () => {
  it("reset is refused under requests in flight, unless told by force", async () => {
    let go = (): void => {};
    class Slow extends MemoryDevice {
      protected override async doRead(offset: number, into: Buffer): Promise<void> {
        await new Promise<void>((resolve) => (go = resolve));
        return super.doRead(offset, into);
      }
    }
    for (const words of [["reset"], ["reset", "force"]]) {
      const backing = new Slow(5 * PAGE);
      const opening = open(16 * PAGE, {}, realEnvironment, { backing });
      // The mark of a backing device is looked for when it is opened.
      const ticking = setInterval(() => go(), 1);
      const device = await opening;
      await device.write(0, noise(2));
      await device.message(["writeback", "all"]);
      clearInterval(ticking);
      const reading = device.read(0, Buffer.alloc(PAGE));
      const outcome = code(device.message(words));
      await new Promise((resolve) => setImmediate(resolve));
      go();
      await reading;
      expect(await outcome).toBe(words.length === 1 ? "EBUSY" : "no error");
      expect(device.facts()["bd_count"]).toBe(words.length === 1 ? 1 : 0);
      await device.close();
    }
  });

  it("reset leaves a device that its user has suspended suspended", async () => {
    const device = await open(16 * PAGE, {}, realEnvironment);
    await device.write(0, noise(1));
    await device.suspend();
    await device.message(["reset"]);
    let answered = false;
    const reading = read(device, 0).finally(() => (answered = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(answered).toBe(false);
    await device.resume();
    expect((await reading).equals(Buffer.alloc(PAGE))).toBe(true);
    await device.close();
  });

  it("compact moves pages together and changes none", async () => {
    const pages = 2000;
    const device = await open(pages * PAGE, {}, realEnvironment);
    for (let page = 0; page < pages; page += 1) await device.write(page * PAGE, text(page % 50));
    for (let page = 0; page < pages; page += 1) if (page % 9 !== 0) await device.discard(page * PAGE, PAGE);
    const before = await attribute(device, "mem_used_total");
    await device.message(["compact"]);
    expect(await attribute(device, "mem_used_total")).toBeLessThan(before);
    expect(await attribute(device, "pages_compacted")).toBeGreaterThan(0);
    for (let page = 0; page < pages; page += 9)
      expect((await read(device, page * PAGE)).equals(text(page % 50))).toBe(true);
    await device.message(["reset"]);
    expect((await read(device, 0)).equals(Buffer.alloc(PAGE))).toBe(true);
    await device.close();
  });

  it("recompress and writeback take the words of the driver", async () => {
    const backing = new MemoryDevice(64 * PAGE);
    const device = await open(64 * PAGE, { recomp_algorithm: "deflate" }, realEnvironment, { backing });
    const expected: Buffer[] = [];
    for (let page = 0; page < 40; page += 1) {
      // The first ones can be made smaller by deflate, and by lz4 hardly.
      expected.push(page < 20 ? (noise(page).map((byte) => byte & 15) as Buffer) : noise(page));
      await device.write(page * PAGE, expected[page] as Buffer);
    }
    const said = async (words: string): Promise<string> => device.message(words.split(" "));
    expect(await said("recompress type=huge_idle threshold=1000 algo=deflate")).toBe("0 pages recompressed");
    expect(await said("recompress max_pages=5")).toBe("5 pages recompressed");
    expect(await said("recompress threshold=4096")).toBe("15 pages recompressed");
    expect(await said("recompress")).toBe("0 pages recompressed");
    expect(await said("writeback page_index=3 page_indexes=2-5 page_index=63")).toBe("4 pages written back");
    expect(await said("writeback type=huge page_indexes=0-23")).toBe("4 pages written back");
    await said("writeback_limit 10");
    await said("writeback_limit_enable 1");
    expect(await code(said("writeback type=huge"))).toBe("ENOSPC");
    expect([await said("writeback_limit"), await attribute(device, "huge_pages")]).toEqual(["0", 6]);
    await said("writeback_limit 4");
    expect(await said("writeback page_indexes=34-35")).toBe("2 pages written back");
    expect([await said("writeback_limit"), await said("writeback_limit_enable")]).toEqual(["2", "1"]);
    await said("writeback_limit_enable 0");
    expect(await said("writeback all")).toBe("20 pages written back");
    expect(await attribute(device, "huge_pages_since")).toBe(40);
    expect((await said("mm_stat")).split(" ")[8]).toBe("40");
    expect(await said("debug_stat")).toMatch(/^version: 1\n\d+ 0$/);
    for (const [page, contents] of expected.entries())
      expect((await read(device, page * PAGE)).equals(contents)).toBe(true);
    await device.close();
  });

  it("recompress tries as hard as it is told", async () => {
    const sizes: number[] = [];
    for (const recomp_level of [1, 9]) {
      const device = await open(64 * PAGE, { recomp_algorithm: "deflate", recomp_level }, realEnvironment);
      for (let page = 0; page < 64; page += 1) await device.write(page * PAGE, text(page));
      // Of words, which a harder search finds more of.
      const words = Buffer.from(
        Array.from({ length: PAGE / 4 }, (_, at) => `${(at * at * 7919) % 997}  ok`).join(" "),
      );
      await device.write(0, words.subarray(0, PAGE));
      await device.message(["recompress"]);
      sizes.push(await attribute(device, "compr_data_size"));
      expect((await read(device, 0)).equals(words.subarray(0, PAGE))).toBe(true);
      await device.close();
    }
    expect(sizes[1]).toBeLessThan(sizes[0] as number);
    for (const values of [{ comp_level: 1 }, { comp_algorithm: "deflate", comp_level: 10 }])
      expect(await code(open(64 * PAGE, values, realEnvironment))).toBe("EINVAL");
  });

  it("recompress makes pages smaller with the second algorithm", async () => {
    const device = await open(64 * PAGE, { recomp_algorithm: "deflate" }, realEnvironment);
    // Sixteen letters in disorder: matches are short, so what lz4 cannot do an entropy coder can.
    const letters = (seed: number): Buffer => Buffer.from(noise(seed).map((byte) => 97 + (byte & 15)));
    for (let page = 0; page < 64; page += 1) await device.write(page * PAGE, letters(page + 1));
    const before = await attribute(device, "compr_data_size");
    expect(await device.message(["recompress", "idle"])).toBe("0 pages recompressed");
    await device.message(["idle", "all"]);
    expect(await device.message(["recompress", "idle"])).toBe("64 pages recompressed");
    expect(await attribute(device, "compr_data_size")).toBeLessThan(before * 0.8);
    for (let page = 0; page < 64; page += 1)
      expect((await read(device, page * PAGE)).equals(letters(page + 1))).toBe(true);
    await device.close();
  });

  it("writeback moves idle pages only, and they are read and changed there", async () => {
    const backing = new MemoryDevice(20 * PAGE);
    const device = await open(64 * PAGE, {}, realEnvironment, { backing });
    for (let page = 0; page < 30; page += 1) await device.write(page * PAGE, noise(page + 1));
    await device.message(["idle", "all"]);
    for (let page = 0; page < 15; page += 1) await read(device, page * PAGE);
    expect(await device.message(["writeback", "idle"])).toBe("15 pages written back");
    expect(await device.message(["bd_stat"])).toBe("15 0 15");
    await device.write(20 * PAGE + 512, Buffer.alloc(512, 7));
    const changed = noise(21);
    changed.fill(7, 512, 1024);
    expect((await read(device, 20 * PAGE)).equals(changed)).toBe(true);
    for (const page of [0, 14, 15, 19, 21, 29])
      expect((await read(device, page * PAGE)).equals(noise(page + 1))).toBe(true);
    expect(await code(device.message(["writeback", "huge"]))).toBe("ENOSPC");
    for (const page of [0, 14, 15, 19, 21, 29])
      expect((await read(device, page * PAGE)).equals(noise(page + 1))).toBe(true);
    await device.close();
  });

  it("a page that changes while it is written back keeps its change", async () => {
    /** Whether the change is there in the end. */
    const changed = async (rules: ZramRules): Promise<boolean> => {
      let go = (): void => {};
      const gate = new Promise<void>((resolve) => (go = resolve));
      class Gated extends MemoryDevice {
        protected override async doWrite(offset: number, from: Buffer): Promise<void> {
          // The first block is the mark.
          if (offset > 0) await gate;
          return super.doWrite(offset, from);
        }
      }
      const device = await open(64 * PAGE, {}, realEnvironment, { backing: new Gated(5 * PAGE), rules });
      await device.write(0, noise(1));
      const moved = device.message(["writeback", "all"]);
      await device.write(0, noise(2));
      go();
      await moved;
      const kept = (await read(device, 0)).equals(noise(2));
      await device.close();
      return kept;
    };
    expect(await changed(zramRules)).toBe(true);
    expect(await changed({ ...zramRules, isStill: () => true }), "with the fault").toBe(false);
  });

  it("blocks of the backing device are used again", async () => {
    const backing = new MemoryDevice(5 * PAGE);
    const device = await open(64 * PAGE, {}, realEnvironment, { backing });
    for (let round = 0; round < 20; round += 1) {
      for (let page = 0; page < 4; page += 1) await device.write(page * PAGE, noise(round * 4 + page + 1));
      expect(await device.message(["writeback", "all"])).toBe("4 pages written back");
      expect((await read(device, 3 * PAGE)).equals(noise(round * 4 + 4))).toBe(true);
    }
    await device.close();
  });

  it("idle marks pages by age", async () => {
    let now = 1_000_000;
    const clock = { ...realEnvironment.clock, now: () => now };
    const backing = new MemoryDevice(20 * PAGE);
    const device = await open(64 * PAGE, {}, { ...realEnvironment, clock }, { backing });
    for (const page of [0, 1, 2]) await device.write(page * PAGE, noise(page + 1));
    now += 50_000;
    await read(device, PAGE);
    await device.write(2 * PAGE, noise(9));
    now += 70_000;
    await device.message(["idle", "200"]);
    expect(await device.message(["writeback", "idle"])).toBe("0 pages written back");
    await device.message(["idle", "100"]);
    expect(await device.message(["writeback", "idle"])).toBe("1 pages written back");
    await device.message(["idle", "50"]);
    expect(await device.message(["writeback", "idle"])).toBe("2 pages written back");
    expect((await read(device, 2 * PAGE)).equals(noise(9))).toBe(true);
    // Whatever the clock says at first, what was just used is not idle; ages come round after six days.
    now += 432_000_000;
    await device.write(3 * PAGE, noise(4));
    await device.message(["idle", "1"]);
    expect(await device.message(["writeback", "idle"])).toBe("0 pages written back");
    await device.close();
  });

  it.each([
    "colour",
    "idle",
    "idle 0",
    "idle 1.5",
    "idle 999999999",
    "recompress blue",
    "writeback idle",
    "writeback",
    "writeback type=incompressible",
    "writeback page_index=64",
    "writeback page_indexes=5-4",
    "writeback threshold=5",
    "recompress algo=lzma",
    "recompress threshold=4097",
    "recompress page_index=1",
    "recompress type=huge=idle",
    "mem_limit x",
    "compact now please",
  ])("%s is refused", async (message) => {
    const device = await open(64 * PAGE, {}, realEnvironment);
    expect(["EINVAL", "EPARSE"]).toContain(await code(device.message(message.split(" "))));
    await device.close();
  });
});
