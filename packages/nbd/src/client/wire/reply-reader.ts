/**
 * Takes replies apart as they arrive, in pieces of any size, and puts READ data where it belongs.
 *
 *     header ──> OFFSET_DATA ──> offset ──> data ─┐
 *        ^   ──> others with payload ──> payload ─┤
 *        └────────────────────────────────────────┘
 *
 * Everything is checked against the request it answers before a byte of it is stored; whatever does not fit
 * throws `EPROTO`, after which the stream is of no use. Memory: one small scratch buffer, and one payload of
 * block status (at most 16 MiB) while it is being received.
 */
import {
  CHUNK,
  CHUNK_ERROR_BIT,
  CMD,
  REPLY_FLAG,
  type ReplyHeader,
  SIMPLE_REPLY_LENGTH,
  chunkHeaderLength,
  decodeBlockStatusChunk,
  decodeChunkOffset,
  decodeErrorChunk,
  decodeHoleChunk,
  decodeReplyHeader,
  longestStatusPayload,
  protocolError,
  replyHeaderLength,
} from "../../protocol.ts";
import { Coverage } from "./coverage.ts";
import type { Request } from "../requests/request.ts";

/** The requests a reader may meet answers to. */
export interface RequestTable {
  /** The request with this cookie, or undefined. */
  find(cookieHigh: number, cookieLow: number): Request | undefined;
  /** The last chunk of an answer has arrived. */
  answered(request: Request): void;
}

/** What the handshake agreed on, as far as replies look different for it. */
export interface ReplyTerms {
  /** Replies to READ and BLOCK_STATUS are chunks. */
  readonly structured: boolean;
  /** All replies are extended chunks. */
  readonly extended: boolean;
  readonly allocationId: number | undefined;
}

const HEADER = 0;
const DATA_OFFSET = 1;
const DATA = 2;
const PAYLOAD = 3;

// Bytes of a chunk from which on its data are received in place: no common buffer has room for them and their header.
// Smaller ones come with one read and a copy, which costs less than two reads.
const LARGE = 256 * 1024;
// Bytes to read behind a large chunk: its successor's header, and little of the data, which have to be copied.
const NEXT_HEADER = 512;

const EXTENDED_LENGTH = chunkHeaderLength(true);
const MAX_ERROR_PAYLOAD = 8 * 1024;

export class ReplyReader {
  readonly #table: RequestTable;
  readonly #terms: ReplyTerms;
  readonly #header: ReplyHeader = {
    structured: false,
    extended: false,
    cookieHigh: 0,
    cookieLow: 0,
    error: 0,
    flags: 0,
    type: 0,
    offset: 0,
    length: 0,
  };
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_ERROR_PAYLOAD);

  #state = HEADER;
  // What is being collected (header, offset or payload): `#have` of `#need` bytes are in `#partial`.
  #partial: Buffer = this.#scratch;
  #have = 0;
  #need = SIMPLE_REPLY_LENGTH;
  #request: Request | undefined;
  // Where data go, in the request's buffer.
  #at = 0;
  #end = 0;
  // The data that are coming, or came last, are received in place.
  #inPlace = false;

  constructor(table: RequestTable, terms: ReplyTerms) {
    this.#table = table;
    this.#terms = terms;
  }

  /** Where {@link push} wants the next bytes: a part of the buffer of a request, where they belong, or of `common`. */
  space(common: Buffer): Buffer {
    if (!this.#inPlace) return common;
    if (this.#state !== DATA) return common.subarray(0, NEXT_HEADER);
    return ((this.#request as Request).data as Buffer).subarray(this.#at, this.#end);
  }

  /** Throws `EPROTO`. The chunk is not kept. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === DATA) {
        at += this.#takeData(chunk, at);
        continue;
      }
      const wanted = this.#need - this.#have;
      if (this.#have === 0 && chunk.length - at >= wanted) {
        // All of it is here: no copy. A simple header that turns out to be a chunk's asks for more.
        if (this.#state === HEADER && !this.#fits(chunk, at)) continue;
        const length = this.#need;
        this.#step(chunk, at, length);
        at += length;
        continue;
      }
      const count = Math.min(wanted, chunk.length - at);
      chunk.copy(this.#partial, this.#have, at, at + count);
      this.#have += count;
      at += count;
      if (this.#have < this.#need) continue;
      if (this.#state === HEADER && !this.#fits(this.#partial, 0)) continue;
      const length = this.#need;
      this.#have = 0;
      this.#step(this.#partial, 0, length);
    }
  }

  /** Whether `#need` is the length of the header that begins here; if not it is now. */
  #fits(bytes: Buffer, at: number): boolean {
    const length = replyHeaderLength(bytes, at);
    if (length === 0) throw protocolError("a reply does not begin with a magic number");
    if ((length === EXTENDED_LENGTH) !== this.#terms.extended) {
      throw protocolError("a reply of a kind that was not agreed on");
    }
    if (length === this.#need) return true;
    if (length < this.#need) throw protocolError("a reply changed its kind");
    this.#need = length;
    return false;
  }

  #step(bytes: Buffer, at: number, length: number): void {
    if (this.#state === HEADER) this.#onHeader(bytes, at);
    else if (this.#state === DATA_OFFSET) this.#onDataOffset(bytes, at);
    else this.#onPayload(bytes.subarray(at, at + length));
  }

  #onHeader(bytes: Buffer, at: number): void {
    const header = this.#header;
    decodeReplyHeader(bytes, at, header);
    const request = this.#table.find(header.cookieHigh, header.cookieLow);
    if (request === undefined) throw protocolError("a reply to no request");
    if (header.extended && header.offset !== request.offset) throw protocolError("a reply to another offset");
    this.#request = request;
    if (header.structured) this.#onChunk(request);
    else this.#onSimple(request);
  }

  #onSimple(request: Request): void {
    const isRead = request.type === CMD.READ;
    if (this.#terms.structured && (isRead || request.type === CMD.BLOCK_STATUS)) {
      throw protocolError("a simple reply where a structured one was agreed on");
    }
    if (this.#header.error !== 0) request.refuse(this.#header.error, "");
    if (isRead && this.#header.error === 0) this.#expectData(0, request.length);
    else this.#finish();
  }

  #onChunk(request: Request): void {
    if (!this.#terms.structured) throw protocolError("a structured reply was not agreed on");
    const { type, length, flags } = this.#header;
    if (type === CHUNK.OFFSET_DATA) {
      // Lengths are compared without adding: 8 bytes of offset, at least one of data, no more than asked for.
      if (request.type !== CMD.READ || length <= 8 || length - 8 > request.length) {
        throw protocolError(`a data chunk of ${length} bytes does not fit its request`);
      }
      this.#expect(DATA_OFFSET, 8);
    } else if (type === CHUNK.NONE) {
      if (length !== 0 || (flags & REPLY_FLAG.DONE) === 0) throw protocolError("a malformed empty chunk");
      this.#finish();
    } else {
      this.#expectPayload(request, type, length);
    }
  }

  #expectPayload(request: Request, type: number, length: number): void {
    const isError = (type & CHUNK_ERROR_BIT) !== 0;
    const isHole = type === CHUNK.OFFSET_HOLE && request.type === CMD.READ;
    const statusType = this.#terms.extended ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS;
    const isStatus = type === statusType && request.type === CMD.BLOCK_STATUS;
    if (!isError && !isHole && !isStatus)
      throw protocolError(`a chunk of type ${type} does not fit its request`);
    const most = isError ? MAX_ERROR_PAYLOAD : isHole ? 12 : longestStatusPayload(this.#terms.extended);
    if (length === 0 || length > most) throw protocolError(`a chunk of type ${type} with ${length} bytes`);
    this.#expect(PAYLOAD, length);
    if (length > this.#scratch.length) this.#partial = Buffer.allocUnsafeSlow(length);
  }

  #onDataOffset(bytes: Buffer, at: number): void {
    const request = this.#request as Request;
    const start = decodeChunkOffset(bytes, at) - request.offset;
    const length = this.#header.length - 8;
    this.#cover(request, start, length);
    this.#expectData(start, length);
  }

  #onPayload(bytes: Buffer): void {
    const request = this.#request as Request;
    const { type } = this.#header;
    if (type === CHUNK.OFFSET_HOLE) {
      const hole = decodeHoleChunk(bytes);
      const start = hole.offset - request.offset;
      this.#cover(request, start, hole.length);
      request.data?.fill(0, start, start + hole.length);
    } else if (type === CHUNK.BLOCK_STATUS || type === CHUNK.BLOCK_STATUS_EXT) {
      const { contextId, descriptors } = decodeBlockStatusChunk(bytes, this.#terms.extended);
      if (contextId !== this.#terms.allocationId || request.descriptors !== undefined) {
        throw protocolError(`block status of metadata context ${contextId}, which was not asked for`);
      }
      request.descriptors = descriptors;
    } else {
      const { error, text, offset } = decodeErrorChunk(type, bytes);
      if (error === 0) throw protocolError("an error chunk without an error");
      request.refuse(error, text, offset);
    }
    this.#partial = this.#scratch;
    this.#afterChunk();
  }

  /** Checks that a chunk lies inside the request and answers nothing a second time. */
  #cover(request: Request, start: number, length: number): void {
    // `start` is a difference of numbers up to 2^64: only comparisons that hold for rounded values.
    if (!(start >= 0 && start <= request.length && length <= request.length - start)) {
      throw protocolError("a chunk lies outside its request");
    }
    request.coverage ??= new Coverage();
    if (!request.coverage.add(start, start + length))
      throw protocolError("chunks overlap or are too scattered");
  }

  #takeData(chunk: Buffer, at: number): number {
    const count = Math.min(this.#end - this.#at, chunk.length - at);
    const data = (this.#request as Request).data as Buffer;
    if (chunk.buffer !== data.buffer || chunk.byteOffset + at !== data.byteOffset + this.#at)
      chunk.copy(data, this.#at, at, at + count);
    this.#at += count;
    if (this.#at === this.#end) this.#afterChunk();
    return count;
  }

  #afterChunk(): void {
    if ((this.#header.flags & REPLY_FLAG.DONE) !== 0) this.#finish();
    else this.#expectHeader();
  }

  /** The answer is complete: it must be a whole one. */
  #finish(): void {
    const request = this.#request as Request;
    this.#expectHeader();
    if (request.type !== CMD.READ) this.#inPlace = false;
    if (request.error === undefined && this.#terms.structured) {
      if (request.type === CMD.READ && request.coverage?.isComplete(request.length) !== true) {
        throw protocolError("a read was answered with gaps");
      }
      if (request.type === CMD.BLOCK_STATUS && request.descriptors === undefined) {
        throw protocolError("block status was answered with nothing");
      }
    }
    this.#table.answered(request);
  }

  #expectData(start: number, length: number): void {
    this.#state = DATA;
    this.#at = start;
    this.#end = start + length;
    this.#inPlace = length >= LARGE;
  }

  #expectHeader(): void {
    this.#request = undefined;
    this.#expect(HEADER, SIMPLE_REPLY_LENGTH);
  }

  #expect(state: number, length: number): void {
    this.#state = state;
    this.#need = length;
    this.#have = 0;
  }
}
