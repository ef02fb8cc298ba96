/**
 * Cuts the bytes of the transmission phase into requests.
 *
 *     chunk from the socket:   | header | payload | header | header | pay
 *                              '---------- in place ----------------'
 *     next chunk:              load | header | ...
 *                              '--- payload copied into a buffer of its own
 *
 * Invariants:
 *
 * - a request with a payload is handed on only when that is there as a whole;
 * - a payload that lies whole inside a chunk is handed on as a part of it, and a chunk is never written to
 *   again; only what straddles chunks is copied, once;
 * - a request that has to wait for budget is left where it is: nothing behind it is looked at, and nothing
 *   more is read from the socket.
 */
import { decodeRequest, payloadLength, requestLength } from "../../protocol.ts";
import type { SizedBufferPool } from "../io/buffer-pool.ts";
import type { ChunkOrigin } from "../io/intake.ts";
import type { Request } from "./request.ts";

// Bytes; shorter payloads that straddle chunks get a buffer of just their size.
const LEAST_POOLED = 16 * 1024;
// Bytes; what is left of a payload is received straight into its place if it is longer.
const LEAST_DIRECT = 32 * 1024;

/** What becomes of a request whose header has arrived. */
export type Verdict = "execute" | "refuse" | "wait" | "stop";

export interface RequestSink {
  /** An object for the next request. */
  obtain(): Request;
  /** The object is not needed after all. */
  discard(request: Request): void;
  /** Decides. On `wait` the request is asked about again after {@link Receiver.resume}. */
  begin(request: Request): Verdict;
  /** The request is complete. `payload` belongs to the sink until the request is answered. */
  execute(request: Request, payload: Buffer): void;
  /** The request to be refused is complete, its payload drained. */
  refuse(request: Request): void;
  /** What arrived is no request. */
  garbage(): void;
}

const nothing = Buffer.alloc(0);

export class Receiver {
  readonly #sink: RequestSink;
  readonly #pool: SizedBufferPool;
  // The chunk being parsed and how far; empty when all of it was used.
  #chunk: Buffer = nothing;
  #at = 0;
  #origin: ChunkOrigin | undefined;
  // Bytes of a header.
  readonly #headerLength: number;
  // One that straddles chunks, and how much of it is there.
  readonly #header: Buffer;
  #headerFill = 0;
  // The request whose payload is arriving: into #payload, or to be skipped.
  #request: Request | undefined;
  // Bytes of that payload; 0 without.
  #length = 0;
  #payload: Buffer | undefined;
  #filled = 0;
  #skip = 0;
  #waiting = false;
  #stopped = false;
  #parsing = false;
  #requests = 0;

  /**
   * @param pool for payloads that straddle chunks; the sink gives them back.
   * @param extended whether requests have extended headers.
   */
  constructor(sink: RequestSink, pool: SizedBufferPool, extended: boolean) {
    this.#sink = sink;
    this.#pool = pool;
    this.#headerLength = requestLength(extended);
    this.#header = Buffer.alloc(this.#headerLength);
  }

  /** Requests received so far. */
  get requests(): number {
    return this.#requests;
  }

  /** Whether a request waits for budget, and nothing should be read from the socket. */
  get waiting(): boolean {
    return this.#waiting;
  }

  /** Names the request that has arrived in part, 0 if there is none; see {@link StallMeter}. */
  get token(): number {
    if (this.#waiting) return 0;
    return this.#headerFill > 0 || this.#request !== undefined ? this.#requests + 1 : 0;
  }

  /** Bytes of that request. */
  get tokenBytes(): number {
    return this.#headerLength + this.#length;
  }

  /** Bytes of that request that have arrived. */
  get tokenMoved(): number {
    const request = this.#request;
    if (request === undefined) return this.#headerFill;
    return this.#headerLength + (this.#payload === undefined ? this.#length - this.#skip : this.#filled);
  }

  /** Takes a chunk. Not to be called while {@link waiting}. */
  receive(chunk: Buffer, origin: ChunkOrigin): void {
    if (this.#stopped) return;
    this.#chunk = chunk;
    this.#origin = origin;
    this.#at = 0;
    this.#parse();
    // What cannot be looked at yet is kept.
    if (this.#waiting) origin.hold();
  }

  /** The rest of a payload that is so long that it should be received straight into its place. */
  space(): Buffer | undefined {
    const payload = this.#payload;
    return payload !== undefined && payload.length - this.#filled >= LEAST_DIRECT
      ? payload.subarray(this.#filled)
      : undefined;
  }

  /** `count` bytes have been received into the {@link space}. */
  filled(count: number): void {
    if (this.#request === undefined) return;
    this.#filled += count;
    this.#endPayload(this.#request);
  }

  /** Goes on with the request that had to wait. */
  resume(): void {
    if (!this.#waiting || this.#parsing) return;
    const origin = this.#origin;
    this.#waiting = false;
    this.#parse();
    if (!this.#waiting) origin?.release();
  }

  /** Forgets what it has and takes no more. */
  stop(): void {
    this.#stopped = true;
    if (this.#waiting && !this.#parsing) this.#origin?.release();
    this.#waiting = false;
    this.#chunk = nothing;
    this.#payload = undefined;
    if (this.#request === undefined) return;
    // The socket may still write to it, so it must not go back to the pool.
    this.#request.buffer = undefined;
    this.#sink.discard(this.#request);
    this.#request = undefined;
  }

  #parse(): void {
    this.#parsing = true;
    while (!this.#stopped && !this.#waiting && this.#at < this.#chunk.length) {
      if (this.#request === undefined) this.#takeHeader();
      else this.#takePayload(this.#request);
    }
    this.#parsing = false;
    // Nothing may keep a chunk alive that was used up.
    if (!this.#waiting) this.#chunk = nothing;
  }

  #takeHeader(): void {
    const left = this.#chunk.length - this.#at;
    const headerLength = this.#headerLength;
    if (this.#headerFill === 0 && left >= headerLength) {
      if (this.#begin(this.#chunk, this.#at)) this.#at += headerLength;
      else return;
    } else {
      const count = Math.min(left, headerLength - this.#headerFill);
      this.#chunk.copy(this.#header, this.#headerFill, this.#at, this.#at + count);
      this.#headerFill += count;
      this.#at += count;
      if (this.#headerFill < headerLength) return;
      if (!this.#begin(this.#header, 0)) {
        // A header that waits keeps its last byte in the chunk, so that there is something to parse.
        if (this.#waiting) {
          this.#headerFill -= 1;
          this.#at -= 1;
        }
        return;
      }
      this.#headerFill = 0;
    }
    if (this.#request !== undefined) this.#startPayload(this.#request);
  }

  /** Decodes the header at `at`; false if it has to wait or if this was the last. */
  #begin(from: Buffer, at: number): boolean {
    const request = this.#sink.obtain();
    const verdict = decodeRequest(from, at, request) ? this.#sink.begin(request) : "garbage";
    if (verdict === "wait") {
      this.#sink.discard(request);
      this.#waiting = true;
      return false;
    }
    if (verdict === "stop" || verdict === "garbage") {
      this.#sink.discard(request);
      this.stop();
      if (verdict === "garbage") this.#sink.garbage();
      return false;
    }
    const length = payloadLength(request);
    if (length > 0) {
      this.#request = request;
      this.#length = length;
      return true;
    }
    this.#requests += 1;
    if (verdict === "refuse") this.#sink.refuse(request);
    else this.#sink.execute(request, nothing);
    return true;
  }

  #startPayload(request: Request): void {
    const length = this.#length;
    if (request.refusal !== undefined) {
      this.#skip = length;
    } else if (this.#chunk.length - this.#at >= length) {
      const payload = this.#chunk.subarray(this.#at, this.#at + length);
      this.#origin?.hold();
      request.origin = this.#origin;
      this.#at += length;
      this.#finish();
      this.#sink.execute(request, payload);
    } else {
      this.#payload = this.#payloadBuffer(request, length);
      this.#filled = 0;
    }
  }

  #payloadBuffer(request: Request, length: number): Buffer {
    if (length < LEAST_POOLED) return Buffer.allocUnsafeSlow(length);
    request.buffer = this.#pool.take(length);
    return request.buffer.subarray(0, length);
  }

  #takePayload(request: Request): void {
    const left = this.#chunk.length - this.#at;
    if (this.#payload === undefined) {
      const count = Math.min(left, this.#skip);
      this.#skip -= count;
      this.#at += count;
      if (this.#skip > 0) return;
      this.#finish();
      this.#sink.refuse(request);
      return;
    }
    const count = Math.min(left, this.#length - this.#filled);
    this.#chunk.copy(this.#payload, this.#filled, this.#at, this.#at + count);
    this.#filled += count;
    this.#at += count;
    this.#endPayload(request);
  }

  /** Hands the request on if its payload is complete. */
  #endPayload(request: Request): void {
    const payload = this.#payload;
    if (payload === undefined || this.#filled < this.#length) return;
    this.#finish();
    this.#sink.execute(request, payload);
  }

  #finish(): void {
    this.#request = undefined;
    this.#length = 0;
    this.#payload = undefined;
    this.#requests += 1;
  }
}
