/** Where two devices differ: against a comparison of all their bytes, and as a script sees it. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Extent, MemoryDevice, ZeroDevice } from "@dmkit/block-io";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Difference, differences } from "../src/compare.ts";
import { cli } from "./cli.ts";
import { tempFolder } from "./support.ts";

const SECTOR = 512;
const KIB = 1024;

interface Write {
  readonly sector: number;
  readonly sectors: number;
  readonly fill: number;
}

// Two chunks of the device in memory, so that there are holes.
const SECTORS = 256;
const write = fc.record({
  sector: fc.nat(SECTORS - 1),
  sectors: fc.integer({ min: 1, max: 40 }),
  fill: fc.constantFrom(0, 0, 1, 2),
});

async function made(
  sectors: number,
  writes: readonly Write[],
): Promise<{ device: MemoryDevice; bytes: Buffer }> {
  const device = new MemoryDevice(sectors * SECTOR);
  const bytes = Buffer.alloc(SECTORS * SECTOR);
  for (const { sector, sectors: count, fill } of writes) {
    const length = Math.min(count, sectors - sector) * SECTOR;
    if (length <= 0) continue;
    await device.write(sector * SECTOR, Buffer.alloc(length, fill));
    bytes.fill(fill, sector * SECTOR, sector * SECTOR + length);
  }
  return { device, bytes };
}

/** All sectors one after the other. */
function expected(a: Buffer, b: Buffer): Difference[] {
  const found: { offset: number; length: number }[] = [];
  for (let at = 0; at < a.length; at += SECTOR) {
    if (a.subarray(at, at + SECTOR).equals(b.subarray(at, at + SECTOR))) continue;
    const last = found.at(-1);
    if (last !== undefined && last.offset + last.length === at) last.length += SECTOR;
    else found.push({ offset: at, length: SECTOR });
  }
  return found;
}

it("finds each sector that differs, whatever is a hole and however long the devices are", async () => {
  const device = fc.record({
    sectors: fc.integer({ min: 1, max: SECTORS }),
    writes: fc.array(write, { maxLength: 6 }),
  });
  await fc.assert(
    fc.asyncProperty(
      device,
      device,
      fc.integer({ min: 1, max: 70 }),
      fc.integer({ min: 1, max: 5 }),
      async (a, b, size, requests) => {
        const [one, other] = [await made(a.sectors, a.writes), await made(b.sectors, b.writes)];
        const found: Difference[] = [];
        const options = { requestSize: size * SECTOR, requests };
        for await (const difference of differences(one.device, other.device, options)) found.push(difference);
        expect(found).toEqual(expected(one.bytes, other.bytes));
      },
    ),
  );
});

it("reads nothing where both have holes", async () => {
  class Unread extends ZeroDevice {
    override doRead(): Promise<void> {
      throw new Error("a hole was read");
    }

    override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
      yield { offset, length, kind: "hole" };
    }
  }
  const found: Difference[] = [];
  for await (const one of differences(new Unread(2 ** 50), new Unread(2 ** 49))) found.push(one);
  expect(found).toEqual([]);
});

it("is of devices with blocks of different sizes, also where one ends inside a block of the other", async () => {
  const small = new MemoryDevice(64 * KIB + SECTOR);
  const large = new MemoryDevice(128 * KIB, { logicalBlockSize: 4096 });
  await small.write(64 * KIB, Buffer.alloc(SECTOR, 1));
  await large.write(64 * KIB, Buffer.alloc(4096, 1));
  const found: Difference[] = [];
  for await (const one of differences(small, large)) found.push(one);
  expect(found).toEqual([{ offset: 64 * KIB + SECTOR, length: 4096 - SECTOR }]);
});

describe("dmkit compare", () => {
  /** Two images of 1 MiB: the second differs in 1 KiB at 64 KiB, and in one sector at 512 KiB. */
  function images(): [a: string, b: string] {
    const folder = tempFolder();
    const bytes = Buffer.alloc(1024 * KIB, "abc");
    const a = join(folder, "a.img");
    writeFileSync(a, bytes);
    bytes.fill(1, 64 * KIB, 65 * KIB);
    bytes.fill(2, 512 * KIB + 3, 512 * KIB + 4);
    const b = join(folder, "b.img");
    writeFileSync(b, bytes);
    return [a, b];
  }

  it("tells the first sector, or all of them, with the status of cmp", async () => {
    const [a, b] = images();
    expect(await cli("compare", a, b)).toEqual({
      code: 1,
      stdout: "they differ at byte 65536 (sector 128)\n",
      stderr: "",
    });
    expect(await cli("compare", "--all", a, b)).toMatchObject({
      code: 1,
      stdout: "65536 1024\n524288 512\n",
    });
    expect(await cli("compare", a, a)).toEqual({ code: 0, stdout: "they are equal: 1 MiB\n", stderr: "" });
    expect(await cli("compare", "-q", a, b)).toEqual({ code: 1, stdout: "", stderr: "" });
    const { code, stdout } = await cli("compare", "--json", "--all", a, b);
    expect([code, JSON.parse(stdout)]).toEqual([
      1,
      {
        sizes: [1048576, 1048576],
        differences: [
          { offset: 65536, length: 1024 },
          { offset: 524288, length: 512 },
        ],
        equal: false,
      },
    ]);
    expect(JSON.parse((await cli("compare", "--json", a, a)).stdout)).toMatchObject({
      differences: [],
      equal: true,
    });
  });

  it("a longer one equals it if the rest is zeroes, unless that is asked", async () => {
    const [a] = images();
    const longer = join(tempFolder(), "longer.img");
    expect((await cli("copy", "-q", a, longer)).code).toBe(0);
    truncateSync(longer, 2048 * KIB);
    expect(await cli("compare", a, longer)).toMatchObject({
      code: 0,
      stdout: "they are equal: 1 MiB, and 1 MiB of zeroes in the longer one\n",
    });
    expect(await cli("compare", "--same-size", longer, a)).toMatchObject({
      code: 1,
      stdout: "they differ in size: 2097152 and 1048576 bytes\n",
    });
  });

  it("an error is no difference", async () => {
    const [a] = images();
    const { code, stderr } = await cli("compare", a, join(tempFolder(), "none.img"));
    expect([code, stderr]).toEqual([2, expect.stringContaining("ENOENT")]);
    expect((await cli("compare", a)).code).toBe(2);
  });
});
