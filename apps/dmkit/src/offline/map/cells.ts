/**
 * A device as a grid of cells: each cell is a number of bytes that makes the grid fit, and shows the kind of the
 * highest weight that lies in it.
 *
 * Invariants: bytes of a cell, of a row and of a column of cells are powers of two, so that a row starts at a round
 * address; all strips of one size have the same scale, so that they can be compared cell by cell.
 */
import { type ImageMap, type MapKind, type MapStrip, describeSize } from "@dmkit/block-io";

export interface Grid {
  readonly title: string;
  /** Bytes. */
  readonly size: number;
  readonly cellBytes: number;
  readonly columns: number;
  readonly rows: number;
  /** How many cells there are; the last row may end early. */
  readonly count: number;
  /** By cell: number of the kind shown, -1 for none. */
  readonly shown: Int16Array;
  /** By cell and kind: bytes. */
  readonly bytes: Float64Array;
  /** By kind: bytes on the whole strip. */
  readonly totals: Float64Array;
}

/** A kind with its name. */
export interface NamedKind extends MapKind {
  readonly name: string;
}

export interface Picture {
  readonly kinds: readonly NamedKind[];
  readonly grids: readonly Grid[];
}

// Bytes: a cell is never less than a sector.
const SMALLEST = 512;

/** @param columns a power of two. @param rows of a strip, at most. */
export function layOut({ strips, legend }: ImageMap, columns: number, rows: number): Picture {
  const kinds = Object.entries(legend).map(([name, kind]) => ({ name, ...kind }));
  return { kinds, grids: strips.map((strip) => gridOf(strip, kinds, columns, rows)) };
}

/** The smallest power of two that is at least `value`. */
function powerOfTwo(value: number): number {
  let power = 1;
  while (power < value) power *= 2;
  return power;
}

function gridOf(strip: MapStrip, kinds: readonly NamedKind[], columns: number, rows: number): Grid {
  const cellBytes = Math.max(SMALLEST, powerOfTwo(strip.size / (columns * rows)));
  const count = Math.max(1, Math.ceil(strip.size / cellBytes));
  const shown = new Int16Array(count).fill(-1);
  const bytes = new Float64Array(count * kinds.length);
  const totals = new Float64Array(kinds.length);
  const numbers = new Map(kinds.map(({ name }, index) => [name, index]));
  for (const { offset, length, kind } of strip.ranges) {
    const number = numbers.get(kind);
    if (number === undefined) throw new TypeError(`the legend has no "${kind}"`);
    const weight = kinds[number]?.weight ?? 0;
    const end = Math.min(strip.size, offset + length);
    totals[number] = (totals[number] ?? 0) + Math.max(0, end - offset);
    for (let at = offset; at < end; ) {
      const cell = Math.floor(at / cellBytes);
      const next = Math.min(end, (cell + 1) * cellBytes);
      const index = cell * kinds.length + number;
      bytes[index] = (bytes[index] ?? 0) + next - at;
      const before = shown[cell] ?? -1;
      if (before < 0 || weight > (kinds[before]?.weight ?? 0)) shown[cell] = number;
      at = next;
    }
  }
  return {
    title: strip.title,
    size: strip.size,
    cellBytes,
    columns,
    rows: Math.ceil(count / columns),
    count,
    shown,
    bytes,
    totals,
  };
}

/** Where a row starts. */
export function addressOf({ columns, cellBytes }: Grid, row: number): string {
  return row === 0 ? "0" : describeSize(row * columns * cellBytes);
}

/** Bytes of a strip of which nothing is drawn. */
export function undrawn({ size, totals }: Grid): number {
  return Math.max(0, size - totals.reduce((sum, bytes) => sum + bytes, 0));
}

/** `12 %`, `< 0.1 %`; nothing is 0 that is not. */
export function share(part: number, whole: number): string {
  const percent = whole === 0 ? 0 : (part / whole) * 100;
  if (part > 0 && percent < 0.1) return "< 0.1 %";
  if (part < whole && percent > 99.9) return "> 99.9 %";
  return `${percent < 10 ? percent.toFixed(1).replace(/\.0$/, "") : Math.round(percent)} %`;
}
