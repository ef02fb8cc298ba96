/** What the targets of a device count, as shares: columns of `dmkit top`, and metrics. */
import type { GaugeCounts } from "@dmkit/block-io";
import type { SegmentStatus } from "../manager/snapshot.ts";

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

export function gaugesOf(before: readonly SegmentStatus[], after: readonly SegmentStatus[]): Gauges {
  const [old, now] = [sumOf(before), sumOf(after)];
  const lookups = (now.lookups ?? 0) - (old.lookups ?? 0);
  const hits = (now.hits ?? 0) - (old.hits ?? 0);
  const isNew = lookups > 0 && hits >= 0 && hits <= lookups;
  return {
    hits: isNew ? hits / lookups : share(now.hits, now.lookups),
    dirty: share(now.dirty, now.capacity),
    segments: now.segments,
    ratio: share(now.data, now.stored),
  };
}

function share(part = 0, whole = 0): number | undefined {
  return whole > 0 ? part / whole : undefined;
}

function sumOf(segments: readonly SegmentStatus[]): GaugeCounts {
  const sum: Partial<Record<keyof GaugeCounts, number>> = {};
  for (const { gauges = {} } of segments) {
    for (const [name, value] of Object.entries(gauges)) {
      const key = name as keyof GaugeCounts;
      sum[key] = (sum[key] ?? 0) + value;
    }
  }
  return sum;
}
