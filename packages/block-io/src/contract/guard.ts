/**
 * The one guard for bounds, alignment and lifecycle. A device extends {@link GuardedDevice} and implements
 * the `do…` methods, which see checked arguments only.
 *
 * Invariants kept here:
 *
 * - a `do…` method runs only while the device is open, with an aligned, non-empty range inside the device;
 * - after a failed flush (or {@link GuardedDevice.fail}) no write, flush, discard or writeZeroes is accepted,
 *   and no flush that was under way succeeds; a flush that failed without losing anything (`lossless`) is not
 *   the end;
 * - FUA that the limits call emulated is carried out here: what was asked for, then a flush like everybody's. Whoever
 *   says native gets it passed on, and calls `fail` itself where what it flushes then fails;
 * - what leaves is a BlockIoError, whatever was thrown inside.
 *
 * When the device is open, suspended or closed is in lifecycle.ts; `failed` is a property beside that: reads go on, writes
 * do not. A failed device closes and suspends without a flush, and that it closed promises nothing: `failure` says so.
 */
import {
  type BlockDevice,
  type Extent,
  type Limits,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
} from "./device.ts";
import { type BlockIoError, type Operation, toBlockIoError } from "./errors.ts";
import { ZERO_CHUNK, zeroes } from "../bytes/zeroes.ts";
import type { Facts, WatchedFacts } from "./facts.ts";
import { covering } from "./extents.ts";
import { type Health, wholeStory } from "./health.ts";
import { Lifecycle, type RequestCounts } from "./lifecycle.ts";
import { REOPEN, Refusals, asBuffer } from "./refusals.ts";
import { Vitals } from "./vitals.ts";

/** The base of all devices: a {@link BlockDevice} over `do…` methods, which see valid, non-empty requests only. */
export abstract class GuardedDevice implements BlockDevice {
  readonly name: string;
  readonly size: number;
  readonly limits: Limits;
  readonly #flushesAfterFua: boolean;
  readonly #refusals: Refusals;
  readonly #life: Lifecycle;
  readonly #vitals: Vitals = new Vitals();
  readonly #whenClosed: (() => void)[] = [];
  #failure: BlockIoError | undefined;

  /** @param size bytes; a multiple of `limits.logicalBlockSize`, at most 2^53 - 1. Throws `EINVAL`. */
  constructor(name: string, size: number, limits: Limits) {
    this.name = name;
    this.size = size;
    this.limits = limits;
    this.#flushesAfterFua = limits.capabilities.fua === "emulated";
    this.#refusals = new Refusals(name, size, limits);
    this.#life = new Lifecycle({
      name,
      willDrain: () => this.willDrain(),
      flush: async () => {
        if (!limits.capabilities.readOnly && this.failure === undefined) await this.#flushNow();
      },
      rest: () => this.doSuspend(),
      wake: () => this.doResume(),
      end: () => this.#end(),
    });
  }

  protected abstract doRead(offset: number, into: Buffer): Promise<void>;
  protected abstract doWrite(offset: number, from: Buffer, fua: boolean): Promise<void>;
  protected abstract doFlush(): Promise<void>;

  /** Not advertised, not done. */
  protected doDiscard(_offset: number, _length: number): Promise<void> {
    return done;
  }

  /** Writes zeroes as data. */
  protected async doWriteZeroes(offset: number, length: number, options: WriteZeroesOptions): Promise<void> {
    for (let at = 0; at < length; at += ZERO_CHUNK) {
      await this.doWrite(offset + at, zeroes(length - at), false);
    }
    // One barrier for all pieces instead of one for each.
    if (options.fua) await this.#flushNow();
  }

  /** Tells nothing: all is data. */
  protected async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    yield { offset, length, kind: "data" };
  }

  /**
   * Called when the device is about to be suspended: no request is under way, all is flushed. Whatever it does of its
   * own accord has to stop, until {@link GuardedDevice.doResume}.
   */
  protected doSuspend(): Promise<void> {
    return done;
  }

  /** Undoes doSuspend, also before a suspended device is closed. No request is let in before it is over. */
  protected doResume(): Promise<void> {
    return done;
  }

  /** From now on nothing new is let in, what is under way comes to its end, and a flush follows. */
  protected willDrain(): void {}

  /** Called once, after the last request has settled and all was flushed; never while suspended. */
  protected doClose(): Promise<void> {
    return done;
  }

  /** Runs `work` when the device is closed, whether or not that went well. */
  whenClosed(work: () => void): void {
    this.#whenClosed.push(work);
  }

  /** Requests that were accepted and have not settled, and how many have. */
  protected get requests(): RequestCounts {
    return this.#life;
  }

  /** Requests that were refused because they are not aligned, or not inside the device. */
  protected get invalidRequests(): number {
    return this.#refusals.count;
  }

  /** What made the device refuse writes, if anything did. */
  get failure(): BlockIoError | undefined {
    return this.#failure;
  }

  /**
   * Failed once it refuses writes, degraded while nothing it was asked is answered; a device that knows more of itself
   * says more. Silence is what two looks find, so it is noticed where health is looked at regularly.
   */
  health(): Health {
    if (this.#failure !== undefined) {
      return {
        state: "failed",
        why: `refuses writes since an earlier failure: ${wholeStory(this.#failure)}`,
        help: this.#failure.hint ?? REOPEN,
      };
    }
    return this.#vitals.silence(this.name, this.#life.inFlight, this.#life.settledCount);
  }

  /** What is watched of every device, and what this one adds to it. */
  facts(): Facts {
    return { ...this.watched(), ...this.#vitals.facts(this.#life.inFlight) };
  }

  /** What it has of {@link watchedFacts} besides. */
  protected watched(): WatchedFacts {
    return {};
  }

  /** For a device that holds the data: whether it had space for it lately. */
  protected spaceHealth(): Health {
    return this.#vitals.space();
  }

  /** Whether a failed flush puts the device into the failed state (contract rule 5). */
  protected get failsForGood(): boolean {
    return true;
  }

  /** Refuse all further writes: what is on disk is not known any more. The first cause is kept. */
  protected fail(cause: BlockIoError): void {
    this.#failure ??= cause;
  }

  read(offset: number, bytes: Buffer): Promise<void> {
    const into = asBuffer(bytes);
    if (into === undefined) return Promise.reject(this.#refusals.notBytes("read", offset));
    const problem = this.#whyNot("read", offset, into.length);
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#life.state !== "open") return this.#life.held("read").then(() => this.read(offset, into));
    if (into.length === 0) return done;
    this.#life.inFlight += 1;
    let result: Promise<void>;
    try {
      result = this.doRead(offset, into);
    } catch (error) {
      return this.#threw(error, "read", offset, into.length);
    }
    if (result === done) {
      this.#life.settled();
      return done;
    }
    return result.then(this.#life.settled, (error: unknown) =>
      this.#threw(error, "read", offset, into.length),
    );
  }

  write(offset: number, bytes: Buffer, options?: WriteOptions): Promise<void> {
    const from = asBuffer(bytes);
    if (from === undefined) return Promise.reject(this.#refusals.notBytes("write", offset));
    const problem =
      this.#whyNot("write", offset, from.length) ??
      (options && this.#refusals.words("write", offset, from.length, options));
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#life.state !== "open")
      return this.#life.held("write").then(() => this.write(offset, from, options));
    if (from.length === 0) return done;
    this.#life.inFlight += 1;
    const fua = options?.fua === true;
    let result: Promise<void>;
    try {
      result =
        fua && this.#flushesAfterFua
          ? this.#flushedAfter(this.doWrite(offset, from, false))
          : this.doWrite(offset, from, fua);
    } catch (error) {
      return this.#threw(error, "write", offset, from.length);
    }
    if (result === done) {
      this.#life.settled();
      return done;
    }
    return result.then(this.#life.settled, (error: unknown) =>
      this.#threw(error, "write", offset, from.length),
    );
  }

  flush(): Promise<void> {
    if (this.limits.capabilities.readOnly) return done;
    const problem = this.#whyNot("flush", 0, 0);
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#life.state !== "open") return this.#life.held("flush").then(() => this.flush());
    return this.#flushNow();
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#run("discard", offset, length, () => this.doDiscard(offset, length));
  }

  async writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    const problem = this.#refusals.words("writeZeroes", offset, length, options);
    if (problem !== undefined) throw problem;
    await this.#run("writeZeroes", offset, length, () => {
      if (options.fast && !this.limits.capabilities.fastZero) {
        const reason = "writing zeroes is not faster than writing data here";
        throw this.#refusals.error("ENOTSUP", reason, "writeZeroes", offset, length);
      }
      return options.fua === true && this.#flushesAfterFua
        ? this.#flushedAfter(this.doWriteZeroes(offset, length, { ...options, fua: false }))
        : this.doWriteZeroes(offset, length, options);
    });
  }

  async *extents(offset: number, length: number): AsyncIterable<Extent> {
    const problem = this.#whyNot("extents", offset, length);
    if (problem !== undefined) throw problem;
    while (this.#life.state !== "open") await this.#life.held("extents");
    if (length === 0) return;
    this.#life.inFlight += 1;
    try {
      yield* covering(this.doExtents(offset, length), offset, length, {
        broken: (reason, from, bytes) => this.#refusals.error("EIO", reason, "extents", from, bytes),
        failed: (error) =>
          this.#vitals.noted(toBlockIoError(error, { device: this.name, op: "extents", offset, length })),
      });
    } catch (error) {
      throw toBlockIoError(error, { device: this.name, op: "extents", offset, length });
    } finally {
      this.#life.settled();
    }
  }

  suspend(): Promise<void> {
    return this.#life.suspend();
  }

  resume(): Promise<void> {
    return this.#life.resume();
  }

  close(): Promise<void> {
    return this.#life.close();
  }

  /** See {@link Lifecycle.inTurn}. */
  protected inTurn(work: (quiet: () => Promise<void>) => Promise<void>): Promise<void> {
    return this.#life.inTurn(work);
  }

  async #end(): Promise<void> {
    try {
      await this.doClose();
    } finally {
      for (const work of this.#whenClosed.splice(0)) work();
    }
  }

  /** FUA where the device has no better way. */
  #flushedAfter(result: Promise<void>): Promise<void> {
    return result === done ? this.#flushNow() : result.then(() => this.#flushNow());
  }

  async #flushNow(): Promise<void> {
    this.#life.inFlight += 1;
    try {
      await this.doFlush();
      // One that ran beside a flush that failed, or after it, may have found nothing left to write.
      if (this.#failure !== undefined && this.failsForGood) throw this.#failure;
      this.#vitals.flushed();
    } catch (error) {
      const failure = this.#vitals.noted(toBlockIoError(error, { device: this.name, op: "flush" }));
      if (this.failsForGood && !failure.lossless) this.fail(failure);
      throw failure;
    } finally {
      this.#life.settled();
    }
  }

  async #run(op: Operation, offset: number, length: number, work: () => Promise<void>): Promise<void> {
    for (;;) {
      const problem = this.#whyNot(op, offset, length);
      if (problem !== undefined) throw problem;
      if (this.#life.state === "open") break;
      await this.#life.held(op);
    }
    if (length === 0) return;
    this.#life.inFlight += 1;
    try {
      await work();
    } catch (error) {
      throw this.#vitals.noted(toBlockIoError(error, { device: this.name, op, offset, length }));
    } finally {
      this.#life.settled();
    }
  }

  #threw(error: unknown, op: Operation, offset: number, length: number): Promise<never> {
    this.#life.settled();
    return Promise.reject(
      this.#vitals.noted(toBlockIoError(error, { device: this.name, op, offset, length })),
    );
  }

  /** Why a request cannot be accepted, or undefined. */
  #whyNot(op: Operation, offset: number, length: number): BlockIoError | undefined {
    if (this.#life.state === "closed") return this.#life.closedError(op);
    return this.#refusals.of(op, offset, length, this.#failure);
  }
}
