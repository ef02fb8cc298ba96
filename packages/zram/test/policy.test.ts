/** What the disk does by itself, in simulated time: recompressing, writing back, so much a day. */
import { BlockIoError, MemoryDevice } from "@dmkit/block-io";
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { ZramDevice } from "../src/index.ts";
import { audit } from "../src/testing/audit.ts";
import { open } from "../src/testing/sim-targets.ts";

const PAGE = 4096;
const PAGES = 64;
const HOUR = 3_600_000;
const noise = (seed: number): Buffer => new SeededRandom(seed).fill(Buffer.alloc(PAGE));
/** What deflate makes smaller, and lz4 hardly. */
const letters = (seed: number): Buffer => Buffer.from(noise(seed).map((byte) => 97 + (byte & 15)));

/** Half of the pages can be made smaller. */
const contents = (page: number): Buffer => (page % 2 === 0 ? letters(page) : noise(page));

async function rig(
  values: Readonly<Record<string, unknown>>,
  backing = new MemoryDevice((PAGES + 1) * PAGE),
): Promise<{ device: ZramDevice; clock: ManualClock; logged: string[]; fact: (name: string) => unknown }> {
  const clock = new ManualClock();
  const logged: string[] = [];
  const logger = { log: (_: string, message: string): void => void logged.push(message) };
  const environment = { ...manualEnvironment(1, clock), logger };
  const device = await open(PAGES * PAGE, { recomp_algorithm: "deflate", ...values }, environment, {
    backing,
  });
  for (let page = 0; page < PAGES; page += 1) await device.write(page * PAGE, contents(page));
  return { device, clock, logged, fact: (name) => device.facts()[name] };
}

async function whole(device: ZramDevice): Promise<void> {
  const into = Buffer.alloc(PAGE);
  for (let page = 0; page < PAGES; page += 1) {
    await device.read(page * PAGE, into);
    expect(into.equals(contents(page)), `page ${page}`).toBe(true);
  }
  expect(audit(device)).toEqual([]);
}

describe("a disk that looks after itself", () => {
  it("recompresses after an hour, writes back after a day, ten pages a day, and leaves what is used", async () => {
    const { device, clock, fact } = await rig({
      recompress_after: 3600,
      writeback_after: 86_400,
      writeback_daily: 10 * PAGE,
    });
    const used = async (hours: number): Promise<void> => {
      for (let hour = 0; hour < 2 * hours; hour += 1) {
        for (let page = 0; page < 4; page += 1) await device.read(page * PAGE, Buffer.alloc(512));
        await clock.pass(HOUR / 2);
      }
    };
    await clock.pass(HOUR / 2);
    expect(fact("huge_pages")).toBe(PAGES);
    await used(1);
    // All that can be, but for those in use.
    expect(fact("huge_pages")).toBe(PAGES - (PAGES / 2 - 2));
    await used(22);
    expect(fact("bd_count")).toBe(0);
    for (const days of [1, 2]) {
      await used(24);
      expect(fact("bd_count")).toBe(10 * days);
    }
    await device.message(["writeback_daily", "0"]);
    await used(1);
    expect(fact("bd_count")).toBe(PAGES - 4);
    await whole(device);
    await device.close();
    expect(clock.pending).toBe(0);
  });

  it("tries a page that does not become smaller once, and once more when it has been used", async () => {
    const { device, clock } = await rig({ recompress_after: 100 });
    let tried = 0;
    const readWhole = device.readWhole.bind(device);
    device.readWhole = (page, into): void => {
      tried += 1;
      readWhole(page, into);
    };
    await clock.pass(HOUR);
    // A page is looked at in two rounds at the most, where it comes of age between them.
    const first = tried;
    expect(first).toBeGreaterThanOrEqual(PAGES);
    expect(first).toBeLessThanOrEqual(2 * PAGES);
    await clock.pass(HOUR);
    expect(tried).toBe(first);
    await device.write(PAGE, contents(1));
    await clock.pass(HOUR);
    expect(tried).toBeGreaterThan(first);
    await device.close();
  });

  it("rests while it is suspended, does nothing unless told, and is tuned while it runs", async () => {
    const { device, clock, fact } = await rig({});
    await clock.pass(48 * HOUR);
    expect([fact("bd_count"), fact("huge_pages"), clock.pending]).toEqual([0, PAGES, 0]);
    await device.message(["writeback_after", "60"]);
    await device.suspend();
    await clock.pass(HOUR);
    expect([fact("bd_count"), clock.pending]).toEqual([0, 0]);
    await device.resume();
    await clock.pass(HOUR);
    expect(fact("bd_count")).toBe(PAGES);
    await device.message(["writeback_after", "0"]);
    expect(clock.pending).toBe(0);
    await whole(device);
    await device.close();
  });

  it("says once why pages stay, and goes on when they can go", async () => {
    class Failing extends MemoryDevice {
      fails = true;
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        const error = new BlockIoError("no space left", { code: "ENOSPC" });
        return this.fails && offset > 0 ? Promise.reject(error) : super.doWrite(offset, from);
      }
    }
    const backing = new Failing((PAGES + 1) * PAGE);
    const { device, clock, logged, fact } = await rig({ writeback_after: 60 }, backing);
    await clock.pass(HOUR);
    expect([logged, fact("bd_count")]).toEqual([["pages could not be reclaimed"], 0]);
    backing.fails = false;
    await clock.pass(HOUR);
    expect([logged.length, fact("bd_count")]).toEqual([1, PAGES]);
    await whole(device);
    await device.close();
  });
});
