/**
 * Sector contents that say what they are, so that an oracle can turn bytes back into a version.
 *
 *      byte    0   u32  version        1 … 2^31 - 2, or INITIAL
 *              4   u32  sector         low 32 bits of its number on the device under test
 *              8        496 bytes of a noise table, starting at a place that depends on version and sector
 *            504   u32  version xor 0xa5a5a5a5
 *            508   u32  sector xor version xor 0x5a5a5a5a
 *
 * Version 0 is a sector of zeroes. A sector that mixes two versions, was torn inside, belongs elsewhere or
 * holds anything else is told apart: the two ends disagree, or the noise does not belong to them.
 * The tables differ in how well they compress, so targets that compress see all kinds of data.
 */
import { getU32, isZero, setU32 } from "../../../bytes/bytes.ts";
import { SECTOR } from "../../../contract/device.ts";
import { Prng } from "../prng.ts";

/** A sector of zeroes. */
export const ZERO = 0;
/** What a disk filled with stamps held before anything was written. */
export const INITIAL = 0x7fff_ffff;
/** Not something that was ever written. */
export const GARBAGE = -1;
/** A well-formed stamp of another sector. */
export const FOREIGN = -2;

const BODY = SECTOR - 16;
const TABLE = 1 << 16;
const random = noise();
const tables: readonly Buffer[] = [random, random, text(), sparse()];

/** Fills the sector at byte `at` with the given version of the given sector. */
export function stamp(into: Buffer, at: number, version: number, sector: number): void {
  if (version === ZERO) {
    into.fill(0, at, at + SECTOR);
    return;
  }
  const from = place(version, sector);
  (tables[version & 3] as Buffer).copy(into, at + 8, from, from + BODY);
  setU32(into, at, version);
  setU32(into, at + 4, sector >>> 0);
  setU32(into, at + 504, (version ^ 0xa5a5_a5a5) >>> 0);
  setU32(into, at + 508, (sector ^ version ^ 0x5a5a_5a5a) >>> 0);
}

/** The version in the sector at byte `at`, {@link FOREIGN} or {@link GARBAGE}. */
export function identify(from: Buffer, at: number, sector: number): number {
  const version = getU32(from, at);
  if (version === ZERO) return isZero(from, at, at + SECTOR) ? ZERO : GARBAGE;
  const owner = getU32(from, at + 4);
  if (
    version > INITIAL ||
    getU32(from, at + 504) !== (version ^ 0xa5a5_a5a5) >>> 0 ||
    getU32(from, at + 508) !== (owner ^ version ^ 0x5a5a_5a5a) >>> 0
  )
    return GARBAGE;
  const start = place(version, owner);
  const table = tables[version & 3] as Buffer;
  if (table.compare(from, at + 8, at + 504, start, start + BODY) !== 0) return GARBAGE;
  return owner === sector >>> 0 ? version : FOREIGN;
}

/** For messages: what the two ends of a sector claim to be. */
export function describeSector(from: Buffer, at: number): string {
  if (isZero(from, at, at + SECTOR)) return "zeroes";
  const head = `${getU32(from, at)} of sector ${getU32(from, at + 4)}`;
  const tail = (getU32(from, at + 504) ^ 0xa5a5_a5a5) >>> 0;
  return `a head of version ${head}, a tail of version ${tail}`;
}

function place(version: number, sector: number): number {
  return ((Math.imul(version, 0x9e37_79b1) ^ Math.imul(sector, 0x85eb_ca6b)) >>> 8) & (TABLE - 1);
}

function filled(next: (random: Prng, at: number) => number): Buffer {
  const random = new Prng(0x5eed, 7);
  const table = Buffer.alloc(TABLE + SECTOR);
  for (let at = 0; at < table.length; at += 1) table[at] = next(random, at);
  return table;
}

function noise(): Buffer {
  return filled((random) => random.u32() & 0xff);
}

// Sixteen different bytes in short runs: compresses to about a third.
function text(): Buffer {
  let letter = 0x61;
  return filled((random) => {
    if (random.chance(0.4)) letter = 0x61 + random.below(16);
    return letter;
  });
}

// Zeroes with a byte here and there: compresses to almost nothing.
function sparse(): Buffer {
  return filled((random) => (random.chance(0.02) ? random.u32() & 0xff : 0));
}
