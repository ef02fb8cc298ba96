/**
 * Bit flips on the devices of a cache that was not closed in order, and what may come of them: opening refuses,
 * a read fails, or every sector is as it was last flushed. Rot in a segment that an earlier flush covers is not
 * looked for when the device is opened; there the check must report it, and writeback must refuse to copy it.
 */
import { MemoryDevice } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { openWriteboost } from "../../src/index.ts";
import { check } from "./check.ts";
import { MIB, Rig } from "./rig.ts";

const SLOTS = 12;
const ORDER = 5;
const SLOT = 512 * 2 ** ORDER;
const BLOCKS = 24;

interface Image {
  readonly backing: Buffer;
  readonly cache: Buffer;
  readonly plog: Buffer;
  /** What was flushed last, over all blocks that were ever written. */
  readonly expected: Buffer;
  /** Every byte each sector was ever filled with. */
  readonly versions: readonly ReadonlySet<number>[];
}

/** What became of one flip. `silent` must never happen. */
export type Outcome = "harmless" | "refused" | "read error" | "found by check" | "taken for torn" | "silent";

/** A log of 20 segments in a ring of 12, some of it written back, the end of it in the plog only. */
async function image(): Promise<Image> {
  const rig = new Rig({ order: ORDER, slots: SLOTS, plog: 4 * 27 * 512 + 512 });
  const device = await rig.open();
  const expected = Buffer.alloc(BLOCKS * 4096);
  const versions = Array.from({ length: BLOCKS * 8 }, () => new Set([0]));
  const random = new SeededRandom(5);
  for (let write = 1; write <= 64; write += 1) {
    const sector = random.below(BLOCKS * 8);
    const count = random.below(3) > 0 ? 8 - (sector % 8) : 1;
    const data = Buffer.alloc(count * 512, write);
    data.copy(expected, sector * 512);
    for (let at = sector; at < sector + count; at += 1) versions[at]?.add(write);
    await device.write(sector * 512, data);
    if (write % 3 === 0) await device.flush();
    if (write === 40) {
      await device.dropCaches();
      await device.message(["update_record_interval", "1"]);
      await rig.clock.pass(1000);
    }
  }
  await device.flush();
  await rig.crash();
  return {
    backing: rig.backing.stable,
    cache: rig.cache.stable,
    plog: rig.plog?.stable as Buffer,
    expected,
    versions,
  };
}

async function deviceOf(content: Buffer): Promise<MemoryDevice> {
  const device = new MemoryDevice(content.length);
  await device.write(0, content);
  return device;
}

/** Places worth flipping: what a record, a header, a metablock or data of the log occupies. */
function place(
  random: SeededRandom,
  { cache, plog }: Image,
): { on: "cache" | "plog"; at: number; slot: number } {
  const kind = random.below(8);
  if (kind === 0) return { on: "plog", at: random.below(plog.length), slot: -1 };
  if (kind === 1)
    return { on: "cache", at: random.pick([random.below(8), 4096 + random.below(96)]), slot: -1 };
  if (kind === 2) return { on: "cache", at: 2047 * 512 + random.below(8), slot: -1 };
  const slot = random.below(SLOTS);
  const within = [random.below(16), 512 + random.below(48), 4096 + random.below(SLOT - 4096)][
    kind % 3
  ] as number;
  return { on: "cache", at: Math.min(cache.length - 1, MIB + slot * SLOT + within), slot };
}

async function outcome(made: Image, on: "cache" | "plog", at: number, bit: number): Promise<Outcome> {
  const flipped = Buffer.from(made[on]);
  flipped[at] = (flipped[at] as number) ^ (1 << bit);
  const content = { ...made, [on]: flipped };
  const backing = await deviceOf(content.backing);
  const cache = await deviceOf(content.cache);
  const plog = await deviceOf(content.plog);
  try {
    const device = await openWriteboost({ backing, cache, plog });
    const above = Buffer.alloc(made.expected.length);
    await device.read(0, above);
    // The same again once everything has gone the way of all writes.
    const wroteBack = await device.dropCaches().then(
      () => true,
      () => false,
    );
    const below = Buffer.from(above);
    if (wroteBack) await backing.read(0, below);
    await device.close().catch(() => {});
    if (above.equals(made.expected) && (!wroteBack || below.equals(made.expected))) {
      return wroteBack ? "harmless" : "read error";
    }
    return blame(content, on, everyOlder(above, made) && everyOlder(below, made));
  } catch {
    return "refused";
  }
}

/** What the check says of a flip that changed what is read. A plog cannot tell rot from a torn write at all. */
async function blame(content: Image, on: "cache" | "plog", older: boolean): Promise<Outcome> {
  if (on === "plog" && older) return "taken for torn";
  const [backing, cache, plog] = await Promise.all(
    [content.backing, content.cache, content.plog].map(deviceOf),
  );
  const problems = await check(cache as MemoryDevice, backing as MemoryDevice, { plog });
  if (older && problems.some(({ kind }) => kind === "torn" || kind === "metadata" || kind === "stale")) {
    return "taken for torn";
  }
  return problems.some(({ severity }) => severity !== "info") ? "found by check" : "silent";
}

/** Whether every sector is one that was written there once. */
function everyOlder(into: Buffer, { versions }: Image): boolean {
  return versions.every((known, sector) => {
    const bytes = into.subarray(sector * 512, (sector + 1) * 512);
    return known.has(bytes[0] as number) && bytes.equals(Buffer.alloc(512, bytes[0]));
  });
}

export interface FlipSummary {
  readonly outcomes: Record<Outcome, number>;
  /** Flips that changed what is read without anybody saying so. */
  readonly silent: readonly string[];
}

export async function flipBits(count: number, seed: number): Promise<FlipSummary> {
  const made = await image();
  const random = new SeededRandom(seed);
  const outcomes = {
    harmless: 0,
    refused: 0,
    "read error": 0,
    "found by check": 0,
    "taken for torn": 0,
    silent: 0,
  };
  const silent: string[] = [];
  for (let flip = 0; flip < count; flip += 1) {
    const { on, at, slot } = place(random, made);
    const bit = random.below(8);
    const what = await outcome(made, on, at, bit);
    outcomes[what] += 1;
    if (what === "silent" || (what === "found by check" && slot < 0))
      silent.push(`${on} byte ${at} bit ${bit}: ${what}`);
  }
  return { outcomes, silent };
}
