/** Sources that were changed behind the cache's back, and devices that are longer or shorter than they were. */
import { type BlockDevice, type BlockIoError, MemoryDevice, crc32c, realEnvironment } from "@dmkit/block-io";
import { contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { assocCacheImages, check, dump, repair, restore, writeDirty } from "../src/index.ts";
import { type Rig, Tapped, block, figures, readSectors, rig } from "./support/rig.ts";
import { openOn } from "../src/testing/sim-targets.ts";

const MIB = 1024 * 1024;
const WB = { policy: "write-back", high_watermark: 100, low_watermark: 100 };
const SUPERBLOCK = MIB + 1024;

/** A superblock of ext4: all that matters is that it ends with its own CRC-32C. */
function ext4(mountCount: number): Buffer {
  const superblock = Buffer.alloc(1024);
  superblock.writeUInt16LE(0xef53, 56);
  superblock.writeUInt16LE(mountCount, 52);
  superblock.writeUInt32LE(~crc32c(superblock.subarray(0, 1020)) >>> 0, 1020);
  return superblock;
}

/** A disk of 8 MiB with a file system at 1 MiB, and blocks in a cache over it. */
async function pair(): Promise<Rig> {
  const made = rig(WB, 16 * 1024);
  await made.source.lower.write(SUPERBLOCK, ext4(1));
  const device = await made.open();
  await readSectors(device, SUPERBLOCK / 512);
  for (let index = 0; index < 4; index += 1) await device.write((900 + index) * 4096, block(index + 1));
  await device.close();
  return made;
}

async function problemsOf(cache: BlockDevice, source?: BlockDevice): Promise<string[]> {
  const kinds: string[] = [];
  for await (const { kind } of check(cache, source)) kinds.push(kind);
  return kinds;
}

/** What was cached of a device that is another one now, with other bytes behind the end. */
async function resized(rigged: Rig, bytes: number, behind = 0): Promise<Rig> {
  const old = await contentsOf(rigged.cache.lower);
  const longer = Buffer.alloc(bytes, behind);
  old.copy(longer);
  const cache = new Tapped(new MemoryDevice(bytes), "cache");
  await cache.lower.write(0, longer);
  const open: Rig["open"] = (values = {}) =>
    openOn(rigged.source, cache, { persistence: 1, age_limit: 0, ...values }, realEnvironment);
  return { source: rigged.source, cache, open };
}

describe("a source that has another size than the cache was made for", () => {
  it("is refused with what to do: the size that the cache has", async () => {
    const { source, cache } = await pair();
    const grown = new Tapped(new MemoryDevice(2 * source.size), "source");
    await expect(openOn(grown, cache, { persistence: 1 }, realEnvironment)).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining(`size: ${source.size}`),
    });
  });
});

describe("a source that was changed behind a cleanly closed cache", () => {
  it("is refused by opening and by writing back, and told nothing but that; the check finds it", async () => {
    const { source, cache, open } = await pair();
    await source.lower.write(SUPERBLOCK, ext4(2));
    const before = await contentsOf(cache.lower);
    for (const use of [
      (): Promise<unknown> => open({ persistence: 1 }),
      (): Promise<unknown> => writeDirty(source.lower, cache.lower),
    ]) {
      const error: unknown = await use().catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "EINVAL" });
      const { message, hint = "" } = error as BlockIoError;
      expect(message).toMatch(/UUID [0-9a-f-]{36}.*witness [0-9a-f]{16}.*[0-9a-f]{16}/);
      expect(hint).not.toMatch(/until|damage/i);
    }
    expect((await contentsOf(cache.lower)).equals(before)).toBe(true);
    expect(await problemsOf(cache.lower, source.lower)).toEqual(["source", "clean-differs"]);
    // By force, without what was clean.
    const device = await open({ persistence: 1, force: true });
    expect(figures(device)["used"]).toBe("0");
    expect((await readSectors(device, SUPERBLOCK / 512, 2)).equals(ext4(2))).toBe(true);
    await device.close();
    await (await open({ persistence: 1 })).close();
  });

  it("is recognised in another place, and when it has become larger", async () => {
    const { source, cache } = await pair();
    const larger = new MemoryDevice(12 * MIB);
    await larger.write(0, await contentsOf(source.lower));
    const copy = new MemoryDevice(MIB);
    await copy.write(0, await contentsOf(cache.lower));
    expect(await problemsOf(copy, larger)).toEqual([]);
    expect(await writeDirty(larger, copy)).toBe(0);
  });

  it.each(["write-through", "write-around", "write-back"])(
    "is not one whose last write failed: what that left is flushed before it counts: %s",
    async (policy) => {
      const { source, open } = rig({ policy, high_watermark: 0, low_watermark: 0 });
      const device = await open();
      await device.flush();
      source.failsWrites = true;
      const { flush } = source.counts;
      if (policy === "write-back") {
        await device.write(0, block(1));
        await expect(device.message(["clean"])).rejects.toMatchObject({ code: "EIO" });
        expect(source.counts.flush).toBe(flush + 1);
        source.failsWrites = false;
        await device.close();
      } else {
        await expect(device.write(0, block(1))).rejects.toMatchObject({ code: "EIO" });
        await device.close();
        expect(source.counts.flush).toBe(flush + 1);
      }
    },
  );

  it("is still told by the fingerprint of caches that were closed before there was a witness", async () => {
    for (const changed of [false, true]) {
      const { source, cache, open } = await pair();
      const disk = await contentsOf(source.lower);
      let fingerprint = 0;
      for (let sample = 0; sample < 16; sample += 1) {
        const at = Math.floor(((disk.length / 512 - 1) * sample) / 15) * 512;
        fingerprint = crc32c(disk.subarray(at, at + 512), fingerprint);
      }
      for (const at of [0, cache.size - 512]) {
        const sector = Buffer.alloc(512);
        await cache.lower.read(at, sector);
        sector.writeUInt32LE((sector.readUInt32LE(12) & ~8) | 4, 12);
        sector.writeUInt32LE(fingerprint, 120);
        sector.fill(0, 124, 508);
        sector.writeUInt32LE(crc32c(sector.subarray(0, 508)), 508);
        await cache.lower.write(at, sector);
      }
      if (changed) await source.lower.write(0, block(9, 1));
      if (changed) await expect(open({ persistence: 1 })).rejects.toMatchObject({ code: "EINVAL" });
      else await (await open({ persistence: 1 })).close();
    }
  });
});

describe("a cache device that was made larger", () => {
  it("opens after a crash with all that is dirty, and goes on", async () => {
    const made = rig(WB);
    const device = await made.open();
    for (let index = 0; index < 10; index += 1) await device.write(index * 4096, block(index + 1));
    await device.flush();
    // Left behind, as after a crash. What is behind the end is not the cache's.
    const grown = await resized(made, 2 * MIB, 0xee);
    expect((await assocCacheImages.detect(grown.cache.lower))?.certainty).toBe("magic");
    expect(await problemsOf(grown.cache.lower)).toEqual([]);
    const again = await grown.open();
    expect(figures(again)["dirty"]).toBe("10");
    for (let index = 0; index < 10; index += 1) {
      expect(await readSectors(again, index * 8)).toEqual(block(index + 1));
    }
    await again.write(50 * 4096, block(50));
    await again.close();
    expect(await problemsOf(grown.cache.lower, made.source.lower)).toEqual([]);
    const once = await grown.open();
    expect(await readSectors(once, 50 * 8)).toEqual(block(50));
    await once.close();
    const bytes = await contentsOf(grown.cache.lower);
    expect(bytes.subarray(MIB).equals(Buffer.alloc(MIB, 0xee))).toBe(true);
    await device.close();
  });

  it("is repaired, dumped and restored as it was", async () => {
    const grown = await resized(await pair(), 2 * MIB);
    await grown.cache.lower.write(MIB - 512, block(7, 1));
    expect(await problemsOf(grown.cache.lower)).toEqual(["superblock"]);
    expect((await repair(grown.cache.lower)).left).toEqual([]);
    expect(await problemsOf(grown.cache.lower)).toEqual([]);
    const before = await contentsOf(grown.cache.lower);
    const dumped = JSON.parse(JSON.stringify(await dump(grown.cache.lower))) as unknown;
    await grown.cache.lower.write(0, block(7, 1));
    await restore(grown.cache.lower, dumped);
    expect((await contentsOf(grown.cache.lower)).equals(before)).toBe(true);
  });

  it("is refused where the copy that says so is lost, and holds nothing of the old once it is made anew", async () => {
    const made = await pair();
    const grown = await resized(made, 2 * MIB);
    const lost = await resized(made, 2 * MIB);
    await lost.cache.lower.write(0, block(7, 1));
    await expect(lost.open()).rejects.toMatchObject({ code: "EFORMAT" });
    await (await grown.open({ persistence: 0, cache_size: 128, associativity: 16, block_size: 8 })).close();
    const sector = Buffer.alloc(512);
    await grown.cache.lower.read(MIB - 512, sector);
    expect(sector.subarray(0, 8).toString()).not.toBe("DMKASSOC");
    // Without the first copy the second one is where it belongs: in the last sector of the device.
    await grown.cache.lower.write(0, block(7, 1));
    const device = await grown.open();
    expect(figures(device)["frames"]).toBe("128");
    await device.close();
  });

  it("is refused when it was cut short", async () => {
    const made = await pair();
    const bytes = (await contentsOf(made.cache.lower)).subarray(0, MIB / 2);
    const short = new MemoryDevice(MIB / 2);
    await short.write(0, bytes);
    await expect(openOn(made.source, short, { persistence: 1 }, realEnvironment)).rejects.toMatchObject({
      code: "EFORMAT",
    });
  });
});
