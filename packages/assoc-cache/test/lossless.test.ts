/** Flushes of a device below that fail without losing anything: the next one covers what they did not. */
import { realEnvironment } from "@dmkit/block-io";
import { PowerCut, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { AssocCacheDevice } from "../src/index.ts";
import { facts, states } from "../src/core/frame-table.ts";
import { openOn } from "../src/testing/sim-targets.ts";
import { Tapped, block, figures, readSectors, rig } from "./support/rig.ts";

const OPTIONS = {
  policy: "write-back",
  block_size: 8,
  cache_size: 16,
  associativity: 4,
  sequential_cutoff: 0,
  age_limit: 0,
};
const LOSSLESS = { code: "ENOSPC", lossless: true };

/** A cache over disks whose power can be cut, and what it is after that. */
interface Cutting {
  readonly source: Tapped;
  readonly cache: Tapped;
  readonly open: () => Promise<AssocCacheDevice>;
  readonly afterCrash: (random: SeededRandom) => Promise<AssocCacheDevice>;
}

function cutting(): Cutting {
  const disks = [new PowerCut(Buffer.alloc(24 * 4096), 0), new PowerCut(Buffer.alloc(2 ** 18), 0)] as const;
  const source = new Tapped(disks[0], "source");
  const cache = new Tapped(disks[1], "cache");
  for (const device of [source, cache]) Object.assign(device, LOSSLESS);
  return {
    source,
    cache,
    open: () => openOn(source, cache, OPTIONS, realEnvironment),
    afterCrash: (random) =>
      openOn(
        disks[0].survivor(random),
        disks[1].survivor(random),
        { ...OPTIONS, persistence: 1 },
        realEnvironment,
      ),
  };
}

/** Whether block 0 is full of `fill` after any crash. */
async function survives(afterCrash: Cutting["afterCrash"], fill: number): Promise<void> {
  const random = new SeededRandom(fill);
  for (let cut = 0; cut < 10; cut += 1) {
    const again = await afterCrash(random);
    expect(await readSectors(again, 0)).toEqual(block(fill));
    await again.close();
  }
}

describe("a flush that failed and lost nothing", () => {
  it.each(["source", "cache"] as const)("is passed on, and the next one succeeds: %s", async (which) => {
    const devices = rig({ policy: "write-back" });
    const device = await devices.open();
    await device.write(0, block(1));
    await device.flush();
    await device.write(8 * 512, block(2));
    Object.assign(devices[which], { ...LOSSLESS, failsFlushes: true });
    await expect(device.message(["clean"])).rejects.toMatchObject(LOSSLESS);
    const { frames } = device.state;
    const all = Array.from({ length: frames.geometry.frames }, (_, frame) => frame);
    // What was copied before the flush is still to be copied, where anybody looks for it.
    expect(all.filter((frame) => frames.stateOf(frame) === states.written)).toEqual([]);
    await device.write(16 * 512, block(3));
    await expect(device.flush()).rejects.toMatchObject(LOSSLESS);
    devices[which].failsFlushes = false;
    expect([device.health().state, figures(device)["health"]]).toEqual(["ok", "ok"]);
    await device.flush();
    await device.message(["clean"]);
    expect(figures(device)).toMatchObject({ dirty: "0", needs_check: "0" });
    expect(all.filter((frame) => frames.has(frame, facts.held))).toEqual([]);
    await device.close();
    for (const at of [0, 1, 2])
      expect(await readSectors(devices.source.lower, at * 8)).toEqual(block(at + 1));
  });

  it("covers what was overwritten in place as well", async () => {
    const { cache, open, afterCrash } = cutting();
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    await device.write(0, block(2));
    cache.failsFlushes = true;
    await expect(device.flush()).rejects.toMatchObject(LOSSLESS);
    cache.failsFlushes = false;
    await device.flush();
    await survives(afterCrash, 2);
  });

  // Of the data; of the entries, after that of the data.
  it.each([1, 2])("is made good for by the next one: flush %i of a commit", async (nth) => {
    const { cache, open, afterCrash } = cutting();
    const device = await open();
    await device.write(0, block(1));
    let flushes = 0;
    cache.failsFlushes = () => (flushes += 1) === nth;
    await expect(device.flush()).rejects.toMatchObject(LOSSLESS);
    await device.flush();
    await survives(afterCrash, 1);
  });

  it("leaves a debt if the cache device is lost after it", async () => {
    const { cache, open } = cutting();
    const device = await open();
    await device.write(0, block(1));
    let flushes = 0;
    cache.failsFlushes = () => (flushes += 1) === 2;
    await expect(device.flush()).rejects.toMatchObject(LOSSLESS);
    device.state.cacheFailed(new Error("gone"));
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO", lossless: false });
  });

  it("loses nothing that a later one covered, whatever else happens", async () => {
    const seed = Date.now() % 1e9;
    const random = new SeededRandom(seed);
    for (let round = 0; round < 20; round += 1) await once(random, `seed ${seed}, round ${round}`);
  });
});

/** Random requests, flushes and entries that fail for want of space, and a power cut. */
async function once(random: SeededRandom, run: string): Promise<void> {
  const { source, cache, open, afterCrash } = cutting();
  const device = await open();
  const dataStart = device.state.frameOffset(0);
  const bad = random.below(4) / 8;
  const chance = (): boolean => random.chance(bad);
  Object.assign(source, { failsFlushes: chance });
  Object.assign(cache, { failsFlushes: chance, failsWrites: (at: number) => at < dataStart && chance() });
  // What each block may hold after a crash; the last is what it holds now.
  const may = Array.from({ length: 24 }, () => [0]);
  const settle = (): void => may.forEach((values) => values.splice(0, values.length - 1));
  let fill = 0;
  const write = async (): Promise<void> => {
    const at = random.below(24);
    fill = (fill % 255) + 1;
    const fua = random.chance(0.2);
    may[at]?.push(fill);
    try {
      await device.write(at * 4096, block(fill), { fua });
    } catch (error) {
      // It may be there or not.
      may[at]?.push((await readSectors(device, at * 8))[0] as number);
      throw error;
    }
    if (fua) may[at]?.splice(0, (may[at]?.length ?? 1) - 1);
  };
  for (let step = 0; step < 60; step += 1) {
    const isLossless = (error: unknown): void => expect(error, run).toMatchObject(LOSSLESS);
    const what = random.below(10);
    if (what < 6) await write().catch(isLossless);
    else if (what < 8) await device.flush().then(settle, isLossless);
    else if (what < 9) await device.clean().catch(isLossless);
    else {
      const policy = random.chance(0.5) ? "write-back" : "write-through";
      await device.setPolicy(policy).catch(isLossless);
    }
    expect(device.failure ?? device.state.cacheError, run).toBeUndefined();
  }
  await device.cleaner.pause();
  const again = await afterCrash(random);
  for (const [at, values] of may.entries()) {
    const found = await readSectors(again, at * 8);
    for (let sector = 0; sector < 8; sector += 1)
      expect(values, `${run}, block ${at}`).toContain(found[sector * 512]);
  }
  await again.close();
}
