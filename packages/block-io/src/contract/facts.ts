/**
 * What devices say of themselves by name. Some names mean the same whoever says them, and stand in one table here: what
 * `status --json`, the metrics and `top` show of devices is made of it. What has no number worth watching, or means
 * something to one target only, is a fact all the same, under a name of the target's own.
 */

/** What a device says of itself: counts, sizes in bytes, words. Names are lower case with underscores. */
export type Facts = Readonly<Record<string, string | number>>;

/** A fact that means the same for all devices. */
export interface WatchedFact {
  /** The metric's name, behind what it is of; of several facts that are one metric with a label. */
  readonly metric: string;
  /** `counter`: since the device was opened. */
  readonly type: "counter" | "gauge";
  /** One line. */
  readonly help: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** What the segments of a table come to; their sum if it is left out. */
  readonly joined?: "least" | "most" | undefined;
}

// The name, and what is said of it: type, metric, help, what the segments of a table come to if not their sum.
const table = [
  ["in_flight", "gauge", "in_flight_requests", "Requests it works on"],
  ["errors", "counter", "errors_total", "Requests that failed"],
  [
    "last_flush",
    "gauge",
    "last_flush_timestamp_seconds",
    "When a flush last succeeded; not there before the first",
    "least",
  ],
  ["hits", "counter", "cache_hits_total", "Blocks a cache was asked for and had"],
  ["misses", "counter", "cache_misses_total", "Blocks a cache was asked for and did not have"],
  ["capacity_bytes", "gauge", "cache_capacity_bytes", "What a cache has room for"],
  ["dirty_bytes", "gauge", "cache_dirty_bytes", "What is in a cache only: not on the device behind it"],
  [
    "oldest_dirty_seconds",
    "gauge",
    "cache_oldest_dirty_seconds",
    "For how long the oldest of what is dirty has been so, or the device has been open; 0 without any",
    "most",
  ],
  [
    "written_back_bytes",
    "counter",
    "cache_written_back_bytes_total",
    "Written by a cache to the device behind it",
  ],
  ["bypassed_bytes", "counter", "cache_bypassed_bytes_total", "What went past a cache: sequential streams"],
  ["cache_errors", "counter", "cache_errors_total", "Requests that a cache device failed"],
  ["writeback_errors", "counter", "cache_writeback_errors_total", "Attempts at writing back that failed"],
  [
    "bad_blocks",
    "gauge",
    "cache_bad_blocks",
    "Blocks that the device behind a cache does not take, and that stay in it",
  ],
  ["dirty_segments", "gauge", "log_dirty_segments", "Segments of a log that are not written back"],
  [
    "missing_space",
    "gauge",
    "space_missing_bytes",
    "By how much the file systems below are too small, should all of the devices be used",
  ],
  ["data_bytes", "gauge", "data_bytes", "What is stored compressed, as it was written"],
  ["stored_bytes", "gauge", "stored_bytes", "What is stored compressed, as it is stored"],
  ["compressed_from_bytes", "counter", "compressed_from_bytes_total", "Bytes before they were compressed"],
  ["compressed_to_bytes", "counter", "compressed_to_bytes_total", "Bytes after they were compressed"],
  ["damaged", "counter", "damaged_total", "Extents or blobs whose bytes were not what was stored"],
  ["invalid_io", "counter", "invalid_requests_total", "Requests outside of a RAM disk, or not aligned"],
  ["notify_free", "counter", "freed_pages_total", "Pages of a RAM disk that were discarded"],
  ["reconnects", "counter", "reconnects_total", "Times a server was lost and found again"],
  ["connections", "gauge", "connections", "Connections to a server; 0 while it is away"],
  ["replay_bytes", "gauge", "replay_bytes", "Writes a server has not flushed, kept to be repeated"],
  ["fetches", "counter", "fetches_total", "Blobs of an image that were fetched from the store"],
  ["fetched_bytes", "counter", "fetched_bytes_total", "Bytes of them"],
  [
    "node_cache_hits",
    "counter",
    "node_cache_hits_total",
    "Blobs of an image that lay in this machine's cache",
  ],
  [
    "archived_objects",
    "counter",
    "archive_shipped_objects_total",
    "Objects of its log that went to the archive",
  ],
  ["archived_bytes", "counter", "archive_shipped_bytes_total", "Bytes of segments that went to the archive"],
  ["unshipped_bytes", "gauge", "archive_unshipped_bytes", "Bytes of segments that are on this machine only"],
  [
    "unshipped_seconds",
    "gauge",
    "archive_oldest_unshipped_seconds",
    "Age of the oldest segment that is on this machine only",
    "most",
  ],
  [
    "taken_over",
    "gauge",
    "archive_taken_over",
    "1 if another machine has taken the disk over: the fence is lost",
  ],
  ["store_read_bytes", "counter", "store_read_bytes_total", "Bodies of objects that were read"],
  ["store_written_bytes", "counter", "store_written_bytes_total", "Bodies of objects that were sent"],
] as const;

/** What an object store is asked; creating an object is a `put`. */
export const storeRequests = ["get", "head", "put", "list", "remove"] as const;
type StoreRequest = (typeof storeRequests)[number];

/** A name in {@link watchedFacts}. */
export type WatchedName =
  | (typeof table)[number][0]
  | `store_${StoreRequest}s`
  | `store_${StoreRequest}_retries`
  | `store_${StoreRequest}_errors`;

/** All of them, in the order in which they are shown. */
export const watchedFacts: Readonly<Record<WatchedName, WatchedFact>> = Object.fromEntries([
  ...table.map(([name, type, metric, help, joined]) => [name, { type, metric, help, joined }]),
  ...ofStores("s", "store_requests_total", "Requests to an object store, repeated ones included"),
  ...ofStores("_retries", "store_retries_total", "Requests to an object store that were repeated"),
  ...ofStores("_errors", "store_errors_total", "Requests to an object store that failed"),
]) as Readonly<Record<WatchedName, WatchedFact>>;

function ofStores(suffix: string, metric: string, help: string): [string, WatchedFact][] {
  return storeRequests.map((operation) => [
    `store_${operation}${suffix}`,
    { type: "counter", metric, help, labels: { operation } },
  ]);
}

/** What a device says of what is worth watching; it leaves out what it does not have. */
export type WatchedFacts = { readonly [Name in WatchedName]?: number };

/** What several devices that are one together say of what is worth watching. */
export function joinFacts(all: readonly Facts[]): WatchedFacts {
  const joined: { -readonly [Name in WatchedName]?: number } = {};
  for (const facts of all) {
    for (const [name, value] of Object.entries(facts)) {
      if (typeof value !== "number" || !isWatched(name)) continue;
      const before = joined[name];
      joined[name] = before === undefined ? value : join(watchedFacts[name].joined, before, value);
    }
  }
  return joined;
}

function isWatched(name: string): name is WatchedName {
  return Object.hasOwn(watchedFacts, name);
}

function join(how: WatchedFact["joined"], one: number, other: number): number {
  if (how === "least") return Math.min(one, other);
  return how === "most" ? Math.max(one, other) : one + other;
}
