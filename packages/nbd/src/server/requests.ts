/**
 * Carries requests out: charges them, hands them to the device, makes their replies.
 *
 * Invariants:
 *
 * - every request that was begun is answered exactly once, unless its connection is gone;
 * - its bytes are charged before the device sees it and given back when the reply has left;
 * - `inFlight` counts the requests the device has not answered; they outlive their connection.
 */
import { type BlockDevice, BlockIoError, type ErrorCode, codeOf, done } from "@dmkit/block-io";
import {
  CHUNK,
  CHUNK_HEADER_LENGTH,
  CMD,
  CMD_FLAG,
  DATA_CHUNK_OVERHEAD,
  REPLY_FLAG,
  SIMPLE_REPLY_LENGTH,
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeSimpleReply,
  errnoOf,
} from "../protocol.ts";
import { statusReply } from "./block-status.ts";
import type { Account } from "./budget.ts";
import { CommandRules, type Refusal } from "./commands.ts";
import { type BufferPool, bufferSize } from "./buffer-pool.ts";
import type { ServerContext } from "./context.ts";
import { MINIMUM_CHARGE, type ServerLimits } from "./limits.ts";
import type { Agreement } from "./negotiation.ts";
import { type Outbox, type Slab, slabOf } from "./outbox.ts";
import type { RequestSink, Verdict } from "./receiver.ts";
import { Request, type RequestOwner } from "./request.ts";
import { HoleSense, sparseReply } from "./sparse-read.ts";

/** What the connection has to know and to decide. */
export interface RequestEvents {
  /** The server is being shut down. */
  readonly stopping: boolean;
  /** Milliseconds on the environment's clock. */
  now(): number;
  /** The client said goodbye. */
  disconnected(): void;
  /** The client broke the protocol beyond repair. */
  violated(reason: string): void;
  /** A request was answered: there is something to send. */
  answered(): void;
}

const shuttingDown: Refusal = { code: "ESHUTDOWN", text: "the export is being shut down" };
const withFua = { fua: true } as const;
const CACHE_PIECE = 256 * 1024;

export class Requests implements RequestSink, RequestOwner {
  readonly #agreement: Agreement;
  readonly #device: BlockDevice;
  readonly #limits: ServerLimits;
  readonly #buffers: BufferPool;
  readonly #account: Account;
  readonly #outbox: Outbox;
  readonly #events: RequestEvents;
  readonly #rules: CommandRules;
  readonly #holes: HoleSense;
  readonly #structured: boolean;
  readonly #free: Request[] = [];
  /** Requests the device is carrying out. */
  inFlight = 0;
  /** When the bytes that are being parsed arrived, on the environment's clock. */
  arrival = 0;

  constructor(
    agreement: Agreement,
    { limits, buffers }: ServerContext,
    account: Account,
    outbox: Outbox,
    events: RequestEvents,
  ) {
    this.#agreement = agreement;
    this.#device = agreement.exported.device;
    this.#limits = limits;
    this.#buffers = buffers;
    this.#account = account;
    this.#outbox = outbox;
    this.#events = events;
    this.#structured = agreement.structured;
    this.#holes = new HoleSense(agreement.structured && this.#device.limits.capabilities.extents);
    this.#rules = new CommandRules(
      agreement.exported,
      agreement.structured,
      agreement.contexts.length > 0,
      limits.maximumPayload,
    );
  }

  obtain(): Request {
    return this.#free.pop() ?? new Request(this);
  }

  discard(request: Request): void {
    if (request.charge > 0) this.#account.give(request.charge);
    this.#recycle(request);
  }

  begin(request: Request): Verdict {
    if (request.type === CMD.DISC) {
      this.#events.disconnected();
      return "stop";
    }
    if (request.type === CMD.WRITE && request.length > this.#limits.drainedPayload) {
      this.#events.violated(`a WRITE of ${request.length} bytes is longer than can be drained`);
      return "stop";
    }
    const stopping = this.#events.stopping || this.#agreement.exported.stopping;
    request.refusal = stopping ? shuttingDown : this.#rules.refusal(request);
    const charge = request.refusal === undefined ? this.#chargeOf(request) : MINIMUM_CHARGE;
    if (!this.#account.take(charge)) return "wait";
    request.charge = charge;
    request.started = this.arrival;
    return request.refusal === undefined ? "execute" : "refuse";
  }

  execute(request: Request, payload: Buffer): void {
    this.inFlight += 1;
    this.#agreement.exported.began();
    let result: Promise<void>;
    try {
      result = this.#start(request, payload);
    } catch (error) {
      this.failed(request, error);
      return;
    }
    // Most devices complete at once while the data are in RAM: no trip through the microtask queue then.
    if (result === done) this.succeeded(request);
    else result.then(request.succeeded, request.failed);
  }

  refuse(request: Request): void {
    const { code, text } = request.refusal as Refusal;
    this.#error(request, code, text, undefined);
    this.#answered(request, true);
    this.#events.answered();
  }

  garbage(): void {
    this.#events.violated("a request does not begin with its magic number");
  }

  succeeded(request: Request): void {
    if (request.reply !== undefined) this.#outbox.append(request.reply);
    else if (request.slab !== undefined) this.#data(request, request.slab);
    else if (this.#structured && request.type === CMD.READ) this.#none(request);
    else this.#simple(request, 0);
    this.#settled(request, false);
  }

  failed(request: Request, error: unknown): void {
    if (request.slab !== undefined) this.#outbox.abandon(request.slab);
    const text = error instanceof Error ? error.message : String(error);
    const code = wireCode(codeOf(error), request);
    this.#error(request, code, text, request.type === CMD.READ ? this.#offsetOf(error, request) : undefined);
    this.#settled(request, true);
  }

  #start(request: Request, payload: Buffer): Promise<void> {
    const { access } = this.#agreement.exported;
    const fua = (request.flags & CMD_FLAG.FUA) !== 0;
    switch (request.type) {
      case CMD.READ:
        return this.#read(request);
      case CMD.WRITE:
        if (request.length === 0) return fua ? this.#device.flush() : done;
        if (!fua) return access.write(request.offset, payload);
        if (this.#device.limits.capabilities.fua === "none") return this.#writeAndFlush(request, payload);
        return access.write(request.offset, payload, withFua);
      case CMD.FLUSH:
        return this.#device.flush();
      case CMD.TRIM:
        return this.#trim(request, fua);
      case CMD.CACHE:
        return this.#cache(request);
      case CMD.WRITE_ZEROES:
        return this.#zero(request, fua);
      default:
        return this.#status(request);
    }
  }

  #read(request: Request): Promise<void> {
    const { offset, length, flags } = request;
    if (length === 0) return done;
    if ((flags & CMD_FLAG.DF) === 0 && this.#holes.worthAsking(length)) return this.#sparseRead(request);
    const overhead = this.#structured ? DATA_CHUNK_OVERHEAD : SIMPLE_REPLY_LENGTH;
    const slab = this.#outbox.reserve(overhead + length);
    request.slab = slab;
    request.at = slab.used - length - overhead;
    const start = request.at + overhead;
    return this.#agreement.exported.access.read(offset, slab.bytes.subarray(start, start + length));
  }

  async #sparseRead(request: Request): Promise<void> {
    const { reply, holes } = await sparseReply(this.#agreement.exported.access, this.#buffers, request);
    this.#holes.learned(holes);
    request.reply = reply;
  }

  async #writeAndFlush(request: Request, payload: Buffer): Promise<void> {
    await this.#agreement.exported.access.write(request.offset, payload);
    await this.#device.flush();
  }

  async #trim({ offset, length }: Request, fua: boolean): Promise<void> {
    if (length > 0) await this.#agreement.exported.access.discard(offset, length);
    if (fua) await this.#device.flush();
  }

  async #zero({ offset, length, flags }: Request, fua: boolean): Promise<void> {
    const native = this.#device.limits.capabilities.fua !== "none";
    const mayUnmap = (flags & CMD_FLAG.NO_HOLE) === 0;
    const fast = (flags & CMD_FLAG.FAST_ZERO) !== 0;
    if (length > 0) {
      await this.#agreement.exported.access.writeZeroes(offset, length, {
        fua: fua && native,
        mayUnmap,
        fast,
      });
    }
    if (fua && (!native || length === 0)) await this.#device.flush();
  }

  /** Reads the range, so that it is in whatever caches there are, and throws the bytes away. */
  async #cache({ offset, length }: Request): Promise<void> {
    // No more than a READ could ask for, or 28 bytes from a client would cost gigabytes of I/O.
    const end = offset + Math.min(length, this.#limits.maximumPayload);
    const scratch = Buffer.allocUnsafeSlow(Math.min(length, CACHE_PIECE));
    for (let at = offset; at < end; at += CACHE_PIECE) {
      await this.#agreement.exported.access.read(at, scratch.subarray(0, Math.min(CACHE_PIECE, end - at)));
    }
  }

  async #status(request: Request): Promise<void> {
    const most = this.#limits.extentsPerReply;
    request.reply = slabOf(await statusReply(this.#agreement.contexts, this.#device, request, most));
  }

  /** The most memory a request can need, as far as the connection's limit goes. */
  #chargeOf({ type, offset, length, flags }: Request): number {
    switch (type) {
      case CMD.READ:
      case CMD.WRITE: {
        const charge = bufferSize(length + DATA_CHUNK_OVERHEAD);
        if (this.#agreement.exported.access.aligned(offset, length)) return charge;
        // What is not aligned passes through a second buffer.
        return Math.min(2 * charge, this.#limits.bytesPerConnection);
      }
      case CMD.CACHE:
        return CACHE_PIECE;
      case CMD.BLOCK_STATUS: {
        if ((flags & CMD_FLAG.REQ_ONE) !== 0) return MINIMUM_CHARGE;
        return MINIMUM_CHARGE + 8 * this.#limits.extentsPerReply;
      }
      default:
        return MINIMUM_CHARGE;
    }
  }

  #data(request: Request, slab: Slab): void {
    const { at, offset, length, cookieHigh, cookieLow } = request;
    if (this.#structured) {
      encodeDataChunkHeader(slab.bytes, at, REPLY_FLAG.DONE, cookieHigh, cookieLow, offset, length);
      this.#outbox.commit(slab, at, at + DATA_CHUNK_OVERHEAD + length);
    } else {
      encodeSimpleReply(slab.bytes, at, 0, cookieHigh, cookieLow);
      this.#outbox.commit(slab, at, at + SIMPLE_REPLY_LENGTH + length);
    }
  }

  #simple({ cookieHigh, cookieLow }: Request, errno: number): void {
    const slab = this.#outbox.reserve(SIMPLE_REPLY_LENGTH);
    const end = slab.used;
    encodeSimpleReply(slab.bytes, end - SIMPLE_REPLY_LENGTH, errno, cookieHigh, cookieLow);
    this.#outbox.commit(slab, end - SIMPLE_REPLY_LENGTH, end);
  }

  #none({ cookieHigh, cookieLow }: Request): void {
    const slab = this.#outbox.reserve(CHUNK_HEADER_LENGTH);
    const end = slab.used;
    const start = end - CHUNK_HEADER_LENGTH;
    encodeChunkHeader(slab.bytes, start, REPLY_FLAG.DONE, CHUNK.NONE, cookieHigh, cookieLow, 0);
    this.#outbox.commit(slab, start, end);
  }

  #error(request: Request, code: ErrorCode, text: string, offset: number | undefined): void {
    if (!this.#structured) this.#simple(request, errnoOf(code));
    else {
      const { cookieHigh, cookieLow } = request;
      this.#outbox.append(slabOf(encodeErrorChunk(cookieHigh, cookieLow, errnoOf(code), text, offset)));
    }
  }

  /** Where a READ failed: the device's word if it lies inside the request, the request's start otherwise. */
  #offsetOf(error: unknown, { offset, length }: Request): number {
    if (!(error instanceof BlockIoError) || error.device !== this.#device.name) return offset;
    const at = error.offset ?? offset;
    return at >= offset && at - offset < length ? at : offset;
  }

  #settled(request: Request, failed: boolean): void {
    this.inFlight -= 1;
    this.#agreement.exported.ended();
    this.#answered(request, failed);
    this.#events.answered();
  }

  #answered(request: Request, failed: boolean): void {
    this.#outbox.charge(request.charge);
    this.#agreement.exported.statistics.record(
      request.type,
      request.length,
      failed,
      this.#events.now() - request.started,
    );
    this.#recycle(request);
  }

  #recycle(request: Request): void {
    if (request.buffer !== undefined) {
      this.#buffers.give(request.buffer);
      request.buffer = undefined;
    }
    if (request.origin !== undefined) {
      request.origin.release();
      request.origin = undefined;
    }
    request.charge = 0;
    request.refusal = undefined;
    request.slab = undefined;
    request.reply = undefined;
    this.#free.push(request);
  }
}

/** Some codes mean something particular to clients and may be sent only where the protocol says so. */
function wireCode(code: ErrorCode, { type, flags }: Request): ErrorCode {
  const fastZero = type === CMD.WRITE_ZEROES && (flags & CMD_FLAG.FAST_ZERO) !== 0;
  if (code === "ENOTSUP" && !fastZero) return "EINVAL";
  if (code === "EOVERFLOW" && (type === CMD.WRITE || type === CMD.FLUSH)) return "EINVAL";
  return code;
}
