/**
 * What a device makes of a sector below it that cannot be read. After an orderly close, and after a crash, each in turn
 * is `EIO` when the device is opened again. Demanded:
 *
 * - it opens, or is refused with words about what to do;
 * - every read is right, or `EIO`; what can be read can be written and flushed; close ends;
 * - when the sector can be read again, all that was flushed is there.
 *
 * Tried are a few sectors that opening reads, and a few others: DMKIT_SECTORS=200 tries that many of each.
 */
import assert from "node:assert/strict";
import { type BlockDevice, SECTOR } from "../../contract/device.ts";
import { BlockIoError } from "../../contract/errors.ts";
import type { BadSectors } from "../bad-sectors.ts";
import { contentsOf } from "../power-cut.ts";
import { SeededRandom } from "../random.ts";
import { type Checks, SPAN, type Subject, readBack, writable } from "./subject.ts";

/** Bytes of what is compared, written and lost at a time. */
const PIECE = 4096;
/** Sectors of a device that are tried: of those that opening reads, and of the others. */
const TRIED = { opening: 6, others: 2 };

/**
 * How a sector fails: until it is written; whatever is done; or while the device is being opened only. The first loses
 * what was there, if the device writes there.
 */
const forms = ["until it is written", "for ever", "in passing"] as const;

interface Trial {
  readonly subject: Subject;
  readonly lower: readonly BadSectors[];
  readonly reopen: () => Promise<BlockDevice>;
  /** What is on the devices below. */
  readonly images: readonly Buffer[];
  readonly expected: Buffer;
  readonly random: SeededRandom;
}

/** Each sector below that cannot be read. */
export const unreadable: Checks = {
  "loses nothing to a sector below that cannot be read, after an orderly close": (subject, seed) =>
    sweep(subject, new SeededRandom(seed), true),

  "loses nothing to a sector below that cannot be read, after a crash": async (subject, seed) => {
    if (subject.survives !== "close") await sweep(subject, new SeededRandom(seed), false);
  },
};

async function sweep(subject: Subject, random: SeededRandom, isClosed: boolean): Promise<void> {
  const { device, lower, reopen } = subject;
  if (lower === undefined || reopen === undefined || !writable(device)) return;
  const expected = await fill(device, random);
  if (isClosed) await device.close();
  const images = await Promise.all(lower.map(contentsOf));
  await device.close();
  const trial: Trial = { subject, lower, reopen, images, expected, random };
  for (const [index, below] of lower.entries()) {
    for (const sector of await chosen(trial, below)) {
      const form = random.pick(forms);
      try {
        await attempt(trial, below, sector, form);
      } catch (error) {
        if (error instanceof Error)
          error.message += `\n  (sector ${sector} of device ${index} below cannot be read ${form})`;
        throw error;
      }
    }
  }
}

/** Writes all of it, some of it more than once, in steps that are flushed; returns what is there then. */
async function fill(device: BlockDevice, random: SeededRandom): Promise<Buffer> {
  const expected = random.fill(Buffer.alloc(SPAN));
  // Some that can be compressed, and some that is zero.
  for (let at = 0; at < SPAN; at += 3 * PIECE) expected.subarray(at, at + 2 * PIECE).fill(at / PIECE);
  for (let at = 0; at < SPAN; at += 16 * PIECE)
    await device.write(at, expected.subarray(at, at + 16 * PIECE));
  await device.flush();
  for (let step = 0; step < 16; step += 1) {
    const offset = random.below(SPAN / PIECE) * PIECE;
    const data = random.fill(expected.subarray(offset, offset + (1 + random.below(3)) * PIECE));
    await device.write(offset, data);
    if (step % 4 === 0) await device.flush();
  }
  await device.flush();
  return expected;
}

async function restore({ lower, images }: Trial): Promise<void> {
  for (const [index, below] of lower.entries()) {
    below.bad.clear();
    below.heals = true;
    await below.write(0, images[index] as Buffer);
  }
}

/** The sectors of one device that are tried. */
async function chosen(trial: Trial, below: BadSectors): Promise<number[]> {
  await restore(trial);
  const seen = new Set<number>();
  below.seen = seen;
  const opened = await trial.reopen();
  below.seen = undefined;
  await opened.close();
  const others = Array.from({ length: below.size / SECTOR }, (_, sector) => sector).filter(
    (sector) => !seen.has(sector),
  );
  const some = (from: number[], usual: number): number[] => {
    const count = Number(process.env["DMKIT_SECTORS"] ?? usual);
    return from.length <= count ? from : Array.from({ length: count }, () => trial.random.pick(from));
  };
  return [...some([...seen], TRIED.opening), ...some(others, TRIED.others)];
}

async function attempt(
  trial: Trial,
  below: BadSectors,
  sector: number,
  form: (typeof forms)[number],
): Promise<void> {
  await restore(trial);
  const { subject, reopen, random } = trial;
  const expected = Buffer.from(trial.expected);
  below.bad.add(sector);
  below.heals = form !== "for ever";
  const opened = await reopen().catch((error: unknown) => {
    assert.ok(error instanceof BlockIoError, `not a BlockIoError: ${String(error)}`);
    assert.ok((error.hint ?? "") !== "", `it does not say what to do: ${error.message}`);
    return undefined;
  });
  // What may or may not be there: a write that failed, or was not flushed.
  let doubt: Doubt | undefined;
  let hasFailed = false;
  if (opened !== undefined) {
    if (form === "in passing") below.bad.clear();
    const lost = await compare(opened, expected, "or EIO");
    const fine = Array.from({ length: SPAN / PIECE }, (_, index) => index * PIECE).filter(
      (at) => !lost.has(at),
    );
    const steps = writable(opened) ? 3 : 0;
    assert.ok(steps > 0 || subject.closes === true, "it is read-only");
    for (let step = 0; step < steps && fine.length > 0 && doubt === undefined; step += 1) {
      const offset = random.pick(fine);
      const old = Buffer.from(expected.subarray(offset, offset + PIECE));
      const data = random.fill(expected.subarray(offset, offset + PIECE));
      try {
        await opened.write(offset, data);
        await opened.flush();
      } catch (error) {
        // It may be the place of a write that can be written no more.
        if (!isUnreadable(error) || (form !== "for ever" && subject.stops !== true)) throw error;
        doubt = { offset, old };
      }
    }
    await compare(opened, expected, "or EIO", doubt);
    await opened.close().catch((error: unknown) => {
      if (!isUnreadable(error)) throw error;
      hasFailed = true;
    });
  }
  below.bad.clear();
  const again = await reopen();
  try {
    if (subject.survives === "close" && (hasFailed || doubt !== undefined)) return;
    await compare(again, expected, "whole", doubt);
  } finally {
    await again.close();
  }
}

/** A piece that holds what is expected, or what was there before. */
interface Doubt {
  readonly offset: number;
  readonly old: Buffer;
}

const isUnreadable = (error: unknown): boolean => error instanceof BlockIoError && error.code === "EIO";

/** Compares everything that can be read, and returns the offsets of the pieces that cannot. */
async function compare(
  device: BlockDevice,
  expected: Buffer,
  demand: "whole" | "or EIO",
  doubt?: Doubt,
): Promise<Set<number>> {
  const lost = new Set<number>();
  const isRight = (found: Buffer, at: number): boolean => {
    if (found.equals(expected.subarray(at, at + SECTOR))) return true;
    const within = doubt === undefined ? -1 : at - doubt.offset;
    return within >= 0 && doubt?.old.subarray(within, within + SECTOR).equals(found) === true;
  };
  const look = async (offset: number, length: number): Promise<void> => {
    try {
      const found = await readBack(device, offset, length);
      for (let at = 0; at < length; at += SECTOR)
        assert.ok(isRight(found.subarray(at, at + SECTOR), offset + at), `wrong bytes at ${offset + at}`);
    } catch (error) {
      if (!isUnreadable(error) || demand === "whole") throw error;
      if (length === PIECE) {
        lost.add(offset);
        return;
      }
      await look(offset, length / 2);
      await look(offset + length / 2, length / 2);
    }
  };
  await look(0, SPAN);
  return lost;
}
