/**
 * What goes out on a connection: replies in order of completion, all of one turn in one write.
 *
 * Replies are made in slabs of 64 KiB:
 *
 *     | reply | reply | READ header, data read into its place | reply |  free ...
 *     +-- committed: one run, one write ---------------------+-- reserved, not committed yet
 *
 * Invariants:
 *
 * - a slab's `holders` counts its reserved pieces and its runs that have not left; only with none does it go
 *   back to the pool;
 * - runs leave in the order of their commits, and adjacent ones are one run: what completes in order in one
 *   slab is sent without being copied or even listed;
 * - the bytes charged for a request are given back when its reply has left, not before: a client that does
 *   not read its replies runs out of budget.
 */
import type { Duplex } from "node:stream";
import type { Account } from "./budget.ts";

const SLAB = 64 * 1024;
// Longer replies get a buffer of their own: they would waste what is left of a slab.
const LARGEST_IN_SLAB = SLAB / 4;
// Slabs kept for later, for all connections together.
const KEPT_SLABS = 64;

export interface Slab {
  readonly bytes: Buffer;
  /** Bytes reserved from the start. */
  used: number;
  holders: number;
  /** Whether it goes back to the pool. */
  readonly pooled: boolean;
}

/** Slabs for all connections of a server; the last one used is the next one out, still in the CPU's caches. */
export class SlabPool {
  readonly #free: Slab[] = [];

  take(): Slab {
    return this.#free.pop() ?? { bytes: Buffer.allocUnsafeSlow(SLAB), used: 0, holders: 0, pooled: true };
  }

  give(slab: Slab): void {
    slab.used = 0;
    if (slab.pooled && this.#free.length < KEPT_SLABS) this.#free.push(slab);
  }
}

interface Run {
  readonly slab: Slab;
  readonly start: number;
  end: number;
}

interface Batch {
  readonly runs: readonly Run[];
  readonly charge: number;
  readonly bytes: number;
}

export class Outbox {
  readonly #stream: Duplex;
  readonly #pool: SlabPool;
  readonly #account: Account;
  #slab: Slab | undefined;
  #runs: Run[] = [];
  #last: Run | undefined;
  #charge = 0;
  #batches: Batch[] = [];
  #sentBatches = 0;
  #closed = false;

  constructor(stream: Duplex, pool: SlabPool, account: Account) {
    this.#stream = stream;
    this.#pool = pool;
    this.#account = account;
  }

  /** Whether everything that was flushed has left. */
  get empty(): boolean {
    return this.#batches.length === 0 && this.#last === undefined;
  }

  /** Names the write the peer has to take next, 0 if there is none; see {@link StallMeter}. */
  get token(): number {
    return this.#batches.length === 0 ? 0 : this.#sentBatches + 1;
  }

  /** Bytes of that write. */
  get tokenBytes(): number {
    return this.#batches[0]?.bytes ?? 0;
  }

  /** Room for `length` bytes: they end at the returned slab's `used`. To be committed or abandoned. */
  reserve(length: number): Slab {
    if (length > LARGEST_IN_SLAB) {
      return { bytes: Buffer.allocUnsafeSlow(length), used: length, holders: 1, pooled: false };
    }
    let slab = this.#slab;
    if (slab === undefined || length > SLAB - slab.used) {
      if (slab !== undefined && slab.holders === 0) this.#pool.give(slab);
      slab = this.#pool.take();
      this.#slab = slab;
    }
    slab.used += length;
    slab.holders += 1;
    return slab;
  }

  /** Queues the reserved bytes `start` to `end`. */
  commit(slab: Slab, start: number, end: number): void {
    if (this.#closed) {
      this.abandon(slab);
      return;
    }
    const last = this.#last;
    if (last !== undefined && last.slab === slab && last.end === start) {
      last.end = end;
      slab.holders -= 1;
      return;
    }
    this.#last = { slab, start, end };
    this.#runs.push(this.#last);
  }

  /** Queues bytes that were made elsewhere and do not change any more. */
  append(bytes: Buffer): void {
    this.commit({ bytes, used: bytes.length, holders: 1, pooled: false }, 0, bytes.length);
  }

  /** Takes a reservation back. */
  abandon(slab: Slab): void {
    slab.holders -= 1;
    if (slab.holders > 0) return;
    if (slab === this.#slab) this.#slab = undefined;
    this.#pool.give(slab);
  }

  /** To be given back to the account when what is queued now has left. */
  charge(bytes: number): void {
    if (this.#closed) this.#account.give(bytes);
    else this.#charge += bytes;
  }

  /** Sends what is queued. */
  flush(): void {
    const runs = this.#runs;
    if (runs.length === 0) return;
    let bytes = 0;
    for (const run of runs) bytes += run.end - run.start;
    this.#batches.push({ runs, charge: this.#charge, bytes });
    this.#runs = [];
    this.#last = undefined;
    this.#charge = 0;
    const first = runs[0] as Run;
    if (runs.length === 1) {
      this.#stream.write(first.slab.bytes.subarray(first.start, first.end), this.#sent);
      return;
    }
    this.#stream.cork();
    for (let index = 0; index < runs.length; index += 1) {
      const { slab, start, end } = runs[index] as Run;
      const callback = index === runs.length - 1 ? this.#sent : undefined;
      this.#stream.write(slab.bytes.subarray(start, end), callback);
    }
    this.#stream.uncork();
  }

  /** The stream is gone: nothing leaves any more, and all that was held for it is given back. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const batches = this.#batches;
    this.#batches = [];
    batches.push({ runs: this.#runs, charge: this.#charge, bytes: 0 });
    this.#runs = [];
    this.#last = undefined;
    for (const batch of batches) this.#release(batch);
  }

  readonly #sent = (): void => {
    const batch = this.#batches.shift();
    if (batch === undefined) return;
    this.#sentBatches += 1;
    this.#release(batch);
  };

  #release(batch: Batch): void {
    for (const run of batch.runs) this.abandon(run.slab);
    if (batch.charge > 0) this.#account.give(batch.charge);
  }
}
