/** What an export did: per kind of request a count, bytes, errors, and how long it took. */
import { latencyBucket } from "@dmkit/block-io";
import { CMD } from "../../protocol.ts";

/** Kinds of request that are counted, under the names of the protocol's commands. */
export const countedOperations = [
  "read",
  "write",
  "flush",
  "trim",
  "cache",
  "writeZeroes",
  "blockStatus",
  "unknown",
] as const;

/** The operations that are counted. */
export type CountedOperation = (typeof countedOperations)[number];

/** How many buckets latencies are counted in, see {@link latencyBucket}. */
export const LATENCY_BUCKETS = 28;

/** One kind of request, since the export was added. */
export interface OperationStatistics {
  /** Requests answered, errors included. */
  readonly count: number;
  /** Bytes of the requests that succeeded. */
  readonly bytes: number;
  /** Requests answered with an error. */
  readonly errors: number;
  /** Bucket i: answered after 2^i up to 2^(i+1) microseconds; bucket 0 starts at 0. */
  readonly latency: readonly number[];
}

/** What was asked of an export since it was added. */
export type ExportStatistics = Readonly<Record<CountedOperation, OperationStatistics>>;

const nameOfCommand: readonly (CountedOperation | undefined)[] = Object.entries({
  [CMD.READ]: "read",
  [CMD.WRITE]: "write",
  [CMD.FLUSH]: "flush",
  [CMD.TRIM]: "trim",
  [CMD.CACHE]: "cache",
  [CMD.WRITE_ZEROES]: "writeZeroes",
  [CMD.BLOCK_STATUS]: "blockStatus",
} as const).reduce<(CountedOperation | undefined)[]>((names, [command, name]) => {
  names[Number(command)] = name;
  return names;
}, []);

/** The name under which a command is counted and logged. */
export function operationOf(command: number): CountedOperation {
  return nameOfCommand[command] ?? "unknown";
}

class Counter {
  count = 0;
  bytes = 0;
  errors = 0;
  // Counts stay exact up to 2^53, where 32-bit ones would wrap within hours.
  readonly latency: Float64Array = new Float64Array(LATENCY_BUCKETS);
}

/** Counts requests. Recording costs a few nanoseconds and no memory. */
export class Statistics {
  readonly #counters = countedOperations.map(() => new Counter());
  // Indexed by command, so that the hot path compares no strings.
  readonly #byCommand: readonly Counter[] = Array.from(
    { length: nameOfCommand.length },
    (_, command) => this.#counters[countedOperations.indexOf(operationOf(command))] as Counter,
  );
  readonly #unknown = this.#counters[countedOperations.indexOf("unknown")] as Counter;

  /** @param milliseconds from when its header was taken up until its reply was queued. */
  record(command: number, bytes: number, failed: boolean, milliseconds: number): void {
    const counter = this.#byCommand[command] ?? this.#unknown;
    counter.count += 1;
    if (failed) counter.errors += 1;
    else counter.bytes += bytes;
    const bucket = latencyBucket(milliseconds, LATENCY_BUCKETS);
    counter.latency[bucket] = (counter.latency[bucket] as number) + 1;
  }

  /** The figures as they are now. */
  snapshot(): ExportStatistics {
    const entries = countedOperations.map((name, index) => {
      const { count, bytes, errors, latency } = this.#counters[index] as Counter;
      return [name, { count, bytes, errors, latency: [...latency] }] as const;
    });
    return Object.fromEntries(entries) as unknown as ExportStatistics;
  }
}
