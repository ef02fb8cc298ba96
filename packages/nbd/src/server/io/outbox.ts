/**
 * What goes out on a connection: replies in order of completion, all of one turn in one write.
 *
 * Replies are made in slabs of 68 KiB (long ones in a slab of their own):
 *
 *     | reply | reply | READ header, data read into its place | reply |  free ...
 *     +-- committed: one run, one write ---------------------+-- reserved, not committed yet
 *
 * Invariants:
 *
 * - a slab's `holders` counts its reserved pieces and its runs that have not left; only with none does its
 *   buffer go back to the pool;
 * - runs leave in the order of their commits, and adjacent ones are one run: what completes in order in one
 *   slab is sent without being copied or even listed;
 * - the bytes charged for a request are given back when its reply has left, not before: a client that does
 *   not read its replies runs out of budget.
 */
import type { Duplex } from "node:stream";
import type { Account } from "./budget.ts";
import { type SizedBufferPool, bufferSize } from "./buffer-pool.ts";

const SLAB = bufferSize(0);
// Longer replies get a buffer of their own: they would waste what is left of a slab.
const LARGEST_IN_SLAB = SLAB / 4;

export interface Slab {
  readonly bytes: Buffer;
  /** Bytes reserved from the start. */
  used: number;
  holders: number;
  /** Whether its bytes go back to the pool. */
  readonly pooled: boolean;
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

/** A slab of its own for a reply that is made elsewhere: the first `length` bytes of `bytes`. */
export function slabOf(bytes: Buffer, length: number = bytes.length, pooled = false): Slab {
  return { bytes, used: length, holders: 1, pooled };
}

export class Outbox {
  readonly #stream: Duplex;
  readonly #pool: SizedBufferPool;
  readonly #account: Account;
  readonly #sentSome: () => void;
  #slab: Slab | undefined;
  #runs: Run[] = [];
  #last: Run | undefined;
  #queued = 0;
  #unsent = 0;
  #charge = 0;
  #batches: Batch[] = [];
  #sentBatches = 0;
  #closed = false;

  /** @param sentSome called when bytes have left. */
  constructor(stream: Duplex, pool: SizedBufferPool, account: Account, sentSome: () => void) {
    this.#sentSome = sentSome;
    this.#stream = stream;
    this.#pool = pool;
    this.#account = account;
  }

  /** Whether everything that was flushed has left. */
  get empty(): boolean {
    return this.#batches.length === 0 && this.#last === undefined;
  }

  /** Bytes that wait for the next {@link flush}. */
  get queued(): number {
    return this.#queued;
  }

  /** Bytes that the stream has taken, but the operating system has not. */
  get unsent(): number {
    return this.#unsent;
  }

  /** Names the write the peer has to take next, 0 if there is none; see {@link StallMeter}. */
  get token(): number {
    return this.#batches.length === 0 ? 0 : this.#sentBatches + 1;
  }

  /** Bytes of that write. */
  get tokenBytes(): number {
    return this.#batches[0]?.bytes ?? 0;
  }

  /**
   * Changes whenever the operating system has taken bytes of what is being written. How much of a write is left is an
   * undocumented property of a socket's handle; without it only whole writes count.
   */
  get tokenMoved(): number {
    const handle: unknown = Reflect.get(this.#stream, "_handle");
    const left: unknown =
      typeof handle === "object" && handle !== null ? Reflect.get(handle, "writeQueueSize") : undefined;
    return typeof left === "number" ? left : 0;
  }

  /** Room for `length` bytes: they end at the returned slab's `used`. To be committed or abandoned. */
  reserve(length: number): Slab {
    if (length > LARGEST_IN_SLAB) {
      return slabOf(this.#pool.take(length), length, true);
    }
    let slab = this.#slab;
    if (slab === undefined || length > SLAB - slab.used) {
      slab = { bytes: this.#pool.take(SLAB), used: 0, holders: 0, pooled: true };
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
    this.#queued += end - start;
    const last = this.#last;
    if (last !== undefined && last.slab === slab && last.end === start) {
      last.end = end;
      slab.holders -= 1;
      return;
    }
    this.#last = { slab, start, end };
    this.#runs.push(this.#last);
  }

  /** Queues a whole slab. */
  append(slab: Slab): void {
    this.commit(slab, 0, slab.used);
  }

  /** Takes a reservation back. */
  abandon(slab: Slab): void {
    slab.holders -= 1;
    if (slab.holders > 0) return;
    if (slab === this.#slab) this.#slab = undefined;
    if (slab.pooled) this.#pool.give(slab.bytes);
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
    this.#batches.push({ runs, charge: this.#charge, bytes: this.#queued });
    this.#unsent += this.#queued;
    this.#queued = 0;
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
    this.#unsent -= batch.bytes;
    this.#release(batch);
    this.#sentSome();
  };

  #release(batch: Batch): void {
    for (const run of batch.runs) this.abandon(run.slab);
    if (batch.charge > 0) this.#account.give(batch.charge);
  }
}
