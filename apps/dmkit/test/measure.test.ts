/** What a device holds: against a look at all of its bytes, and what it would take, as a user is told. */
import { createHash } from "node:crypto";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MemoryDevice, plainFootprint, realEnvironment } from "@dmkit/block-io";
import fc from "fast-check";
import { expect, it } from "vitest";
import { Distinct } from "../src/measure/distinct.ts";
import { EvenSample } from "../src/measure/even-sample.ts";
import { type Measured, measure } from "../src/measure/measure.ts";
import { scan } from "../src/measure/scan.ts";
import { cli } from "./cli.ts";
import { complaints, tempFolder } from "./support.ts";

const SECTOR = 512;
const BLOCK = 4096;
const UNIT = 16 * BLOCK;

it("counts holes, zeroes and equal blocks as a look at all bytes does", async () => {
  const write = fc.record({
    sector: fc.nat(6000),
    sectors: fc.integer({ min: 1, max: 300 }),
    fill: fc.constantFrom(0, 0, 1, 2),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 6000 }),
      fc.array(write, { maxLength: 6 }),
      async (sectors, writes) => {
        const device = new MemoryDevice(sectors * SECTOR);
        for (const { sector, sectors: count, fill } of writes) {
          const length = Math.min(count, sectors - sector) * SECTOR;
          if (length > 0) await device.write(sector * SECTOR, Buffer.alloc(length, fill));
        }
        const bytes = Buffer.alloc(device.size);
        await device.read(0, bytes);
        const touched = new Set<number>();
        for await (const { offset, length, kind } of device.extents(0, device.size)) {
          if (kind !== "data") continue;
          for (let at = offset; at < offset + length; at += SECTOR) touched.add(at - (at % BLOCK));
        }
        let [holes, zeroes, data] = [0, 0, 0];
        const [hashes, places] = [[] as string[], [] as number[]];
        for (let at = 0; at < bytes.length; at += BLOCK) {
          const block = bytes.subarray(at, at + BLOCK);
          if (!touched.has(at)) holes += block.length;
          else if (block.every((byte) => byte === 0)) zeroes += block.length;
          else {
            data += block.length;
            hashes.push(createHash("sha256").update(block).digest("hex"));
          }
        }
        for (let at = 0; at < bytes.length; at += UNIT)
          if (bytes.subarray(at, at + UNIT).some((byte) => byte !== 0)) places.push(at);
        const found = await scan(device, { units: [UNIT], samples: 1000 });
        expect(found).toMatchObject({ holes, zeroes, data, sample: places });
        expect(found.counts.get(BLOCK)).toEqual({
          bytes: data,
          distinct: hashes.length === 0 ? 1 : new Set(hashes).size / hashes.length,
          exact: true,
        });
        expect(found.counts.get(UNIT)?.bytes).toBe(
          places.reduce((sum, at) => sum + Math.min(UNIT, bytes.length - at), 0),
        );
      },
    ),
    { numRuns: 60 },
  );
});

it("estimates how many hashes differ with a table that is too small for them", () => {
  const few = new Distinct(1024);
  const hashOf = (text: string): number =>
    Number.parseInt(createHash("sha256").update(text).digest("hex").slice(0, 13), 16);
  for (let round = 0; round < 2; round += 1)
    for (let number = 0; number < 1024; number += 1) few.add(hashOf(`${number}`));
  expect([few.estimate, few.exact]).toEqual([1024, true]);
  for (let number = 0; number < 40_000; number += 1) few.add(hashOf(`${number % 20_000}`));
  expect(few.exact).toBe(false);
  // Hashes of fixed texts: no chance is involved.
  expect(Math.abs(few.estimate / 20_000 - 1)).toBeLessThan(0.1);
});

it("chooses evenly among many that nobody has counted", () => {
  const sample = new EvenSample(8);
  for (let number = 0; number < 100; number += 1) sample.offer(number);
  expect(sample.chosen).toEqual([0, 16, 32, 48, 64, 80, 96]);
});

it("counts equal units once, leaves out what is not installed, and can be ended", async () => {
  const device = new MemoryDevice(8 * UNIT);
  for (let unit = 0; unit < 4; unit += 1) await device.write(unit * UNIT, Buffer.alloc(UNIT, 7));
  const plain = plainFootprint(() => 100);
  const shared = { ...plain, unit: UNIT, sharesEqual: true };
  const gone = {
    ...plain,
    open: () => Promise.reject(Object.assign(new Error("missing"), { code: "ENOTSUP" })),
  };
  const way = { algorithm: "none", level: undefined };
  const ways = [
    { ...way, target: "plain", footprint: plain },
    { ...way, target: "shared", footprint: shared },
    { ...way, target: "gone", footprint: gone },
  ];
  const { data, equal, stored } = await measure(device, ways, 2 ** 20, { environment: realEnvironment });
  expect([data, equal]).toEqual([4 * UNIT, 4 * UNIT - BLOCK]);
  expect(stored.map(({ bytes }) => bytes)).toEqual([4 * UNIT + 100, UNIT + 100, undefined]);
  const signal = AbortSignal.abort(new Error("ended"));
  await expect(measure(device, ways, 2 ** 20, { environment: realEnvironment, signal })).rejects.toThrow(
    "ended",
  );
});

it("tells a user", async () => {
  const path = join(tempFolder(), "a.img");
  writeFileSync(path, Buffer.alloc(256 * 1024, "abcdefgh"));
  truncateSync(path, 2 ** 20);
  const { code, stdout, stderr } = await cli("measure", path);
  expect([code, complaints(stderr)]).toEqual([0, ""]);
  expect(stdout).toContain("1 MiB (2048 sectors)");
  expect(stdout).toMatch(/data {4}256 KiB\n {2}equal {3}252 KiB of the data/);
  expect(stdout).toMatch(/cow +none +\S+ KiB +1\.00 : 1/);
  const json = await cli("measure", "--json", "--algorithm", "deflate:9", "--algorithm", "none", path);
  const measured = JSON.parse(json.stdout) as Measured;
  expect(measured).toMatchObject({
    size: 2 ** 20,
    holes: 3 * 2 ** 18,
    zeroes: 0,
    data: 2 ** 18,
    exact: true,
  });
  const deflated = measured.stored.filter(({ algorithm }) => algorithm === "deflate");
  expect(deflated.map(({ target, level }) => [target, level])).toEqual([
    ["compression", 9],
    ["zram", 9],
  ]);
  expect(deflated.every(({ ratio = 0 }) => ratio > 10)).toBe(true);
  // The smallest device of format 2 has a journal of 4 MiB.
  expect(deflated[0]?.bytes).toBeGreaterThan(4 * 2 ** 20);
});

it("refuses what is no algorithm, no level and no device", async () => {
  const refused = async (code: number, text: string, ...words: string[]): Promise<void> => {
    expect(await cli("measure", ...words)).toMatchObject({
      code,
      stdout: "",
      stderr: expect.stringContaining(text) as string,
    });
  };
  await refused(2, 'no algorithm "zst"', "--algorithm", "zst", "mem:1M");
  await refused(2, "Its levels are 1 … 9", "--algorithm", "deflate:10", "mem:1M");
  await refused(2, "Write lz4.", "--algorithm", "lz4:1", "mem:1M");
  await refused(2, "no level", "--algorithm", "zstd:", "mem:1M");
  await refused(2, "from 1M to 1G", "--sample", "1", "mem:1M");
  await refused(1, "ENOENT", "/nowhere/a.img");
});
