/** The status line, to and fro. */
import { BlockIoError, type Facts } from "@dmkit/block-io";
import { type TunableName, type Tunables, defaultTunables, tunableNames } from "../../options.ts";

/** What the status line says. */
export interface Status {
  /** Cache block the next new block goes to. */
  readonly cursor: number;
  readonly cacheBlocks: number;
  readonly segments: number;
  readonly currentId: number;
  readonly lastFlushedId: number;
  readonly lastWritebackId: number;
  readonly dirtyBlocks: number;
  /** 16 of them; the index has bits 8 write, 4 hit, 2 on buffer, 1 full size. */
  readonly counters: readonly number[];
  readonly partialFlushes: number;
  /** Segments written back at once: `nr_max_batched_writeback`, bounded by memory. */
  readonly batch: number;
  /** In a line that was read, without `nr_max_batched_writeback`, of which the line shows what it comes to. */
  readonly tunables: Partial<Tunables>;
  /** Of a log that is archived. */
  readonly archive?: Readonly<Record<string, number>> | undefined;
  /** What is wrong now, or has been since the cache was opened. */
  readonly trouble: Trouble;
}

const troubles = ["writeback_errors", "bad_blocks", "out_of_space", "missing_space", "dead"] as const;

/**
 * `writeback_errors`: attempts of writeback that failed, at least for some blocks; `bad_blocks`: blocks that the
 * backing device does not take now; `out_of_space`: 1 while segments stay in RAM because there is no space below the
 * cache device; `missing_space`: bytes by which the file system below is too small for the whole log; `dead`: 1 when the cache device has failed.
 */
export type Trouble = Record<(typeof troubles)[number], number>;

const BATCH = "nr_cur_batched_writeback";
/** Of those that do not depend on the geometry. */
const usual = defaultTunables(10);
const order: readonly (TunableName | typeof BATCH)[] = [
  "allow_writeback",
  "enable_writeback_modulator",
  "writeback_threshold",
  BATCH,
  "sync_interval",
  "update_record_interval",
];

/** The status line in the order and with the names of the original; new fields come as pairs at its end, where not zero. */
export function printStatus(status: Status): string {
  const pairs = order.flatMap((name) => [
    name,
    String(name === BATCH ? status.batch : (status.tunables[name] ?? 0)),
  ]);
  for (const name of tunableNames.slice(order.length)) {
    const value = status.tunables[name] ?? usual[name];
    if (value !== usual[name]) pairs.push(name, String(value));
  }
  for (const [name, value] of Object.entries(status.archive ?? {})) pairs.push(name, String(value));
  for (const name of troubles) {
    const value = status.trouble[name];
    if (value > 0) pairs.push(name, String(value));
  }
  return [
    status.cursor,
    status.cacheBlocks,
    status.segments,
    status.currentId,
    status.lastFlushedId,
    status.lastWritebackId,
    status.dirtyBlocks,
    ...status.counters,
    status.partialFlushes,
    pairs.length,
    ...pairs,
  ].join(" ");
}

/** Reads a status line; throws `EPARSE`. Keys it does not know are left out. */
export function parseStatus(line: string): Status {
  const words = line.trim().split(/\s+/);
  const numbers = words.slice(0, 25).map((word) => (/^\d+$/.test(word) ? Number(word) : Number.NaN));
  const count = numbers[24] ?? Number.NaN;
  const pairs = words.slice(25, 25 + count);
  if (words.length < 25 || numbers.some(Number.isNaN) || pairs.length !== count || count % 2 !== 0) {
    throw new BlockIoError("this is not a writeboost status line", { code: "EPARSE", op: "parse" });
  }
  const tunables: Partial<Tunables> = {};
  const trouble: Trouble = { writeback_errors: 0, bad_blocks: 0, out_of_space: 0, missing_space: 0, dead: 0 };
  let batch = 0;
  for (let at = 0; at < pairs.length; at += 2) {
    const word = (pairs[at] as string).toLowerCase();
    const name = tunableNames.find((known) => known === word);
    if (name !== undefined) tunables[name] = Number(pairs[at + 1]);
    else if (word === BATCH) batch = Number(pairs[at + 1]);
    const wrong = troubles.find((known) => known === word);
    if (wrong !== undefined) trouble[wrong] = Number(pairs[at + 1]);
  }
  const [cursor = 0, cacheBlocks = 0, segments = 0, currentId = 0, lastFlushedId = 0] = numbers;
  return {
    cursor,
    cacheBlocks,
    segments,
    currentId,
    lastFlushedId,
    lastWritebackId: numbers[5] ?? 0,
    dirtyBlocks: numbers[6] ?? 0,
    counters: numbers.slice(7, 23),
    partialFlushes: numbers[23] ?? 0,
    batch,
    tunables,
    trouble,
  };
}

/** The figures of the status line by name: counters as `write_hit_cache_full`. */
export function statusFacts(status: Omit<Status, "tunables">): Facts {
  return {
    cursor: status.cursor,
    cache_blocks: status.cacheBlocks,
    segments: status.segments,
    current_id: status.currentId,
    last_flushed_id: status.lastFlushedId,
    last_writeback_id: status.lastWritebackId,
    dirty_blocks: status.dirtyBlocks,
    partial_flushes: status.partialFlushes,
    ...Object.fromEntries(status.counters.map((count, index) => [counterName(index), count])),
    ...status.archive,
    ...status.trouble,
  };
}

function counterName(index: number): string {
  const words = [
    [8, "write", "read"],
    [4, "hit", "miss"],
    [2, "buffer", "cache"],
    [1, "full", "partial"],
  ] as const;
  return words.map(([bit, yes, no]) => ((index & bit) === 0 ? no : yes)).join("_");
}
