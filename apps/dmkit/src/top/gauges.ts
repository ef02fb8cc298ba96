/** What the targets of a device tell of caches and compression, as shares: columns of `dmkit top`. */
import { type WatchedFacts, joinFacts } from "@dmkit/block-io";
import type { SegmentStatus } from "../manager/snapshot.ts";

/** Of all segments of a device together; undefined where no target tells. */
export interface Gauges {
  /** Share of requests a cache could serve, in 0 … 1, since the snapshot before or, if there were none, ever. */
  readonly hits: number | undefined;
  /** Share of a cache that is dirty, in 0 … 1. */
  readonly dirty: number | undefined;
  /** Bytes that are in a cache only, and for how many seconds the oldest of them has been. */
  readonly dirtyBytes: number | undefined;
  readonly oldestDirty: number | undefined;
  /** Segments of a log that are not written back yet. */
  readonly segments: number | undefined;
  /** Bytes as written by bytes as stored. */
  readonly ratio: number | undefined;
}

export function gaugesOf(before: readonly SegmentStatus[], after: readonly SegmentStatus[]): Gauges {
  const [old, now] = [before, after].map((segments) => joinFacts(segments.map(({ fields }) => fields))) as [
    WatchedFacts,
    WatchedFacts,
  ];
  const grown = (name: "hits" | "misses"): number => (now[name] ?? 0) - (old[name] ?? 0);
  const lookups = grown("hits") + grown("misses");
  const isNew = lookups > 0 && grown("hits") >= 0 && grown("misses") >= 0;
  return {
    hits: isNew ? grown("hits") / lookups : share(now.hits, (now.hits ?? 0) + (now.misses ?? 0)),
    dirty: share(now.dirty_bytes, now.capacity_bytes),
    dirtyBytes: now.dirty_bytes,
    oldestDirty: now.oldest_dirty_seconds,
    segments: now.dirty_segments,
    ratio:
      share(now.data_bytes, now.stored_bytes) ?? share(now.compressed_from_bytes, now.compressed_to_bytes),
  };
}

function share(part = 0, whole = 0): number | undefined {
  return whole > 0 ? part / whole : undefined;
}
