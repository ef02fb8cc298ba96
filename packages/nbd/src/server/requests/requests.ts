/**
 * The life of a request: judged, charged, carried out, answered.
 *
 * Invariants:
 *
 * - every request that was begun is answered exactly once, unless its connection is gone;
 * - its bytes are charged before the device sees it and given back when the reply has left;
 * - `inFlight` counts the requests the device has not answered; they outlive their connection.
 */
import { BlockIoError, type ErrorCode, codeOf, done } from "@dmkit/block-io";
import { CMD, CMD_FLAG, DATA_CHUNK_OVERHEAD, DEFAULT_MAX_PAYLOAD, payloadLength } from "../../protocol.ts";
import type { Account } from "../io/budget.ts";
import { type SizedBufferPool, bufferSize } from "../io/buffer-pool.ts";
import { narrowed } from "./block-status.ts";
import { CommandRules, type Refusal } from "./commands.ts";
import type { ServerContext } from "../context.ts";
import type { Export } from "../exports/export.ts";
import { MINIMUM_CHARGE, mostCharge, statusCharge } from "../limits.ts";
import type { Agreement } from "../negotiation.ts";
import { CACHE_PIECE, Operations } from "./operations.ts";
import type { Outbox } from "../io/outbox.ts";
import type { RequestSink, Verdict } from "./receiver.ts";
import { Replies } from "./replies.ts";
import type { RequestLog } from "./request-log.ts";
import { Request, type RequestOwner } from "./request.ts";

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
  /** The server or its listener threw: the connection cannot be trusted any more. */
  broken(error: unknown): void;
  /** A request was answered: there is something to send. */
  answered(): void;
}

// Bytes; while so much waits to be taken by the client no READ is started: its data would only grow cold in the
// CPU's caches. Measured at 128 KiB and depth 16: 10 % more, with an eighth of the memory.
const UNSENT = 256 * 1024;
const shuttingDown: Refusal = { code: "ESHUTDOWN", text: "the export is being shut down" };

export class Requests implements RequestSink, RequestOwner {
  readonly #agreement: Agreement;
  readonly #exported: Export;
  readonly #buffers: SizedBufferPool;
  readonly #log: RequestLog | undefined;
  readonly #account: Account;
  readonly #outbox: Outbox;
  readonly #events: RequestEvents;
  readonly #rules: CommandRules;
  readonly #replies: Replies;
  readonly #operations: Operations;
  // Bytes; a longer payload is not even drained.
  readonly #drainedPayload: number;
  readonly #mostCharge: number;
  // Bytes a BLOCK_STATUS can need.
  readonly #statusCharge: number;
  readonly #free: Request[] = [];
  /** Requests the device is carrying out. */
  inFlight = 0;
  /** What the client was given: requests answered, bytes of those that succeeded, errors. */
  readonly answers: { requests: number; bytes: number; errors: number } = {
    requests: 0,
    bytes: 0,
    errors: 0,
  };
  /** When the bytes that are being parsed arrived, on the environment's clock. */
  arrival = 0;

  constructor(
    agreement: Agreement,
    context: ServerContext,
    account: Account,
    outbox: Outbox,
    events: RequestEvents,
  ) {
    const { exported, extended, contexts } = agreement;
    const { limits, buffers, log } = context;
    const { maximumPayload, drainedPayload } = limits;
    this.#agreement = agreement;
    this.#exported = exported;
    this.#buffers = buffers;
    this.#log = log;
    this.#account = account;
    this.#outbox = outbox;
    this.#events = events;
    this.#mostCharge = mostCharge(limits);
    this.#statusCharge = Math.min(statusCharge(limits) * contexts.length, this.#mostCharge);
    this.#drainedPayload = extended
      ? Math.min(drainedPayload, Math.max(maximumPayload, DEFAULT_MAX_PAYLOAD))
      : drainedPayload;
    this.#rules = new CommandRules(agreement, maximumPayload);
    this.#replies = new Replies(outbox, agreement);
    this.#operations = new Operations(agreement, context, this.#replies);
  }

  /** The client is gone. */
  close(): void {
    this.#operations.close();
  }

  obtain(): Request {
    return this.#free.pop() ?? new Request(this, this.#agreement.extended);
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
    const payload = payloadLength(request);
    if (payload > this.#drainedPayload) {
      this.#events.violated(`a payload of ${payload} bytes is longer than can be drained`);
      return "stop";
    }
    if (request.type === CMD.WRITE && payload !== request.length) {
      // Whether its data follow is anybody's guess, and taking data for requests would be the worst of both.
      this.#events.violated("an extended WRITE without the flag that says how many bytes follow");
      return "stop";
    }
    const stopping = this.#events.stopping || this.#exported.stopping;
    request.refusal = stopping ? shuttingDown : this.#rules.refusal(request);
    if (request.type === CMD.READ && this.#outbox.unsent >= UNSENT) return "wait";
    const charge = request.refusal === undefined ? this.#chargeOf(request) : MINIMUM_CHARGE;
    if (!this.#account.take(charge)) return "wait";
    request.charge = charge;
    request.started = this.arrival;
    return request.refusal === undefined ? "execute" : "refuse";
  }

  execute(request: Request, payload: Buffer): void {
    if (request.type === CMD.BLOCK_STATUS && payload.length > 0 && !this.#narrow(request, payload)) {
      this.refuse(request);
      return;
    }
    this.inFlight += 1;
    this.#exported.began();
    this.#logBegin(request);
    let result: Promise<void>;
    try {
      result = this.#operations.start(request, payload);
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
    this.#logBegin(request);
    this.#replies.error(request, code, text);
    this.#answered(request, code);
  }

  /** Takes what a BLOCK_STATUS asks for from its payload; false, with a refusal, if that cannot be told. */
  #narrow(request: Request, payload: Buffer): boolean {
    try {
      Object.assign(request, narrowed(this.#agreement.contexts, payload));
      request.refusal = this.#rules.statusRefusal(request);
    } catch (error) {
      request.refusal = { code: "EINVAL", text: error instanceof Error ? error.message : String(error) };
    }
    return request.refusal === undefined;
  }

  garbage(): void {
    this.#events.violated("a request does not begin with its magic number");
  }

  succeeded(request: Request): void {
    this.inFlight -= 1;
    this.#exported.ended();
    this.#replies.success(request);
    this.#answered(request, undefined);
  }

  failed(request: Request, error: unknown): void {
    this.inFlight -= 1;
    this.#exported.ended();
    const code = codeOf(error);
    const text = error instanceof Error ? error.message : String(error);
    const offset = request.type === CMD.READ ? this.#offsetOf(error, request) : undefined;
    this.#replies.error(request, code, text, offset);
    this.#answered(request, code);
  }

  broken(error: unknown): void {
    this.#events.broken(error);
  }

  /** The most memory a request can need, as far as the connection's limit goes. */
  #chargeOf({ type, offset, length, flags }: Request): number {
    switch (type) {
      case CMD.READ:
      case CMD.WRITE: {
        const charge = bufferSize(length + DATA_CHUNK_OVERHEAD);
        if (this.#exported.access.aligned(offset, length)) return charge;
        // What is not aligned passes through a second buffer.
        return Math.min(2 * charge, this.#mostCharge);
      }
      case CMD.CACHE:
        return 2 * CACHE_PIECE;
      case CMD.BLOCK_STATUS:
        return (flags & CMD_FLAG.REQ_ONE) === 0 ? this.#statusCharge : MINIMUM_CHARGE;
      default:
        return MINIMUM_CHARGE;
    }
  }

  /** Where a READ failed: the device's word if it lies inside the request, the request's start otherwise. */
  #offsetOf(error: unknown, { offset, length }: Request): number {
    if (!(error instanceof BlockIoError) || error.device !== this.#exported.device.name) return offset;
    const at = error.offset ?? offset;
    return at >= offset && at - offset < length ? at : offset;
  }

  #answered(request: Request, error: ErrorCode | undefined): void {
    this.#outbox.charge(request.charge);
    const { type, length, started } = request;
    this.#exported.statistics.record(type, length, error !== undefined, this.#events.now() - started);
    this.answers.requests += 1;
    if (error !== undefined) this.answers.errors += 1;
    else if (type === CMD.READ || type === CMD.WRITE) this.answers.bytes += length;
    this.#logEnd(request, error);
    this.#recycle(request);
    this.#events.answered();
  }

  // What a listener throws ends the connection, but not the request: others count on what it holds.

  #logBegin(request: Request): void {
    try {
      this.#log?.begin(request, this.#exported.name);
    } catch (error) {
      this.broken(error);
    }
  }

  #logEnd(request: Request, code: ErrorCode | undefined): void {
    try {
      this.#log?.end(request, this.#exported.name, code);
    } catch (error) {
      this.broken(error);
    }
  }

  #recycle(request: Request): void {
    if (request.buffer !== undefined) this.#buffers.give(request.buffer);
    request.origin?.release();
    request.buffer = undefined;
    request.origin = undefined;
    request.refusal = undefined;
    request.slab = undefined;
    request.reply = undefined;
    request.contexts = undefined;
    request.charge = 0;
    this.#free.push(request);
  }
}
