/** What a running cache says of itself: the figures of its status, and its geometry, memory and errors. */
import type { Facts, WatchedFacts } from "@dmkit/block-io";
import { HIT } from "../../core/statistics.ts";
import { BLOCK, slotOf } from "../../format/geometry.ts";
import { segmentSize } from "../../format/segment.ts";
import type { Tunables } from "../../options.ts";
import type { Parts } from "../parts.ts";
import { type Status, statusFacts } from "./status.ts";
import type { Writeback } from "../writeback/writeback.ts";

/** @param missing bytes, if all of the devices is used. */
export function statusOf(
  { log, shipper, statistics }: Parts,
  writeback: Writeback,
  missing: number,
  tunables: Tunables,
): Status {
  const { slots, blocks } = log.geometry;
  const currentId = log.newestClosed + 1;
  return {
    cursor: slotOf(log.geometry, currentId) * blocks + log.count,
    cacheBlocks: slots * blocks,
    segments: slots,
    currentId,
    lastFlushedId: log.lastFlushed,
    lastWritebackId: log.lastWriteback,
    dirtyBlocks: log.map.dirtyBlocks,
    counters: [...statistics.counters],
    partialFlushes: statistics.partialFlushes,
    archive: shipper?.facts(),
    trouble: {
      writeback_errors: writeback.failures + writeback.bad.relogged,
      bad_blocks: writeback.bad.size,
      out_of_space: log.full === undefined ? 0 : 1,
      dead: log.dead === undefined ? 0 : 1,
      missing_space: missing,
    },
    batch: writeback.batch,
    tunables: { ...tunables },
  };
}

/**
 * The status by name, the geometry, and what is watched.
 * @param isComplete whether it writes through, and the backing device has everything.
 */
export function factsOf(
  parts: Parts,
  writeback: Writeback,
  status: Status,
  isComplete: boolean,
): Facts & WatchedFacts {
  const { log, shipper, statistics, ages } = parts;
  const { map, geometry, pool, lastFlushed, lastWriteback } = log;
  const hits = statistics.sum(HIT);
  return {
    ...statusFacts(status),
    segment_size_order: geometry.order,
    nr_rambuf_pool: pool,
    nr_cur_batched_writeback: writeback.batch,
    hits,
    misses: statistics.sum(0) - hits,
    capacity_bytes: geometry.slots * geometry.blocks * BLOCK,
    dirty_bytes: map.dirtyBlocks * BLOCK,
    oldest_dirty_seconds: ages.oldest,
    dirty_segments: Math.max(0, lastFlushed - lastWriteback),
    written_back_bytes: writeback.batches.written,
    bypassed_bytes: statistics.bypassedBytes,
    discarded_bytes: statistics.discardedBytes,
    backing_complete: isComplete ? 1 : 0,
    ...shipper?.watched(),
  };
}

/** Geometry, memory in bytes, and errors. */
export function infoOf({ log, plog }: Parts, writeback: Writeback): object {
  const { geometry, dialect, durable, map, pool } = log;
  const buffers = pool * segmentSize(geometry.blocks) + (plog?.bufferBytes ?? 0);
  return {
    dialect,
    segment_size_order: geometry.order,
    nr_rambuf_pool: pool,
    durable_id: durable,
    memory: { map: map.bytes, buffers, perBlock: map.bytes / (geometry.slots * geometry.blocks) },
    writeback_error: writeback.lastError?.message ?? null,
    bad_blocks: writeback.bad.size,
    out_of_space: log.full?.message ?? null,
    dead: log.dead?.message ?? null,
  };
}
