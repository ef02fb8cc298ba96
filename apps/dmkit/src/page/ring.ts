/**
 * What a server did lately: its figures over 5 minutes, an hour and a day, for charts.
 *
 *     span     one sample in   samples
 *     5min     1 s             300
 *     1h       10 s            360
 *     24h      5 min           288
 *
 * A sample is the difference of two snapshots that lie as far apart, so that a percentile of five minutes is one of all
 * requests in them. When a ring is full, the oldest sample makes room.
 *
 * Invariant: memory is bounded. One device costs {@link BYTES_PER_DEVICE}; {@link MOST_DEVICES} are kept, those that
 * were there first, and one that is gone is forgotten with the next sample.
 */
import { type DeviceFigures, type Figures, figuresOf } from "../top/figures.ts";
import type { Snapshot } from "../top/snapshot.ts";

/** Milliseconds between two looks: {@link History.note} is called as often. */
export const TICK = 1000;

export const MOST_DEVICES = 100;

/** How far back somebody looks. */
export type Span = "5min" | "1h" | "24h";

const levels: Readonly<Record<Span, readonly [interval: number, samples: number]>> = {
  "5min": [1000, 300],
  "1h": [10_000, 360],
  "24h": [300_000, 288],
};

export const spans: readonly Span[] = Object.keys(levels) as Span[];

/** What a sample holds of a device: requests and bytes a second, microseconds, shares in 0 … 1. */
export type Column = `${"read" | "write"}${"Iops" | "Rate" | "P50" | "P99"}` | "hits" | "dirty";

/** Undefined: there was nothing to measure. */
const columns: Readonly<Record<Column, (figures: DeviceFigures) => number | undefined>> = {
  readIops: ({ read }) => read.iops,
  writeIops: ({ write }) => write.iops,
  readRate: ({ read }) => read.rate,
  writeRate: ({ write }) => write.rate,
  readP50: ({ read }) => read.p50,
  readP99: ({ read }) => read.p99,
  writeP50: ({ write }) => write.p50,
  writeP99: ({ write }) => write.p99,
  hits: ({ hits }) => hits,
  dirty: ({ dirty }) => dirty,
};

const columnNames = Object.keys(columns) as readonly Column[];
const valuesOf = Object.values(columns);

/** Of all spans together. */
export const BYTES_PER_DEVICE: number =
  Object.values(levels).reduce((sum, [, size]) => sum + size, 0) * columnNames.length * 4;

/** One device over one span, oldest sample first. */
export interface Series {
  /** Milliseconds between two samples. */
  readonly interval: number;
  /** Milliseconds since 1970. */
  readonly time: readonly number[];
  readonly values: Readonly<Record<Column, readonly (number | null)[]>>;
}

export class History {
  readonly #levels: ReadonlyMap<Span, Level> = new Map(
    spans.map((span) => [span, new Level(...levels[span])]),
  );
  #figures: Figures | undefined;

  /** Takes a look. */
  note(now: Snapshot): void {
    for (const level of this.#levels.values()) {
      const figures = level.note(now);
      if (level.interval === TICK) this.#figures = figures ?? this.#figures;
    }
  }

  /** Of the last second; undefined in the first one. */
  get figures(): Figures | undefined {
    return this.#figures;
  }

  /** Undefined for a device of which nothing is kept. */
  series(device: string, span: Span): Series | undefined {
    return this.#levels.get(span)?.series(device);
  }
}

class Level {
  readonly interval: number;
  readonly #size: number;
  readonly #time: Float64Array;
  /** By device: sample after sample, each with all columns; NaN for what was not there. */
  readonly #rows: Map<string, Float32Array> = new Map();
  /** Samples taken, ever: the next one has the place of this number. */
  #taken = 0;
  #before: Snapshot | undefined;

  constructor(interval: number, size: number) {
    this.interval = interval;
    this.#size = size;
    this.#time = new Float64Array(size);
  }

  /** The figures since the last sample, if it is time for one. */
  note(now: Snapshot): Figures | undefined {
    const before = this.#before;
    // A timer may fire a little early; half a look is nearer to this one than to the next.
    if (before !== undefined && now.time - before.time < this.interval - TICK / 2) return undefined;
    this.#before = now;
    if (before === undefined) {
      for (const { name } of now.devices) this.#begin(name);
      return undefined;
    }
    const figures = figuresOf(before, now);
    const place = this.#taken % this.#size;
    this.#time[place] = now.wallTime;
    const present = new Map(figures.devices.map((one) => [one.name, one]));
    for (const name of this.#rows.keys()) if (!present.has(name)) this.#rows.delete(name);
    for (const [name, device] of present) {
      const row = this.#rows.get(name) ?? this.#begin(name);
      row?.set(
        valuesOf.map((value) => value(device) ?? Number.NaN),
        place * columnNames.length,
      );
    }
    this.#taken += 1;
    return figures;
  }

  #begin(name: string): Float32Array | undefined {
    if (this.#rows.size >= MOST_DEVICES) return undefined;
    const row = new Float32Array(this.#size * columnNames.length).fill(Number.NaN);
    this.#rows.set(name, row);
    return row;
  }

  series(device: string): Series | undefined {
    const row = this.#rows.get(device);
    if (row === undefined) return undefined;
    const oldest = Math.max(0, this.#taken - this.#size);
    const places = Array.from({ length: this.#taken - oldest }, (_, index) => (oldest + index) % this.#size);
    const column = (number: number): (number | null)[] =>
      places.map((place) => rounded(row[place * columnNames.length + number] as number));
    return {
      interval: this.interval,
      time: places.map((place) => this.#time[place] as number),
      values: Object.fromEntries(columnNames.map((name, number) => [name, column(number)])) as Record<
        Column,
        (number | null)[]
      >,
    };
  }
}

/** Four digits say what a chart can show, in a fraction of the text. */
function rounded(value: number): number | null {
  return Number.isNaN(value) ? null : Number(value.toPrecision(4));
}
