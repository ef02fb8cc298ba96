/** A cache whose archive takes nothing for a while, gives up on it, or is another one's by now. */
import { BlockIoError, MemoryDevice } from "@dmkit/block-io";
import { ManualClock, manualEnvironment, settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { SegmentArchive } from "../src/device/archive/segment-archive.ts";
import { repair } from "../src/offline/repair.ts";
import { type OpenOptions, openWriteboost } from "../src/open/open.ts";
import type { WriteboostDevice } from "../src/device/device.ts";

const MIB = 2 ** 20;

/** An archive that takes segments when it is told to. */
class Sluice implements SegmentArchive {
  readonly name = "sluice";
  readonly shipped = 0;
  readonly offset = 100;
  trouble: Error | undefined = new Error("the store is away");
  replaced: Error | undefined;
  /** Ids that have arrived. */
  readonly taken: number[] = [];
  #waiting: { readonly pass: () => void; readonly fail: (error: Error) => void } | undefined;
  #isOpen = false;
  closed = false;

  write(first: number, segments: readonly unknown[]): Promise<void> {
    const pass = (): void => {
      this.taken.push(...segments.map((_, at) => first + at));
    };
    if (this.#isOpen) {
      pass();
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.#waiting = {
        pass: () => {
          pass();
          resolve();
        },
        fail: reject,
      };
    });
  }

  open(): void {
    this.#isOpen = true;
    this.trouble = undefined;
    this.#waiting?.pass();
  }

  fail(error: Error): void {
    this.#waiting?.fail(error);
  }

  async close(): Promise<void> {
    this.closed = true;
    this.fail(new BlockIoError("closed", { code: "ESHUTDOWN" }));
  }
}

interface Rig {
  readonly clock: ManualClock;
  readonly to: Sluice;
  readonly device: WriteboostDevice;
}

async function rig(flush: "local" | "remote", options: OpenOptions = {}): Promise<Rig> {
  const clock = new ManualClock();
  const environment = manualEnvironment(1, clock);
  const to = new Sluice();
  const backing = new MemoryDevice(4 * MIB);
  // 8 slots of 7 blocks.
  const cache = new MemoryDevice(MIB + 8 * 512 * 2 ** 6);
  const archive = { attach: () => Promise.resolve(to), flush };
  const device = await openWriteboost(
    { backing, cache, plog: undefined },
    { order: 6, archive, environment, tunables: { allow_writeback: 1 }, ...options },
  );
  return { clock, to, device };
}

const isOver = async (work: Promise<unknown>): Promise<boolean> => {
  let over = false;
  void work.then(
    () => (over = true),
    () => (over = true),
  );
  await settle();
  return over;
};

describe("while the store is away", () => {
  it("writes go on until the log is full, then wait, and go on when it is back", async () => {
    const { clock, to, device } = await rig("local");
    const block = Buffer.alloc(4096, 7);
    let written = 0;
    let waiting: Promise<void> | undefined;
    while (waiting === undefined && written < 200) {
      const write = device.write(written * 4096, block);
      if (!(await isOver(write))) {
        await clock.pass(5000);
        if (!(await isOver(write))) waiting = write;
      }
      written += 1;
    }
    // All slots but the one that is kept back.
    expect(written).toBe(7 * 7 + 1);
    expect(device.health()).toMatchObject({
      state: "degraded",
      why: expect.stringMatching(/writes wait since the log is full.*the store is away/) as string,
    });
    expect(device.facts()).toMatchObject({ archived_id: 100, unshipped_bytes: 7 * 8 * 4096 });
    expect(Number(device.facts()["unshipped_seconds"])).toBeGreaterThan(0);
    expect(device.facts()).toMatchObject({ archived_objects: 0, archived_bytes: 0, taken_over: 0 });
    expect(device.status()).toContain("archived_id 100 unshipped_bytes ");
    to.open();
    await clock.pass(5000);
    expect(await isOver(waiting as Promise<void>)).toBe(true);
    await device.flush();
    await clock.pass(2000);
    expect(device.health()).toMatchObject({ state: "ok" });
    expect(device.facts()).toMatchObject({ unshipped_bytes: 0, unshipped_seconds: 0 });
    expect(Number(device.facts()["archived_objects"])).toBeGreaterThan(0);
    // Each segment with its head.
    expect(Number(device.facts()["archived_bytes"])).toBeGreaterThan(written * 4096);
    expect(to.taken).toEqual(Array.from({ length: to.taken.length }, (_, at) => at + 1));
    await device.close();
    expect(to.closed).toBe(true);
  });

  it("flush=local is over at once, flush=remote when it is there", async () => {
    for (const flush of ["local", "remote"] as const) {
      const { to, device } = await rig(flush);
      await device.write(0, Buffer.alloc(4096, 1));
      const flushes = [device.flush(), device.flush()];
      expect(await isOver(Promise.all(flushes))).toBe(flush === "local");
      to.open();
      expect(await isOver(Promise.all(flushes))).toBe(true);
      await device.close();
      // Both by one.
      expect(to.taken).toEqual([1]);
    }
  });

  it("suspending and closing wait ten seconds for it, and say what is missing there", async () => {
    const { clock, to, device } = await rig("remote");
    await device.write(0, Buffer.alloc(4096, 1));
    const suspending = device.suspend().catch((error: unknown) => error);
    await clock.pass(9000);
    expect(await isOver(suspending)).toBe(false);
    await clock.pass(3000);
    expect(await suspending).toMatchObject({ code: "ETIMEDOUT", lossless: true });
    // Nothing is lost, and it goes on.
    await device.resume();
    await clock.pass(60_000);
    const flush = device.flush();
    await clock.pass(60_000);
    expect(await isOver(flush)).toBe(false);
    to.open();
    expect(await isOver(flush)).toBe(true);
    await device.close();
    const second = await rig("local");
    await second.device.write(0, Buffer.alloc(4096, 1));
    const closing = second.device.close();
    await second.clock.pass(12_000);
    await closing;
    expect(second.to.taken).toEqual([]);
  });
});

it("another one writes now: all requests are told so, and by whom", async () => {
  const { clock, to, device } = await rig("remote");
  await device.write(0, Buffer.alloc(4096, 1));
  const flush = device.flush().catch((error: unknown) => error);
  await settle();
  to.fail(new BlockIoError("taken over by there", { code: "ESHUTDOWN", hint: "Go on there." }));
  const told = { code: "ESHUTDOWN", reason: "taken over by there" };
  expect(await flush).toMatchObject(told);
  await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject(told);
  // A flush that failed ends writes in any case.
  await expect(device.write(0, Buffer.alloc(512))).rejects.toThrow("taken over by there");
  expect(device.health()).toMatchObject({ state: "failed", help: "Go on there." });
  const closing = device.close().catch(() => {});
  await clock.pass(1000);
  await closing;
});

it("another one writes now, and nothing is written here: reads are refused as well", async () => {
  const { clock, to, device } = await rig("local");
  await device.read(0, Buffer.alloc(512));
  to.replaced = new BlockIoError("taken over by there", { code: "ESHUTDOWN", hint: "Go on there." });
  await clock.pass(1000);
  await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({ reason: "taken over by there" });
  expect(device.health()).toMatchObject({ state: "failed", help: "Go on there." });
  await device.close().catch(() => {});
});

it("nothing goes past the log, and nothing of that kind is offered", async () => {
  const { to, device } = await rig("remote", { tunables: { sequential_cutoff: 4096 } });
  to.open();
  expect(device.limits.capabilities).toMatchObject({ discard: "none", writeZeroes: "emulated" });
  await device.write(0, Buffer.alloc(MIB / 8, 1));
  await device.write(MIB / 8, Buffer.alloc(MIB / 8, 1));
  await device.writeZeroes(0, MIB / 8);
  await device.flush();
  // 32 blocks, 32 blocks, 32 of zeroes, in segments of 7.
  expect(to.taken.length).toBeGreaterThanOrEqual(14);
  await device.close();
});

it("a cache with an archive is not opened without it, until that is said", async () => {
  const environment = manualEnvironment();
  const devices = { backing: new MemoryDevice(MIB), cache: new MemoryDevice(3 * MIB), plog: undefined };
  const to = new Sluice();
  to.open();
  const archive = { attach: () => Promise.resolve(to) };
  await openWriteboost(devices, { archive, environment, order: 6 }).then((device) => device.close());
  await expect(openWriteboost(devices, { environment })).rejects.toMatchObject({ code: "EINVAL" });
  await openWriteboost(devices, { archive: "none", environment }).then((device) => device.close());
  const device = await openWriteboost(devices, { environment });
  await device.write(0, Buffer.alloc(4096, 1));
  await device.close();
  // What it has been through no archive knows.
  await expect(openWriteboost(devices, { archive, environment })).rejects.toMatchObject({ code: "EINVAL" });
});

it("a cache of which repair has emptied segments has no archive any more: that would take them for empty", async () => {
  const environment = manualEnvironment();
  const devices = { backing: new MemoryDevice(MIB), cache: new MemoryDevice(3 * MIB), plog: undefined };
  const to = new Sluice();
  to.open();
  const archive = { attach: () => Promise.resolve(to) };
  const device = await openWriteboost(devices, { archive, environment, order: 6 });
  for (let block = 0; block < 30; block += 1) await device.write(block * 4096, Buffer.alloc(4096, block + 1));
  await device.dropCaches();
  await device.close();
  const identity = Buffer.alloc(512);
  await devices.cache.read(4096, identity);
  expect(identity.subarray(144, 160).equals(Buffer.alloc(16))).toBe(false);
  // The first segment is rotten, and clean.
  await devices.cache.write(MIB + 8192, Buffer.alloc(512, 0xee));
  const { repaired } = await repair(devices, { environment });
  expect(repaired.map(({ kind }) => kind)).toContain("rot");
  await devices.cache.read(4096, identity);
  expect(identity.subarray(144, 160).equals(Buffer.alloc(16))).toBe(true);
  await expect(openWriteboost(devices, { archive, environment })).rejects.toMatchObject({ code: "EINVAL" });
  const again = await openWriteboost(devices, { environment });
  const bytes = Buffer.alloc(4096);
  await again.read(0, bytes);
  expect(bytes.every((byte) => byte === 1)).toBe(true);
  await again.close();
});
