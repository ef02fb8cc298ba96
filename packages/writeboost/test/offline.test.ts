/** Check, replay, and views of the past, on devices that nobody serves. */
import { type BlockDevice, BlockIoError, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { openAt, openWriteboost, replay, viewRange, writeboostImages } from "../src/index.ts";
import { check } from "./support/check.ts";

const MIB = 1024 * 1024;
const SLOT = 8192;

/** A log of segments of one block each, and the contents of the first 32 KiB after each of them. */
async function history(segments: number, slots = 12) {
  const backing = new MemoryDevice(MIB);
  const cache = new MemoryDevice(MIB + slots * SLOT);
  const device = await openWriteboost({ backing, cache, plog: undefined }, { order: 4 });
  const random = new SeededRandom(11);
  const past: Buffer[] = [Buffer.alloc(32_768)];
  for (let id = 1; id <= segments; id += 1) {
    const now = Buffer.from(past.at(-1) as Buffer);
    const sector = random.below(64);
    const count = 1 + random.below(Math.min(8 - (sector % 8), 8));
    now.fill(id, sector * 512, (sector + count) * 512);
    await device.write(sector * 512, now.subarray(sector * 512, (sector + count) * 512));
    await device.flush();
    past.push(now);
  }
  await device.close();
  return { backing, cache, past };
}

/** The contents after segment `id`. */
function after(past: readonly Buffer[], id: number): Buffer {
  const found = past.at(id);
  if (found === undefined) throw new RangeError(`there is no segment ${id}`);
  return found;
}

async function contents(device: { read(offset: number, into: Buffer): Promise<void> }): Promise<Buffer> {
  const into = Buffer.alloc(32_768);
  await device.read(0, into);
  return into;
}

const factsOf = (cache: BlockDevice, backing: BlockDevice): Promise<object> | undefined =>
  writeboostImages.info?.({ cache, backing }, { environment: realEnvironment });

describe("check", () => {
  it("finds nothing wrong with a device in order, and writes nothing", async () => {
    const { backing, cache } = await history(10);
    const before = Buffer.alloc(cache.size);
    await cache.read(0, before);
    expect(await check(cache, backing)).toEqual([]);
    expect(await factsOf(cache, backing)).toMatchObject({
      first_segment: 1,
      last_segment: 10,
      last_segment_written_back: 0,
    });
    const now = Buffer.alloc(cache.size);
    await cache.read(0, now);
    expect(now.equals(before)).toBe(true);
  });

  it.each([
    ["a flipped bit in data", 4 * SLOT + 4096, ["rot"]],
    ["a flipped bit in a metablock's sector", 4 * SLOT + 512, ["damage", "metadata"]],
    ["a flipped bit in an id", 4 * SLOT, ["damage", "metadata"]],
    ["a flipped bit in a length", 4 * SLOT + 12, ["damage", "metadata"]],
  ])("finds %s", async (_name, at, kinds) => {
    const { backing, cache } = await history(10);
    const sector = Buffer.alloc(512);
    const start = MIB + Math.floor(at / 512) * 512;
    await cache.read(start, sector);
    sector[at % 512] = (sector[at % 512] ?? 0) ^ 0x81;
    await cache.write(start, sector);
    const problems = await check(cache, backing);
    const found = problems.map((problem) => problem.kind);
    expect(found).toEqual(expect.arrayContaining(kinds));
    expect(found.includes("damage")).toBe(kinds.includes("damage"));
  });
});

describe("replay", () => {
  it("brings everything to the backing device and leaves the cache clean", async () => {
    const { backing, cache, past } = await history(10);
    expect(await replay(cache, backing)).toBe(10);
    expect((await contents(backing)).equals(after(past, 10))).toBe(true);
    expect(await factsOf(cache, backing)).toMatchObject({ dirty_blocks: 0, last_segment_written_back: 10 });
    expect(await replay(cache, backing)).toBe(10);
  });

  it("stops where it is told to, and can go on later", async () => {
    const { backing, cache, past } = await history(10);
    expect(await replay(cache, backing, { until: 4 })).toBe(4);
    expect((await contents(backing)).equals(after(past, 4))).toBe(true);
    expect(await replay(cache, backing)).toBe(10);
    expect((await contents(backing)).equals(after(past, 10))).toBe(true);
  });
});

describe("replay of a damaged log", () => {
  async function damaged(id: number, at: number, segments = 10) {
    const made = await history(segments);
    const sector = Buffer.alloc(512);
    const start = MIB + (id - 1) * SLOT + at;
    await made.cache.read(start, sector);
    sector.writeUInt8(sector.readUInt8(0) ^ 0x81, 0);
    await made.cache.write(start, sector);
    return made;
  }

  async function hintOf(cache: MemoryDevice, backing: MemoryDevice): Promise<string> {
    const error: unknown = await replay(cache, backing).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BlockIoError);
    return (error as BlockIoError).hint ?? "";
  }

  it("names the last segment before the damage, and replays up to there", async () => {
    for (const [id, at] of [
      [5, 4096],
      [5, 0],
      [10, 0],
    ] as const) {
      const { backing, cache, past } = await damaged(id, at);
      expect(await hintOf(cache, backing)).toMatch(new RegExp(`--until ${id - 1}$`));
      expect(await replay(cache, backing, { until: id - 1 })).toBe(id - 1);
      expect((await contents(backing)).equals(after(past, id - 1))).toBe(true);
    }
  });

  it("names none where there is none, or what came before is not whole", async () => {
    for (const [id, at] of [
      [1, 4096],
      [2, 0],
    ] as const) {
      const { backing, cache } = await damaged(id, at);
      expect(await hintOf(cache, backing)).not.toMatch(/until/);
    }
  });
});

describe("views of the past", () => {
  it("show the device after each segment, and touch nothing", async () => {
    const { backing, cache, past } = await history(10);
    const devices = { backing, cache };
    expect(await viewRange(devices)).toEqual({ firstId: 0, lastId: 10 });
    for (let id = 0; id <= 10; id += 1) {
      const view = await openAt(devices, id);
      expect((await contents(view)).equals(after(past, id))).toBe(true);
      await expect(view.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EROFS" });
      await view.close();
    }
    await expect(openAt(devices, 11)).rejects.toMatchObject({ code: "EINVAL" });
  });

  it("refuse what the ring has forgotten", async () => {
    const { backing, cache, past } = await history(30);
    const { firstId, lastId } = await viewRange({ backing, cache });
    expect(lastId).toBe(30);
    expect(firstId).toBeGreaterThanOrEqual(18);
    const view = await openAt({ backing, cache }, 25);
    expect((await contents(view)).equals(after(past, 25))).toBe(true);
    await expect(openAt({ backing, cache }, firstId - 1)).rejects.toMatchObject({ code: "EINVAL" });
  });
});
