/** Repair that is cut short at any write, restoring that is; and images that are damaged in every way. */
import { MemoryDevice } from "@dmkit/block-io";
import { PowerCut, SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { check, dump, repair, restore } from "../src/index.ts";
import { damageOne } from "./support/damage.ts";
import { block, rig } from "./support/rig.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? 1);

async function image(crashed: boolean): Promise<Buffer> {
  const { cache, open } = rig({ policy: "write-back", cache_size: 128, associativity: 128 });
  const device = await open();
  for (let index = 0; index < 30; index += 1) await device.write(index * 4096, block(index + 1));
  await (crashed ? device.flush() : device.close());
  return contentsOf(cache.lower);
}

async function kindsLeft(device: MemoryDevice): Promise<string[]> {
  const kinds: string[] = [];
  for await (const { kind } of check(device)) kinds.push(kind);
  return kinds;
}

async function deviceOf(bytes: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(bytes.length);
  await device.write(0, bytes);
  return device;
}

describe("a crash in the middle", () => {
  it("of a repair: a second repair ends where the first would have", async () => {
    const images = [await image(true), await image(false)] as const;
    for (let round = 0; round < 60; round += 1) {
      const random = new SeededRandom(seed * 1000 + round);
      const damaged = await deviceOf(images[round % 2] as Buffer);
      for (let count = 0; count <= random.below(4); count += 1) await damageOne(damaged, random);
      const before = await contentsOf(damaged);
      const whole = await deviceOf(before);
      const { left } = await repair(whole);
      for (let limit = 1; ; limit += 1) {
        const disk = new PowerCut(before, limit);
        const ended = await repair(disk).then(
          () => true,
          () => false,
        );
        if (ended) break;
        const survivor = disk.survivor(random);
        await repair(survivor);
        const where = `seed ${seed}, round ${round}, write ${limit}`;
        expect(await kindsLeft(survivor), where).toEqual(left.map(({ kind }) => kind));
        expect((await repair(survivor)).repaired, where).toEqual([]);
        expect(await entriesOf(survivor), where).toEqual(await entriesOf(whole));
      }
    }
  });

  it("of restoring: no cache, or the one that was to be", async () => {
    const bytes = await image(true);
    const dumped = await dump(await deviceOf(bytes));
    for (let limit = 1; ; limit += 1) {
      const random = new SeededRandom(seed * 1000 + limit);
      const disk = new PowerCut(await image(false), limit);
      const ended = await restore(disk, dumped).then(
        () => true,
        () => false,
      );
      if (ended) break;
      const survivor = disk.survivor(random);
      const now = await dump(survivor).catch(({ code }: { code: string }) => code);
      if (now !== "EFORMAT" && limit > 2) expect(now, `seed ${seed}, write ${limit}`).toEqual(dumped);
      await restore(survivor, dumped);
      expect(await dump(survivor)).toEqual(dumped);
    }
  });
});

/** Undefined where damage is left. */
async function entriesOf(device: MemoryDevice): Promise<unknown> {
  return dump(device).then(
    ({ entries }) => entries,
    () => undefined,
  );
}
