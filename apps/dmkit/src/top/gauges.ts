/** What targets say of themselves that is worth watching. */
import type { SegmentStatus } from "../control/snapshot.ts";

/** Of all segments of a device together; undefined where no target tells. */
export interface Gauges {
  /** Share of requests a cache could serve, in 0 … 1, since the snapshot before or, if there were none, ever. */
  readonly hits: number | undefined;
  /** Share of a cache that is dirty, in 0 … 1. */
  readonly dirty: number | undefined;
  /** Segments of a log that are not written back yet. */
  readonly segments: number | undefined;
  /** Bytes as written by bytes as stored. */
  readonly ratio: number | undefined;
}

/** Counts that add up over segments. */
interface Counts {
  hits: number;
  lookups: number;
  dirty: number;
  capacity: number;
  segments: number;
  data: number;
  stored: number;
}

type Values = Readonly<Record<string, number>>;

const readers: Readonly<Record<string, (values: Values) => Partial<Counts>>> = {
  writeboost: (values) => {
    const hit = sumWhere(values, /^(read|write)_hit_/);
    return {
      hits: hit,
      lookups: hit + sumWhere(values, /^(read|write)_miss_/),
      dirty: get(values, "dirty_blocks"),
      capacity: get(values, "cache_blocks"),
      segments: Math.max(0, get(values, "last_flushed_id") - get(values, "last_writeback_id")),
    };
  },
  cache: (values) => {
    const hits = get(values, "read_hits") + get(values, "write_hits");
    return {
      hits,
      lookups: hits + get(values, "read_misses") + get(values, "write_misses"),
      dirty: get(values, "dirty"),
      capacity: get(values, "frames"),
    };
  },
  zram: (values) => ({ data: get(values, "orig_data_size"), stored: get(values, "compr_data_size") }),
  compression: (values) => ({
    data: get(values, "data_size"),
    stored: get(values, "compressed_data_size"),
  }),
};

export function gaugesOf(before: readonly SegmentStatus[], after: readonly SegmentStatus[]): Gauges {
  const [old, now] = [total(before), total(after)];
  const lookups = now.lookups - old.lookups;
  const hits = now.hits - old.hits;
  const isNew = lookups > 0 && hits >= 0 && hits <= lookups;
  return {
    hits: isNew ? hits / lookups : share(now.hits, now.lookups),
    dirty: share(now.dirty, now.capacity),
    segments: after.some(({ target }) => target === "writeboost") ? now.segments : undefined,
    ratio: share(now.data, now.stored),
  };
}

function share(part: number, whole: number): number | undefined {
  return whole > 0 ? part / whole : undefined;
}

function total(segments: readonly SegmentStatus[]): Counts {
  const sum: Counts = { hits: 0, lookups: 0, dirty: 0, capacity: 0, segments: 0, data: 0, stored: 0 };
  for (const segment of segments) {
    const read = Object.hasOwn(readers, segment.target) ? readers[segment.target] : undefined;
    for (const [name, value] of Object.entries(read?.(valuesOf(segment)) ?? {})) {
      sum[name as keyof Counts] += value;
    }
  }
  return sum;
}

/** Those of a target's facts that are numbers. */
function valuesOf({ fields }: SegmentStatus): Values {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => typeof value === "number"),
  ) as Values;
}

function get(values: Values, name: string): number {
  return Object.hasOwn(values, name) ? (values[name] as number) : 0;
}

function sumWhere(values: Values, name: RegExp): number {
  return Object.entries(values).reduce((sum, [key, value]) => (name.test(key) ? sum + value : sum), 0);
}
