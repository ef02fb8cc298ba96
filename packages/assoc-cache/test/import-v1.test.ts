/** Historical caches become caches of version 2, whatever interrupts that. */
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { PowerCut, SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { assocCacheImages, check, dump, importV1 } from "../src/index.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { type Shape, historicalCache, putHistorical } from "./support/historical.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1);
const shape: Shape = { frames: 64, blockSectors: 8, ways: 16 };
const SOURCE_SECTORS = 1003;

async function deviceOf(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

const sourceOf = (random: SeededRandom): Buffer => random.fill(Buffer.alloc(SOURCE_SECTORS * 512));

async function problems(cache: MemoryDevice | PowerCut, source?: MemoryDevice): Promise<string[]> {
  const kinds: string[] = [];
  for await (const { kind } of check(cache, source)) kinds.push(kind);
  return kinds;
}

/** Whether the cache, of whatever version, opens and shows the source. */
async function shows(cache: MemoryDevice, source: MemoryDevice): Promise<boolean> {
  const device = await openOn(source, cache, { persistence: 1, sequential_cutoff: 0 }, realEnvironment);
  const shown = await contentsOf(device);
  const again = await contentsOf(device);
  await device.close();
  const wanted = await contentsOf(source);
  return shown.equals(wanted) && again.equals(wanted);
}

describe("importV1", () => {
  it("takes all blocks along where there is room", async () => {
    const random = new SeededRandom(seed);
    const bytes = sourceOf(random);
    const source = await deviceOf(bytes);
    const cache = await deviceOf(historicalCache(random, shape, bytes, 40));
    expect(await problems(cache, source)).toEqual([]);
    const before = await dump(cache);
    const seen: number[] = [];
    const imported = await importV1(cache, source, { progress: (so) => void seen.push(so) });
    expect(imported).toEqual({ blocks: before.entries.length, left: 0, frames: 64 });
    expect(seen.at(-1)).toBe(before.entries.length);
    expect(await problems(cache, source)).toEqual([]);
    const after = await dump(cache);
    if (after.version !== 2) throw new Error("not of version 2");
    const { clean, policy, geometry, sourceSectors } = after.superblock;
    expect({ clean, policy, geometry, sourceSectors }).toEqual({
      clean: true,
      policy: "write-back",
      geometry: shape,
      sourceSectors: SOURCE_SECTORS,
    });
    const blocksOf = ({ entries }: typeof before): number[] =>
      entries.map(({ block }) => block).sort((a, b) => a - b);
    expect(blocksOf(after)).toEqual(blocksOf(before));
    expect(await shows(cache, source)).toBe(true);
    expect(await importV1(cache, source)).toBeUndefined();
  });

  it("halves the cache where the new metadata needs the room, and fetches what the source has now", async () => {
    const random = new SeededRandom(seed);
    const bytes = sourceOf(random);
    const cache = await deviceOf(historicalCache(random, shape, bytes, 0));
    // After a crash of the original the frames are out of date.
    const source = await deviceOf(random.fill(bytes));
    expect(await problems(cache, source)).toContain("clean-differs");
    const imported = await importV1(cache, source);
    expect(imported?.frames).toBe(32);
    expect(await problems(cache, source)).toEqual([]);
    expect(await shows(cache, source)).toBe(true);
  });

  it("knows how much of the source is cached", async () => {
    const random = new SeededRandom(seed);
    const bytes = sourceOf(random);
    const source = await deviceOf(bytes);
    const cache = await deviceOf(historicalCache(random, shape, bytes, 40));
    await expect(importV1(cache, source, { size: source.size + 512 })).rejects.toMatchObject({
      code: "EINVAL",
    });
    await importV1(cache, source, { size: 501 * 512 });
    const device = await openOn(source, cache, { persistence: 1 }, realEnvironment, { size: 501 * 512 });
    expect((await contentsOf(device)).equals(bytes.subarray(0, 501 * 512))).toBe(true);
    await device.close();
  });

  it("leaves out what cannot be a block of this source", async () => {
    const entries = new Map([
      [0, 8],
      [1, 13],
      [2, 8000],
      [3, 8],
    ]);
    const cache = await deviceOf(putHistorical(Buffer.alloc(600 * 512), shape, entries));
    const source = new MemoryDevice(SOURCE_SECTORS * 512);
    expect(await problems(cache, source)).toEqual(["entry-state", "entry-outside", "duplicate"]);
    expect(await importV1(cache, source)).toEqual({ blocks: 1, left: 2, frames: 64 });
    expect(await problems(cache, source)).toEqual([]);
  });

  it("refuses what is no cache, and what is too small, and writes nothing then", async () => {
    const source = new MemoryDevice(SOURCE_SECTORS * 512);
    await expect(importV1(new MemoryDevice(65_536), source)).rejects.toMatchObject({ code: "EFORMAT" });
    const tiny = { frames: 1, blockSectors: 1, ways: 1 };
    const bytes = putHistorical(Buffer.alloc(3 * 512), tiny, new Map());
    const cache = await deviceOf(bytes);
    await expect(importV1(cache, source)).rejects.toMatchObject({ code: "EINVAL" });
    expect((await contentsOf(cache)).equals(bytes)).toBe(true);
    const sound = await deviceOf(putHistorical(Buffer.alloc(600 * 512), shape, new Map()));
    await expect(importV1(sound, source, { sourceUuid: "x" })).rejects.toMatchObject({ code: "EINVAL" });
  });

  it("stops when it is told to, with a sound cache", async () => {
    const random = new SeededRandom(seed);
    const bytes = sourceOf(random);
    const source = await deviceOf(bytes);
    const cache = await deviceOf(historicalCache(random, shape, bytes, 40));
    const abort = new AbortController();
    const stopping = importV1(cache, source, {
      signal: abort.signal,
      progress: () => abort.abort(new Error("enough")),
    });
    await expect(stopping).rejects.toThrowError("enough");
    expect(await problems(cache, source)).toEqual([]);
    expect((await dump(cache)).version).toBe(2);
    expect(await shows(cache, source)).toBe(true);
  });

  it("cut short at any write leaves the old cache or a new one, which shows the source", async () => {
    for (let round = 0; round < 3; round += 1) {
      for (let limit = 1; ; limit += 1) {
        const where = `seed ${seed}, round ${round}, write ${limit}`;
        const random = new SeededRandom(seed * 1000 + round);
        const bytes = sourceOf(random);
        const source = await deviceOf(bytes);
        const before = historicalCache(random, shape, bytes, round % 2 === 0 ? 40 : 0);
        const disk = new PowerCut(before, limit);
        const ended = await importV1(disk, source).then(
          () => true,
          () => false,
        );
        if (ended) break;
        const survivor = disk.survivor(new SeededRandom(seed * 100_000 + round * 1000 + limit));
        const detected = await assocCacheImages.detect(survivor);
        if (detected?.certainty === "plausible") {
          expect((await contentsOf(survivor)).equals(before), where).toBe(true);
        } else {
          expect(detected?.certainty, where).toBe("magic");
          const kinds = new Set(await problems(survivor, source));
          for (const harmless of ["superblock", "entries-damaged"]) kinds.delete(harmless);
          expect([...kinds], where).toEqual([]);
        }
        expect(await shows(survivor, source), where).toBe(true);
      }
    }
  });
});
