/** Writing pages back as they are in memory, compressed: what is on the backing device then, and how it comes back. */
import { BlockIoError, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { snapshotRoom } from "../src/device/snapshot/place.ts";
import type { ZramDevice } from "../src/index.ts";
import { audit } from "../src/testing/audit.ts";
import { open } from "../src/testing/sim-targets.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
console.log(`DMKIT_SEED=${seed}`);

const PAGE = 4096;
const PAGES = 32;
const noise = (number: number): Buffer => new SeededRandom(number).fill(Buffer.alloc(PAGE));
const letters = (number: number): Buffer => Buffer.from(noise(number).map((byte) => 97 + (byte & 15)));
const text = (number: number): Buffer => Buffer.alloc(PAGE, `page ${number} has little in it `);
const further = { recomp_algorithm: "deflate", recomp_algorithm2: "zstd" };

interface Devices {
  readonly backing: MemoryDevice;
  readonly snapshot?: MemoryDevice;
}

const start = (values: Readonly<Record<string, unknown>>, devices: Devices): Promise<ZramDevice> =>
  open(PAGES * PAGE, { ...further, ...values }, realEnvironment, devices);

async function read(device: ZramDevice, page: number): Promise<Buffer> {
  const into = Buffer.alloc(PAGE);
  await device.read(page * PAGE, into);
  return into;
}

/** Whether anything is decompressed while pages are moved. */
async function moved(device: ZramDevice): Promise<number> {
  let count = 0;
  const readWhole = device.readWhole.bind(device);
  device.readWhole = (page, into): void => {
    count += 1;
    readWhole(page, into);
  };
  await device.message(["writeback", "all"]);
  device.readWhole = readWhole;
  return count;
}

it("moves pages as they are, with whatever they are compressed, and reads and changes them there", async () => {
  const backing = new MemoryDevice(40 * PAGE);
  const device = await start({ compressed_writeback: 1 }, { backing });
  const contents = [text(0), letters(1), letters(2), noise(3)];
  for (const [page, bytes] of contents.entries()) await device.write(page * PAGE, bytes);
  await device.message(["recompress", "type=huge", "algo=zstd", "max_pages=1"]);
  await device.message(["recompress", "type=huge", "algo=deflate"]);
  // Only the one that is huge is read.
  expect(await moved(device)).toBe(1);
  expect(device.facts()).toMatchObject({ bd_count: 4, bd_writes: 4, compr_data_size: 0, recomp_pages: 0 });
  const there = await contentsOf(backing);
  expect(there.subarray(4 * PAGE, 5 * PAGE).equals(noise(3))).toBe(true);
  // Compressed to less than half, with zeroes behind.
  expect(there.subarray(PAGE + PAGE / 2, 2 * PAGE).equals(Buffer.alloc(PAGE / 2))).toBe(true);
  for (const [page, bytes] of contents.entries()) expect((await read(device, page)).equals(bytes)).toBe(true);
  const changed = Buffer.from(contents[2] as Buffer);
  changed.fill(9, 512, 1024);
  await device.write(2 * PAGE + 512, Buffer.alloc(512, 9));
  expect((await read(device, 2)).equals(changed)).toBe(true);
  expect(device.facts()["bd_count"]).toBe(3);
  // It is told online, and of what is moved from then on.
  await device.message(["compressed_writeback", "0"]);
  expect(await moved(device)).toBe(1);
  expect((await contentsOf(backing)).includes(changed)).toBe(true);
  expect((await read(device, 2)).equals(changed)).toBe(true);
  expect(audit(device)).toEqual([]);
  await device.close();
});

it("gives EIO for what comes back otherwise than it was written, and never other bytes", async () => {
  const backing = new MemoryDevice(40 * PAGE);
  const device = await start({ compressed_writeback: 1 }, { backing });
  await device.write(0, letters(1));
  await device.message(["recompress", "algo=deflate"]);
  await device.message(["writeback", "all"]);
  await backing.write(PAGE, Buffer.alloc(PAGE, 0xff));
  const error = await read(device, 0).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(BlockIoError);
  expect(error).toMatchObject({ code: "EIO", hint: expect.stringContaining("whole page") });
  expect(device.facts()["failed_reads"]).toBe(1);
  await device.write(0, text(1));
  expect((await read(device, 0)).equals(text(1))).toBe(true);
  await device.close();
});

it("loses neither of two writes to parts of a page that are under way at once, wherever the second one falls", async () => {
  const [zeroes, sevens] = [Buffer.alloc(512), Buffer.alloc(512, 7)];
  const wanted = Buffer.alloc(PAGE);
  wanted.set(sevens, 512);
  const lost: string[] = [];
  for (const compressed_writeback of [0, 1])
    for (let turns = 0; turns < 60; turns += 1)
      for (const zeroesFirst of [true, false]) {
        const device = await start({ compressed_writeback }, { backing: new MemoryDevice(40 * PAGE) });
        const page = Buffer.alloc(PAGE);
        page.fill("words", 0, 512);
        await device.write(0, page);
        await device.message(["writeback", "all"]);
        // One makes a page of zeroes, which is stored at once; the other one is compressed.
        const writes = [
          (): Promise<void> => device.write(0, zeroes),
          (): Promise<void> => device.write(512, sevens),
        ];
        const [first, second] = zeroesFirst ? writes : writes.toReversed();
        const one = first?.();
        for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
        await Promise.all([one, second?.()]);
        if (!(await read(device, 0)).equals(wanted))
          lost.push(`${compressed_writeback} ${turns} ${zeroesFirst}`);
        await device.close();
      }
  expect(lost).toEqual([]);
});

it("is what it was after a snapshot, whichever way it is opened then", async () => {
  const random = new SeededRandom(seed);
  const snapshot = new MemoryDevice(2 * snapshotRoom(PAGES));
  const model = Buffer.alloc(PAGES * PAGE);
  for (let round = 0; round < 10; round += 1) {
    const backing = new MemoryDevice(PAGE * (2 + random.below(40)));
    const device = await start({ compressed_writeback: random.below(2) }, { backing, snapshot });
    expect((await contentsOf(device)).equals(model), `seed ${seed}, round ${round}`).toBe(true);
    for (let step = 0; step < 20; step += 1) {
      const page = random.below(PAGES);
      const bytes = random.pick([noise, letters, text])(random.below(1000));
      bytes.copy(model, page * PAGE);
      await device.write(page * PAGE, bytes);
      if (random.chance(0.3)) await device.message(["recompress", `priority=${1 + random.below(2)}`]);
      // It may be full.
      if (random.chance(0.2))
        await device.message(["writeback", random.pick(["all", "huge"])]).catch(() => {});
    }
    expect(audit(device)).toEqual([]);
    await device.close();
  }
});

it("keeps in a snapshot what was compressed again before it was moved", async () => {
  const snapshot = new MemoryDevice(2 * snapshotRoom(PAGES));
  const [before, after] = [new MemoryDevice(9 * PAGE), new MemoryDevice(9 * PAGE)];
  let device = await start({ compressed_writeback: 1 }, { backing: before, snapshot });
  await device.write(0, letters(1));
  await device.message(["recompress", "algo=deflate"]);
  await device.message(["writeback", "all"]);
  await device.close();
  // Version 3: that a page on the backing device has another priority than 0 is new.
  expect((await contentsOf(snapshot)).readUInt32LE(120)).toBe(3);
  device = await start({ compressed_writeback: 1 }, { backing: after, snapshot });
  expect((await contentsOf(after)).subarray(PAGE).equals((await contentsOf(before)).subarray(PAGE))).toBe(
    true,
  );
  expect((await read(device, 0)).equals(letters(1))).toBe(true);
  await device.close();
});
