/** What a running cache can be told, and what it says of itself. */
import {
  BlockIoError,
  type Controls,
  type Facts,
  type LongWork,
  SECTOR,
  type WatchedFacts,
  endable,
} from "@dmkit/block-io";
import { spans } from "../core/history.ts";
import type { Policy } from "../format/superblock.ts";
import type { Metadata } from "./metadata/metadata.ts";
import type { CacheState } from "./state.ts";
import { cacheTunables } from "../options.ts";

/** A running cache, as its messages and figures see it. */
export interface ControlledCache {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly state: CacheState;
  readonly metadata: Metadata;
  readonly policy: Policy;
  status(): string;
  clean(options: LongWork): Promise<void>;
  invalidate(offset: number, length: number): Promise<void>;
}

// Bytes that are dropped before others have a turn, and the one who waits is told.
const INVALIDATED = 16 * 1024 * 1024;

export const cacheControls: Controls<ControlledCache> = {
  tunables: cacheTunables,
  messages: {
    status: {
      arguments: "",
      readOnly: true,
      help: "answers with the status line",
      run: (device) => device.status(),
    },
    stats: {
      arguments: "",
      readOnly: true,
      help: "answers with what happened in the last five minutes, hour, day and since the cache was opened, as JSON",
      run: statsLine,
    },
    table: {
      arguments: "",
      readOnly: true,
      help: "answers with the configuration in the historical words",
      run: tableLine,
    },
    clean: endable("writes back everything that is dirty now, and answers when it is", (device, work) =>
      device.clean(work),
    ),
    clear_stats: {
      arguments: "",
      help: "sets the counters of requests, and what stats tells of them, to 0",
      run(device) {
        device.state.clearStatistics();
        return "";
      },
    },
    invalidate: {
      arguments: "<first sector> <sectors>",
      long: true,
      help: "drops what the cache holds of a range; what is dirty of it is written back first",
      async run(device, args, { signal, progress }) {
        const [offset, length] = range(device, args);
        for (let at = 0; at < length; at += INVALIDATED) {
          signal?.throwIfAborted();
          const part = Math.min(INVALIDATED, length - at);
          await device.invalidate(offset + at, part);
          progress?.({ done: (at + part) / SECTOR, total: length / SECTOR, unit: "sectors" });
        }
        return "";
      },
    },
  },
};

/** The historical figures, then `key value` pairs. */
export function statusLine(device: ControlledCache): string {
  const pairs = Object.entries(figures(device)).map(([key, value]) => `${key} ${value}`);
  return [device.state.statistics.statsLine(), ...pairs].join(" ");
}

/** The figures of the status line by name, the historical ones included, and those that are watched. */
export function cacheFacts(device: ControlledCache): Facts & WatchedFacts {
  const { statistics, frames, blockBytes, environment } = device.state;
  return {
    hits: statistics.hits,
    misses: statistics.reads + statistics.writes - statistics.hits,
    capacity_bytes: frames.geometry.frames * blockBytes,
    dirty_bytes: frames.dirty * blockBytes,
    oldest_dirty_seconds: frames.ages.oldest(environment.clock.now()),
    written_back_bytes: statistics.writtenBack * blockBytes,
    bypassed_bytes: statistics.bypassed * blockBytes,
    reads: statistics.reads,
    writes: statistics.writes,
    cache_hits: statistics.hits,
    hit_percentage: statistics.hitPercentage,
    replacements: statistics.replacements,
    replaced_dirty_blocks: statistics.replacedDirty,
    ...figures(device),
  };
}

function figures({ state, metadata, policy }: ControlledCache): Facts {
  const { statistics, frames } = state;
  if (!state.readOnly) void state.space.look();
  const recent = state.history.of("5min", state.environment.clock.now());
  return {
    policy,
    health: healthOf(state),
    needs_check: metadata.needsCheck ? 1 : 0,
    metadata: `v${metadata.version}`,
    frames: frames.geometry.frames,
    used: frames.bound,
    dirty: frames.dirty,
    read_hits: statistics.readHits,
    read_misses: statistics.reads - statistics.readHits,
    write_hits: statistics.writeHits,
    write_misses: statistics.writes - statistics.writeHits,
    bypassed: statistics.bypassed,
    written_back: statistics.writtenBack,
    cache_errors: statistics.cacheErrors,
    writeback_errors: statistics.writebackErrors,
    blocks_5min: recent.reads + recent.writes,
    hits_5min: recent.read_hits + recent.write_hits,
    // Only where it is so: the usual line is as it was.
    ...(state.space.missing > 0 && { missing_space: state.space.missing }),
  };
}

function healthOf({ sourceError, cacheError, cacheFull }: CacheState): string {
  if (sourceError !== undefined) return "source-failed";
  if (cacheError !== undefined) return "cache-failed";
  return cacheFull === undefined ? "ok" : "cache-full";
}

/** What happened in each span of time, as JSON in one line. */
export function statsLine({ state }: ControlledCache): string {
  const now = state.environment.clock.now();
  return JSON.stringify(Object.fromEntries(spans.map((span) => [span, state.history.of(span, now)])));
}

/** The configuration in the historical words. */
export function tableLine({ state, policy }: ControlledCache): string {
  const { frames, blockSectors, ways } = state.frames.geometry;
  const megabytes = Math.floor((frames * blockSectors) / 2048);
  const kilobytes = Math.floor((blockSectors * SECTOR) / 1024);
  return `conf: capacity(${megabytes}M), associativity(${ways}), block size(${kilobytes}K), ${policy}`;
}

/** `<sector> <sectors>` as bytes. */
function range(device: ControlledCache, [start, length, ...rest]: readonly string[]): [number, number] {
  const [first, count] = [start, length].map((word) =>
    /^\d+$/.test(word ?? "") ? Number(word) : Number.NaN,
  );
  const sectors = device.size / SECTOR;
  if (
    rest.length === 0 &&
    first !== undefined &&
    count !== undefined &&
    first <= sectors &&
    count <= sectors - first
  ) {
    return [first * SECTOR, count * SECTOR];
  }
  throw new BlockIoError("the range is not inside the device", {
    code: "EINVAL",
    device: device.name,
    op: "message",
    hint: "Write: invalidate <first sector> <sectors>.",
  });
}
