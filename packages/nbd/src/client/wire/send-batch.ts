/**
 * Collects the requests of one turn of the event loop, so that they leave in one write.
 *
 * Headers, and payloads up to 16 KiB, are copied one after the other into a buffer of the batch; larger
 * payloads go out from where they are. Buffers are used again when the system has taken their bytes.
 */
import { CMD, CMD_FLAG, type RequestHeader, encodeRequest, requestLength } from "../../protocol.ts";
import type { Request } from "../requests/request.ts";

const BUFFER = 64 * 1024;
const COPIED = 16 * 1024;
// Buffers kept for later; more are made, and dropped again, while the server does not read.
const SPARE = 4;

export class SendBatch {
  readonly #spare: Buffer[] = [];
  readonly #header: RequestHeader;
  readonly #headerLength: number;
  // Complete pieces, then the bytes `#start … #used` of the buffer being filled.
  #pieces: Buffer[] = [];
  #borrowed: Buffer[] = [];
  #buffer: Buffer | undefined;
  #start = 0;
  #used = 0;

  /** @param extended whether headers are extended ones. */
  constructor(extended: boolean) {
    this.#header = { extended, flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    this.#headerLength = requestLength(extended);
  }

  get isEmpty(): boolean {
    return this.#pieces.length === 0 && this.#used === this.#start;
  }

  add(request: Request): void {
    const payload = request.data !== undefined && request.mutates ? request.data : undefined;
    const copied = payload !== undefined && payload.length <= COPIED ? payload.length : 0;
    const buffer = this.#room(this.#headerLength + copied);
    const header = this.#header;
    header.flags =
      header.extended && request.type === CMD.WRITE ? request.flags | CMD_FLAG.PAYLOAD_LEN : request.flags;
    header.type = request.type;
    header.cookieHigh = request.cookieHigh;
    header.cookieLow = request.cookieLow;
    header.offset = request.offset;
    header.length = request.length;
    encodeRequest(buffer, this.#used, header);
    this.#used += this.#headerLength;
    if (payload === undefined) return;
    if (copied > 0) {
      payload.copy(buffer, this.#used);
      this.#used += copied;
    } else {
      this.#closePiece();
      this.#pieces.push(payload);
    }
  }

  /** Takes the pieces to write, in order, and the buffers to give back with {@link recycle} when they are sent. */
  take(): { pieces: Buffer[]; borrowed: Buffer[] } {
    this.#closePiece();
    const taken = { pieces: this.#pieces, borrowed: this.#borrowed };
    this.#pieces = [];
    this.#borrowed = [];
    // What follows goes into another buffer: this one is the system's until it has been sent.
    this.#buffer = undefined;
    this.#start = 0;
    this.#used = 0;
    return taken;
  }

  recycle(borrowed: readonly Buffer[]): void {
    for (const buffer of borrowed) if (this.#spare.length < SPARE) this.#spare.push(buffer);
  }

  #room(length: number): Buffer {
    if (this.#buffer !== undefined && length <= BUFFER - this.#used) return this.#buffer;
    this.#closePiece();
    const buffer = this.#spare.pop() ?? Buffer.allocUnsafeSlow(BUFFER);
    this.#borrowed.push(buffer);
    this.#buffer = buffer;
    this.#start = 0;
    this.#used = 0;
    return buffer;
  }

  #closePiece(): void {
    if (this.#buffer !== undefined && this.#used > this.#start) {
      this.#pieces.push(this.#buffer.subarray(this.#start, this.#used));
    }
    this.#start = this.#used;
  }
}
