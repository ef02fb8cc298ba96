/**
 * The one guard for bounds, alignment and lifecycle. A device extends {@link GuardedDevice} and implements
 * the `do…` methods, which see checked arguments only.
 *
 * Invariants kept here:
 *
 * - a `do…` method runs only while the device is open, with an aligned, non-empty range inside the device;
 * - `inFlight` counts exactly the `do…` calls that have not settled; suspend and close wait for zero;
 * - after a failed flush (or {@link GuardedDevice.fail}) no write, flush, discard or writeZeroes is accepted,
 *   and no flush that was under way succeeds; a flush that failed without losing anything (`lossless`) is not
 *   the end;
 * - suspend, resume and close take effect one after the other, in the order they were asked for; once close was
 *   asked for no request is accepted, and nothing runs any more when `doClose` is called;
 * - what leaves is a BlockIoError, whatever was thrown inside.
 *
 * A device that flushes inside a write with FUA calls `fail` itself when that flush fails. A failed device closes
 * and suspends without a flush, and that it closed promises nothing: `failure` says so.
 *
 *      open ⇄ suspended
 *        \      /
 *        closed          `failed` is a property beside the state: reads go on, writes do not
 */
import {
  type BlockDevice,
  type Extent,
  type Limits,
  SECTOR,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
} from "./device.ts";
import { BlockIoError, type ErrorCode, type Operation, toBlockIoError } from "./errors.ts";
import { type Gate, makeGate } from "./gate.ts";
import { type Health, wholeStory } from "./health.ts";
import { Vitals } from "./vitals.ts";

type State = "open" | "suspended" | "closed";

const READ_ONLY = "Open it for writing: without --read-only, on a file system that can be written to.";
const REOPEN = "Close and reopen the device; check the storage below it.";

// The most that is written at once where zeroes have to be written as data.
const ZERO_CHUNK = 1024 * 1024;
let zeroChunk: Buffer | undefined;

/** A shared read-only buffer of at most 1 MiB of zeroes. */
export function zeroes(length: number): Buffer {
  zeroChunk ??= Buffer.alloc(ZERO_CHUNK);
  return length >= ZERO_CHUNK ? zeroChunk : zeroChunk.subarray(0, length);
}

export abstract class GuardedDevice implements BlockDevice {
  readonly name: string;
  readonly size: number;
  readonly limits: Limits;

  #state: State = "open";
  #inFlight = 0;
  /** Requests that have settled; wraps around. */
  #settledCount = 0;
  readonly #vitals: Vitals = new Vitals();
  #invalid = 0;
  #failure: BlockIoError | undefined;
  #idle: (() => void)[] = [];
  // Changes of state that were asked for and are not over; settles, never rejects.
  #changing: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  readonly #whenClosed: (() => void)[] = [];
  // Exists while suspended.
  #gate: Gate | undefined;

  /** @param size bytes; a multiple of `limits.logicalBlockSize`, at most 2^53 - 1. Throws `EINVAL`. */
  constructor(name: string, size: number, limits: Limits) {
    const { logicalBlockSize } = limits;
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new BlockIoError(`${size} bytes are not from 0 to 2^53 - 1, the sizes a device can have`, {
        code: "EINVAL",
        device: name,
        op: "open",
        hint: "Use a smaller image, or a part of it: a table line such as 0 SECTORS linear IMAGE 0.",
      });
    }
    if (size % logicalBlockSize !== 0) {
      throw new BlockIoError(`size ${size} is not a multiple of ${logicalBlockSize} bytes`, {
        code: "EINVAL",
        device: name,
        op: "open",
        hint: `Extend it to a multiple of ${logicalBlockSize}, e.g. with: truncate -s %${logicalBlockSize} FILE`,
      });
    }
    this.name = name;
    this.size = size;
    this.limits = limits;
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

  /** Called once, after the last request has settled and all was flushed. */
  protected doClose(): Promise<void> {
    return done;
  }

  /** Runs `work` when the device is closed, whether or not that went well. */
  whenClosed(work: () => void): void {
    this.#whenClosed.push(work);
  }

  /** Requests that were accepted and have not settled. */
  protected get inFlight(): number {
    return this.#inFlight;
  }

  /** Requests that were refused because they are not aligned, or not inside the device. */
  protected get invalidRequests(): number {
    return this.#invalid;
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
    return this.#vitals.silence(this.name, this.#inFlight, this.#settledCount);
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
    if (into === undefined) return Promise.reject(this.#notBytes("read", offset));
    const problem = this.#refusal("read", offset, into.length);
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#state !== "open") return this.#held("read").then(() => this.read(offset, into));
    if (into.length === 0) return done;
    this.#inFlight += 1;
    let result: Promise<void>;
    try {
      result = this.doRead(offset, into);
    } catch (error) {
      return this.#threw(error, "read", offset, into.length);
    }
    if (result === done) {
      this.#settled();
      return done;
    }
    return result.then(this.#settled, (error: unknown) => this.#threw(error, "read", offset, into.length));
  }

  write(offset: number, bytes: Buffer, options?: WriteOptions): Promise<void> {
    const from = asBuffer(bytes);
    if (from === undefined) return Promise.reject(this.#notBytes("write", offset));
    const problem = this.#refusal("write", offset, from.length);
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#state !== "open") return this.#held("write").then(() => this.write(offset, from, options));
    if (from.length === 0) return done;
    this.#inFlight += 1;
    let result: Promise<void>;
    try {
      result = this.doWrite(offset, from, options?.fua === true);
    } catch (error) {
      return this.#threw(error, "write", offset, from.length);
    }
    if (result === done) {
      this.#settled();
      return done;
    }
    return result.then(this.#settled, (error: unknown) => this.#threw(error, "write", offset, from.length));
  }

  flush(): Promise<void> {
    if (this.limits.capabilities.readOnly) return done;
    const problem = this.#refusal("flush", 0, 0);
    if (problem !== undefined) return Promise.reject(problem);
    if (this.#state !== "open") return this.#held("flush").then(() => this.flush());
    return this.#flushNow();
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#run("discard", offset, length, () => this.doDiscard(offset, length));
  }

  async writeZeroes(offset: number, length: number, options: WriteZeroesOptions = {}): Promise<void> {
    await this.#run("writeZeroes", offset, length, () => {
      if (options.fast && !this.limits.capabilities.fastZero) {
        throw this.#error(
          "ENOTSUP",
          "writing zeroes is not faster than writing data here",
          "writeZeroes",
          offset,
          length,
        );
      }
      return this.doWriteZeroes(offset, length, options);
    });
  }

  async *extents(offset: number, length: number): AsyncIterable<Extent> {
    const problem = this.#refusal("extents", offset, length);
    if (problem !== undefined) throw problem;
    while (this.#state !== "open") await this.#held("extents");
    if (length === 0) return;
    this.#inFlight += 1;
    let at = offset;
    try {
      for await (const extent of this.doExtents(offset, length)) {
        if (extent.offset !== at || extent.length <= 0 || extent.length > offset + length - at) {
          throw this.#error(
            "EIO",
            `extents are not contiguous at ${at}`,
            "extents",
            extent.offset,
            extent.length,
          );
        }
        at += extent.length;
        yield extent;
      }
      if (at !== offset + length) throw this.#error("EIO", `extents end at ${at}`, "extents", offset, length);
    } catch (error) {
      throw toBlockIoError(error, { device: this.name, op: "extents", offset, length });
    } finally {
      this.#settled();
    }
  }

  suspend(): Promise<void> {
    return this.#afterOthers(async () => {
      if (this.#state === "closed") throw this.#closedError("suspend");
      if (this.#state === "suspended") return;
      this.#state = "suspended";
      this.#gate = makeGate();
      await this.#drained();
      if (!this.limits.capabilities.readOnly && this.#failure === undefined) await this.#flushNow();
    });
  }

  resume(): Promise<void> {
    return this.#afterOthers(async () => {
      if (this.#state === "closed") throw this.#closedError("resume");
      this.#state = "open";
      this.#gate?.open();
      this.#gate = undefined;
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #close(): Promise<void> {
    // At once, whatever else is under way: no request is accepted or held any more.
    this.#state = "closed";
    this.#gate?.refuse(this.#closedError("close"));
    return this.#afterOthers(async () => {
      await this.#drained();
      try {
        if (!this.limits.capabilities.readOnly && this.#failure === undefined) await this.#flushNow();
      } finally {
        try {
          await this.doClose();
        } finally {
          for (const work of this.#whenClosed.splice(0)) work();
        }
      }
    });
  }

  /** Runs a change of state when those asked for before it are over; at once if there are none. */
  #afterOthers(change: () => Promise<void>): Promise<void> {
    const result = this.#changing === undefined ? change() : this.#changing.then(change);
    const over = result.then(
      () => {},
      () => {},
    );
    this.#changing = over;
    void over.then(() => {
      if (this.#changing === over) this.#changing = undefined;
    });
    return result;
  }

  async #flushNow(): Promise<void> {
    this.#inFlight += 1;
    try {
      await this.doFlush();
      // One that ran beside a flush that failed, or after it, may have found nothing left to write.
      if (this.#failure !== undefined && this.failsForGood) throw this.#failure;
    } catch (error) {
      const failure = this.#vitals.noted(toBlockIoError(error, { device: this.name, op: "flush" }));
      if (this.failsForGood && !failure.lossless) this.fail(failure);
      throw failure;
    } finally {
      this.#settled();
    }
  }

  async #run(op: Operation, offset: number, length: number, work: () => Promise<void>): Promise<void> {
    for (;;) {
      const problem = this.#refusal(op, offset, length);
      if (problem !== undefined) throw problem;
      if (this.#state === "open") break;
      await this.#held(op);
    }
    if (length === 0) return;
    this.#inFlight += 1;
    try {
      await work();
    } catch (error) {
      throw this.#vitals.noted(toBlockIoError(error, { device: this.name, op, offset, length }));
    } finally {
      this.#settled();
    }
  }

  // Bound once: the hot path hands it to `then` without making a closure.
  readonly #settled = (): void => {
    this.#inFlight -= 1;
    this.#settledCount = (this.#settledCount + 1) | 0;
    if (this.#inFlight === 0 && this.#idle.length > 0) {
      for (const wake of this.#idle.splice(0)) wake();
    }
  };

  #threw(error: unknown, op: Operation, offset: number, length: number): Promise<never> {
    this.#settled();
    return Promise.reject(
      this.#vitals.noted(toBlockIoError(error, { device: this.name, op, offset, length })),
    );
  }

  #drained(): Promise<void> {
    if (this.#inFlight === 0) return done;
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #held(op: Operation): Promise<void> {
    if (this.#gate === undefined) return Promise.reject(this.#closedError(op));
    return this.#gate.promise;
  }

  /** Why a request cannot be accepted, or undefined. Lengths are compared without adding. */
  #refusal(op: Operation, offset: number, length: number): BlockIoError | undefined {
    if (this.#state === "closed") return this.#closedError(op);
    const writes = op !== "read" && op !== "extents";
    if (writes) {
      if (this.limits.capabilities.readOnly)
        return this.#error("EROFS", "the device is read-only", op, offset, length, READ_ONLY);
      if (this.#failure !== undefined) {
        return new BlockIoError(`the device refuses writes since a failure: ${this.#failure.message}`, {
          code: "EIO",
          device: this.name,
          op,
          offset,
          length,
          cause: this.#failure,
          hint: REOPEN,
        });
      }
    }
    const mask = this.limits.logicalBlockSize - 1;
    if (
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset <= this.size &&
      length <= this.size - offset &&
      // Numbers above 2^31 lose bits in &, but not the low ones a mask of a block looks at.
      (lowBits(offset) & mask) === 0 &&
      (lowBits(length) & mask) === 0
    ) {
      return undefined;
    }
    this.#invalid += 1;
    const aligned =
      offset % this.limits.logicalBlockSize === 0 && length % this.limits.logicalBlockSize === 0;
    if (!aligned || offset < 0 || length < 0) {
      return this.#error(
        "EINVAL",
        `not a multiple of ${this.limits.logicalBlockSize} bytes`,
        op,
        offset,
        length,
      );
    }
    const code = op === "write" || op === "writeZeroes" ? "ENOSPC" : "EINVAL";
    return this.#error(code, `past the end of the device (${this.size} bytes)`, op, offset, length);
  }

  #notBytes(op: Operation, offset: number): BlockIoError {
    return this.#error("EINVAL", "the data is neither a Buffer nor a Uint8Array", op, offset, 0);
  }

  #error(
    code: ErrorCode,
    reason: string,
    op: Operation,
    offset: number,
    length: number,
    hint?: string,
  ): BlockIoError {
    return new BlockIoError(reason, { code, device: this.name, op, offset, length, hint });
  }

  #closedError(op: Operation): BlockIoError {
    return new BlockIoError("the device is closed", { code: "ESHUTDOWN", device: this.name, op });
  }
}

/**
 * The same memory as a Buffer: programs that use a device directly may bring a plain Uint8Array. Undefined for
 * anything else.
 */
export function asBuffer(bytes: unknown): Buffer | undefined {
  if (Buffer.isBuffer(bytes)) return bytes;
  if (!(bytes instanceof Uint8Array)) return undefined;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// ToInt32 of a safe integer keeps its low 32 bits exactly (modulo 2^32), so this is just a name for it.
function lowBits(value: number): number {
  return value | 0;
}

/** Sectors in `bytes`; throws `EINVAL` if it is not whole sectors. */
export function sectorsOf(bytes: number): number {
  if (bytes % SECTOR !== 0) {
    throw new BlockIoError(`${bytes} bytes are not whole sectors of ${SECTOR}`, { code: "EINVAL" });
  }
  return bytes / SECTOR;
}
