/**
 * What a cache counted in the last five minutes, hour and day, and since it was opened; and how long requests took.
 *
 * The figures only ever grow. Of each span a ring keeps what they were at its last 30 ticks, so that "five minutes"
 * means five minutes and up to ten seconds more, and an hour and a day are a 30th longer at most. No timer is needed:
 * the ticks that have passed are noted by the next request, before it is counted.
 */
import { latencyBucket } from "@dmkit/block-io";

/** How many buckets latencies are counted in, see {@link latencyBucket}. */
export const LATENCY_BUCKETS = 24;
/** Figures before the buckets: blocks read, of these found in the cache, blocks written, of these in the cache. */
const COUNTS = 4;
const FIGURES = COUNTS + 2 * LATENCY_BUCKETS;
const TICKS = 30;
const MINUTE = 60_000;

/** The place of the first bucket of each kind of request. */
export const latencies: Readonly<Record<"read" | "write", number>> = {
  read: COUNTS,
  write: COUNTS + LATENCY_BUCKETS,
};

type Recent = "5min" | "hour" | "day";

/** What is asked of {@link History}. */
export type Span = Recent | "total";

const lengths: Readonly<Record<Recent, number>> = {
  "5min": 5 * MINUTE,
  hour: 60 * MINUTE,
  day: 24 * 60 * MINUTE,
};

export const spans: readonly Span[] = ["5min", "hour", "day", "total"];

export interface Figures {
  readonly reads: number;
  readonly read_hits: number;
  readonly writes: number;
  readonly write_hits: number;
  /** Bucket i: requests that took 2^i up to 2^(i+1) microseconds; bucket 0 starts at 0. */
  readonly read_latency: readonly number[];
  readonly write_latency: readonly number[];
}

/** The counts of {@link Figures} as they are now. */
export type Counts = Pick<Figures, "reads" | "writes"> & {
  readonly readHits: number;
  readonly writeHits: number;
};

/** What the figures were at the last ticks; the ring holds the oldest of them where the next will go. */
class Ring {
  readonly #period: number;
  readonly #past: Float64Array = new Float64Array(TICKS * FIGURES);
  #next = 0;
  /** Milliseconds. */
  due: number;

  constructor(length: number, now: number) {
    this.#period = length / TICKS;
    this.due = now + this.#period;
  }

  /** Notes all ticks up to now. */
  tick(now: number, figures: Float64Array): void {
    const passed = Math.floor((now - this.due) / this.#period) + 1;
    for (let tick = 0; tick < Math.min(passed, TICKS); tick += 1) {
      this.#past.set(figures, this.#next * FIGURES);
      this.#next = (this.#next + 1) % TICKS;
    }
    this.due += passed * this.#period;
  }

  clear(): void {
    this.#past.fill(0);
  }

  get oldest(): Float64Array {
    return this.#past.subarray(this.#next * FIGURES, (this.#next + 1) * FIGURES);
  }
}

export class History {
  readonly #counts: Counts;
  readonly #figures: Float64Array = new Float64Array(FIGURES);
  readonly #rings: Readonly<Record<Recent, Ring>>;
  #due: number;

  /** @param counts are looked at again and again. @param now milliseconds, here and below. */
  constructor(counts: Counts, now: number) {
    this.#counts = counts;
    this.#rings = {
      "5min": new Ring(lengths["5min"], now),
      hour: new Ring(lengths.hour, now),
      day: new Ring(lengths.day, now),
    };
    this.#due = this.#rings["5min"].due;
  }

  /** Forgets everything, together with the counts. */
  clear(): void {
    this.#figures.fill(0);
    for (const ring of Object.values(this.#rings)) ring.clear();
  }

  /** To be called before a request is counted. */
  advance(now: number): void {
    if (now >= this.#due) this.#tick(now);
  }

  /** A request was carried out. @param first bucket of its kind, of {@link latencies}. */
  took(first: number, milliseconds: number): void {
    const bucket = first + latencyBucket(milliseconds, LATENCY_BUCKETS);
    this.#figures[bucket] = (this.#figures[bucket] as number) + 1;
  }

  /** What happened in the last five minutes, hour or day, or since the cache was opened. */
  of(span: Span, now: number): Figures {
    this.advance(now);
    this.#take();
    const since = span === "total" ? undefined : this.#rings[span].oldest;
    const figures = Array.from(this.#figures, (value, index) => value - (since?.[index] ?? 0));
    const [reads = 0, readHits = 0, writes = 0, writeHits = 0] = figures;
    const buckets = (first: number): number[] => figures.slice(first, first + LATENCY_BUCKETS);
    return {
      reads,
      read_hits: readHits,
      writes,
      write_hits: writeHits,
      read_latency: buckets(latencies.read),
      write_latency: buckets(latencies.write),
    };
  }

  #tick(now: number): void {
    this.#take();
    for (const ring of Object.values(this.#rings)) if (now >= ring.due) ring.tick(now, this.#figures);
    this.#due = this.#rings["5min"].due;
  }

  #take(): void {
    const { reads, readHits, writes, writeHits } = this.#counts;
    this.#figures[0] = reads;
    this.#figures[1] = readHits;
    this.#figures[2] = writes;
    this.#figures[3] = writeHits;
  }
}
