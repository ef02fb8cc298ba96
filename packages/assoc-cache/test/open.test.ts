/** Making, loading, refusing; warm and cold starts; both metadata versions. */
import { type BlockDevice, TableArguments, realEnvironment, beginFormat } from "@dmkit/block-io";
import { contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type Problem, assocCache, check, dump, repair, restore } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { kernelSum } from "./support/historical.ts";
import { block, figures, readSectors, rig, settled } from "./support/rig.ts";

const WB = { policy: "write-back" };

const parse = (line: string) => assocCache.parse(new TableArguments(line.split(" ")));

describe("table lines", () => {
  it.each([
    ["s c", "s c 0 8 65536 1024 0"],
    ["s c 1", "s c 1 8 65536 1024 0"],
    ["s c 2 8 64", "s c 2 8 64 64 0"],
    ["s c 0 64 1024 8 1", "s c 0 64 1024 8 1"],
    ["s c 0 4K 64", "s c 0 8 64 64 0"],
    [
      "s c 0 8 64 16 0 4 policy write-around age_limit 5",
      "s c 0 8 64 16 0 4 policy write-around age_limit 5",
    ],
    ["s c 0 8 64 16 0 2 force 1", "s c 0 8 64 16 0 2 force 1"],
  ])("%s", (line, printed) => {
    expect(assocCache.print(parse(line)).join(" ")).toBe(printed);
    expect(parse(printed)).toEqual(parse(line));
  });

  it.each([
    "s",
    "s c 3",
    "s c 0 0",
    "s c 0 4096",
    "s c 0 8 64 16 2",
    "s c 0 8 64 16 0 2 colour red",
    "s c 0 8 64 16 0 1 force",
    "s c 0 8 64 16 0 2 force 2",
  ])("%s is refused", (line) => {
    expect(() => parse(line)).toThrowError(expect.objectContaining({ code: "EPARSE" }));
  });
});

describe("making a cache", () => {
  it("refuses geometries and devices that do not do", async () => {
    for (const wrong of [
      { cache_size: 63 },
      { block_size: 3 },
      { associativity: 128 },
      { cache_size: 65_536, associativity: 16 },
      { source_uuid: "nonsense" },
      { format: "v1", policy: "write-back" },
    ]) {
      await expect(rig().open(wrong)).rejects.toMatchObject({ code: "EINVAL" });
    }
  });

  it("refuses a device whose cache holds dirty blocks, unless forced", async () => {
    const { open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    // Left behind, as after a crash.
    await expect(open()).rejects.toMatchObject({ code: "EBUSY" });
    const again = await open({ force: true });
    expect(figures(again)["dirty"]).toBe("0");
    await again.close();
    await (await open()).close();
  });

  it("goes on with the cache there is, or makes one on a blank device, with persistence 2", async () => {
    const { cache, open } = rig(WB);
    const device = await open({ persistence: 2 });
    await device.write(0, block(1));
    await device.flush();
    // Left behind, as after a crash.
    const again = await open({ persistence: 2 });
    expect(figures(again)["dirty"]).toBe("1");
    await again.close();
    await cache.write(0, block(7));
    await cache.write(cache.size - 4096, block(7));
    await expect(open({ persistence: 2 })).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it("does not bring back old entries when it is interrupted", async () => {
    const { cache, open } = rig(WB);
    const device = await open();
    await device.write(0, block(1));
    await device.close();
    // The superblocks are gone, and then the power is.
    await beginFormat(cache.lower);
    await cache.lower.write(cache.size - 512, block(0, 1));
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    const again = await open();
    expect(figures(again)["used"]).toBe("0");
    await again.close();
  });
});

describe("loading a cache", () => {
  it("is warm after a clean shutdown, and the stored configuration wins", async () => {
    const { source, open } = rig({ associativity: 64 });
    const device = await open();
    const work = async (cache: BlockDevice): Promise<void> => {
      for (let index = 0; index < 60; index += 1) await readSectors(cache, index * 8);
      await settled();
    };
    await work(device);
    await device.close();
    source.counts.read = 0;
    const again = await open({
      persistence: 1,
      block_size: 64,
      cache_size: 4,
      associativity: 1,
      write_policy: 1,
    });
    // The witness; as small a source as this is read whole for it.
    expect(source.counts.read).toBe(1);
    await work(again);
    expect(source.counts.read).toBe(1);
    expect(figures(again)).toMatchObject({
      read_hits: "60",
      read_misses: "0",
      policy: "write-through",
      frames: "64",
    });
    await again.close();
  });

  it("keeps every dirty block after a crash, and nothing else", async () => {
    const { open } = rig(WB);
    const device = await open();
    await readSectors(device, 800);
    for (let index = 0; index < 10; index += 1) await device.write(index * 4096, block(index + 1));
    await device.flush();
    const again = await open({ persistence: 1 });
    expect(figures(again)).toMatchObject({ dirty: "10", used: "10" });
    for (let index = 0; index < 10; index += 1) {
      expect(await readSectors(again, index * 8)).toEqual(block(index + 1));
    }
    await again.close();
  });

  it("refuses another source", async () => {
    const { source, open } = rig({ source_uuid: "00112233-4455-6677-8899-aabbccddeeff" });
    await (await open()).close();
    const other = { persistence: 1, source_uuid: "10112233-4455-6677-8899-aabbccddeeff" };
    await expect(open(other)).rejects.toMatchObject({ code: "EINVAL" });
    await (await open({ persistence: 1 })).close();
    // Changed behind the cache's back, at a place that is looked at.
    await source.lower.write(0, block(77));
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EINVAL" });
    const forced = await open({ persistence: 1, force: true });
    expect(figures(forced)["used"]).toBe("0");
    expect(await readSectors(forced, 0)).toEqual(block(77));
    await forced.close();
  });

  it("refuses a source of another length", async () => {
    const { source, cache, open } = rig();
    const crashed = await open();
    const shorter = openOn(source, cache, { persistence: 1 }, realEnvironment, { size: source.size - 4096 });
    await expect(shorter).rejects.toMatchObject({ code: "EINVAL" });
    await crashed.close();
  });

  it("opens with one superblock damaged, not with both", async () => {
    const { cache, open } = rig();
    await (await open()).close();
    await cache.lower.write(0, block(0xff, 1));
    await (await open({ persistence: 1 })).close();
    await cache.lower.write(cache.size - 512, block(0xff, 1));
    await (await open({ persistence: 1 })).close();
    await cache.lower.write(0, block(0xff, 1));
    await cache.lower.write(cache.size - 512, block(0xff, 1));
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it("is not made over damaged entries that may be dirty, and passes over them if none was", async () => {
    const { cache, open } = rig({ ...WB, associativity: 64 });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    const sector = Buffer.alloc(512);
    await cache.lower.read(8 * 512, sector);
    await cache.lower.write(8 * 512, block(0x55, 1));
    await expect(open()).rejects.toMatchObject({ code: "EBUSY" });
    await cache.lower.write(8 * 512, sector);
    await (await open({ persistence: 1 })).close();
    await cache.lower.write(8 * 512, block(0x55, 1));
    const again = await open({ persistence: 1 });
    expect(figures(again)["used"]).toBe("0");
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.close();
  });

  it("does not refuse, after a crash, what it passed over when nothing was dirty", async () => {
    const { cache, open } = rig({ ...WB, cache_size: 128, associativity: 128 });
    const device = await open();
    for (let index = 0; index < 80; index += 1) await device.write(index * 4096, block(index + 1));
    await device.close();
    await cache.lower.write(9 * 512, block(0x55, 1));
    const again = await open({ persistence: 1 });
    await again.write(0, block(200));
    await again.flush();
    // Left behind, as after a crash: only dirty entries count.
    const recovered = await open({ persistence: 1 });
    expect(figures(recovered)["dirty"]).toBe("1");
    expect(await readSectors(recovered, 0)).toEqual(block(200));
    await recovered.close();
  });
});

/** A historical cache by hand: 64 frames of 8 sectors, 16 ways; table of one sector before the last sector. */
async function historical(
  cache: BlockDevice,
  entries: Readonly<Record<number, number>>,
  change: (configuration: Buffer, table: Buffer) => void = () => {},
): Promise<void> {
  const table = Buffer.alloc(512);
  for (const [frame, sector] of Object.entries(entries))
    table.writeBigUInt64LE(BigInt(sector), Number(frame) * 8);
  let sum = 0;
  for (let at = 0; at < 512; at += 2) sum += table.readUInt16LE(at);
  const configuration = Buffer.alloc(512, 0xcc);
  configuration.writeBigUInt64LE(64n, 0);
  configuration.writeUInt32LE(8, 8);
  configuration.writeUInt32LE(16, 12);
  configuration.writeUInt32LE(1, 16);
  // In pieces the sum comes out in any way that folds alike: here with 0xFFFF more.
  configuration.writeUInt32LE(sum + 0xffff, 20);
  change(configuration, table);
  await cache.write(cache.size - 1024, table);
  await cache.write(cache.size - 512, configuration);
}

describe("historical metadata", () => {
  // v = sector >> 7; sector 8 and 16 have v = 0: set 0; sector 128 has v = 1: 0x9e37… → top 6 bits 39 → set 2.
  const entries = { 0: 8, 5: 16, 32: 128 };

  it("is loaded, used write-through, and not valid while it is in use", async () => {
    const { source, cache, open } = rig();
    await historical(cache.lower, entries);
    await cache.lower.write(5 * 4096, block(16));
    await cache.lower.write(32 * 4096, block(128));
    const device = await open({ persistence: 1 });
    expect(figures(device)).toMatchObject({ metadata: "v1", used: "3", policy: "write-through" });
    const configuration = Buffer.alloc(512);
    await cache.lower.read(cache.size - 512, configuration);
    // Zeroes, but for the mark where the original has nothing.
    expect(configuration.toString("latin1", 24, 32)).toBe("dmkit v1");
    expect(configuration.fill(0, 24, 32)).toEqual(Buffer.alloc(512));
    expect(await readSectors(device, 16)).toEqual(block(16));
    expect(await readSectors(device, 128)).toEqual(block(128));
    expect(source.counts.read).toBe(0);
    await expect(device.message(["policy", "write-back"])).rejects.toMatchObject({ code: "EINVAL" });
    // Block 0 cannot be remembered.
    await readSectors(device, 0);
    await settled();
    expect(figures(device)["used"]).toBe("3");
    await device.write(8 * 512, block(1));
    await device.close();
    await cache.lower.read(cache.size - 512, configuration);
    expect(configuration.subarray(0, 20).toString("hex")).toBe("4000000000000000080000001000000000000000");
    const again = await open({ persistence: 1 });
    expect(figures(again)).toMatchObject({ metadata: "v1", used: "2" });
    expect(await readSectors(again, 8)).toEqual(block(1));
    await again.close();
  });

  it("counts for nothing after a crash", async () => {
    const { cache, open } = rig();
    await historical(cache.lower, entries);
    await open({ persistence: 1 });
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it.each<[string, Readonly<Record<number, number>>, ((configuration: Buffer, table: Buffer) => void)?]>([
    ["a wrong checksum", entries, (_, table) => table.writeUInt8(1, 300)],
    ["a configuration of zeroes", {}, (configuration) => configuration.fill(0)],
    ["a cache that does not fit", entries, (configuration) => configuration.writeUInt32LE(512, 8)],
    ["an unknown policy", entries, (configuration) => configuration.writeUInt32LE(2, 16)],
    ["a block in a wrong set", { 1: 128 }],
    ["a block twice", { 0: 8, 1: 8 }],
    ["a sector that is no block's first", { 0: 9 }],
    ["a block outside of the source", { 0: 2 ** 40 }],
    [
      "a sector number out of range",
      entries,
      (configuration, table) => {
        table.fill(0);
        table.writeBigUInt64LE(2n ** 63n, 0);
        configuration.writeUInt32LE(0x8000, 20);
      },
    ],
  ])("is refused with %s", async (_, table, change) => {
    const { cache, open } = rig();
    await historical(cache.lower, table, change);
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it("sums up the slack of the table too, whatever is in it", async () => {
    const { cache, open } = rig();
    const change = (slack: number) => (configuration: Buffer, table: Buffer) => {
      configuration.writeBigUInt64LE(16n, 0);
      table.fill(0x5a, 16 * 8);
      let sum = 0;
      for (let at = 0; at < slack; at += 2) sum += table.readUInt16LE(at);
      configuration.writeUInt32LE(sum, 20);
    };
    await historical(cache.lower, { 0: 8, 5: 16 }, change(16 * 8));
    await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
    await historical(cache.lower, { 0: 8, 5: 16 }, change(512));
    const device = await open({ persistence: 1 });
    expect(figures(device)).toMatchObject({ metadata: "v1", used: "2", frames: "16" });
    await device.close();
  });

  it("is not seen in a device full of zeroes", async () => {
    await expect(rig().open({ persistence: 1 })).rejects.toMatchObject({ code: "EFORMAT" });
  });

  it("is written on request", async () => {
    const { open, ...devices } = rig({ format: "v1", associativity: 64 });
    const device = await open();
    await readSectors(device, 0);
    // Enough of them, and far enough back, that their sum needs more than 16 bits.
    for (let index = 187; index < 249; index += 1) await readSectors(device, index * 8);
    await settled();
    await device.close();
    const { cache } = devices;
    const sectors = await contentsOf(cache.lower);
    // All 32 bits, which the original compares.
    expect(sectors.readUInt32LE(sectors.length - 512 + 20)).toBe(kernelSum(sectors.subarray(-1024, -512)));
    const dumped: unknown = JSON.parse(JSON.stringify(await dump(cache.lower)));
    await cache.lower.write(cache.size - 1024, block(0, 2));
    await restore(cache.lower, dumped);
    expect((await contentsOf(cache.lower)).equals(sectors)).toBe(true);
    const again = await open({ persistence: 1 });
    expect(figures(again)).toMatchObject({ metadata: "v1", used: "62" });
    await again.close();
  });

  it("is checked for a checksum that the original would refuse, which repair completes", async () => {
    const { cache, open } = rig();
    await historical(cache.lower, entries);
    const found: Problem[] = [];
    for await (const problem of check(cache.lower)) found.push(problem);
    expect(found).toMatchObject([{ kind: "checksum-folded", severity: "warning", offset: cache.size - 512 }]);
    expect(await repair(cache.lower)).toMatchObject({ repaired: [{ kind: "checksum-folded" }], left: [] });
    const sectors = await contentsOf(cache.lower);
    expect(sectors.readUInt32LE(sectors.length - 512 + 20)).toBe(kernelSum(sectors.subarray(-1024, -512)));
    expect(await repair(cache.lower)).toEqual({ repaired: [], left: [] });
    await (await open({ persistence: 1 })).close();
  });
});
