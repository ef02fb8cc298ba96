/**
 * Makes the replies of one connection: simple ones; chunks to READ and for errors where structured replies were
 * negotiated; nothing but chunks with extended headers.
 */
import { type ErrorCode } from "@dmkit/block-io";
import {
  CHUNK,
  CMD,
  CMD_FLAG,
  REPLY_FLAG,
  SIMPLE_REPLY_LENGTH,
  chunkHeaderLength,
  dataChunkOverhead,
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeSimpleReply,
  errnoOf,
} from "../../protocol.ts";
import { type Outbox, type Slab, slabOf } from "../io/outbox.ts";
import type { Agreement } from "../negotiation.ts";
import type { Request } from "./request.ts";

export class Replies {
  readonly #outbox: Outbox;
  readonly #structured: boolean;
  readonly #extended: boolean;
  // Bytes in front of a READ's data, and of a chunk without payload.
  readonly #overhead: number;
  readonly #bare: number;

  constructor(outbox: Outbox, { structured, extended }: Agreement) {
    this.#outbox = outbox;
    this.#structured = structured;
    this.#extended = extended;
    this.#overhead = structured ? dataChunkOverhead(extended) : SIMPLE_REPLY_LENGTH;
    this.#bare = chunkHeaderLength(extended);
  }

  /** Room for the reply to a READ. Returns the place of its data, behind the header to be. */
  reserve(request: Request): Buffer {
    const size = this.#overhead + request.length;
    const slab = this.#outbox.reserve(size);
    request.slab = slab;
    request.at = slab.used - size;
    return slab.bytes.subarray(request.at + this.#overhead, slab.used);
  }

  success(request: Request): void {
    if (request.reply !== undefined) this.#outbox.append(request.reply);
    else if (request.slab !== undefined) this.#data(request, request.slab);
    else if (this.#extended || (this.#structured && request.type === CMD.READ)) this.#none(request);
    else this.#simple(request, 0);
  }

  /** @param offset bytes; where in the export it failed, if that is known. */
  error(request: Request, code: ErrorCode, text: string, offset?: number): void {
    if (request.slab !== undefined) this.#outbox.abandon(request.slab);
    const errno = errnoOf(wireCode(code, request));
    if (!this.#structured) {
      this.#simple(request, errno);
      return;
    }
    this.#outbox.append(slabOf(encodeErrorChunk(request, errno, text, offset)));
  }

  #data(request: Request, slab: Slab): void {
    const { at, offset, length } = request;
    if (this.#structured) encodeDataChunkHeader(slab.bytes, at, request, REPLY_FLAG.DONE, offset, length);
    else encodeSimpleReply(slab.bytes, at, 0, request.cookieHigh, request.cookieLow);
    this.#outbox.commit(slab, at, at + this.#overhead + length);
  }

  #simple({ cookieHigh, cookieLow }: Request, errno: number): void {
    const slab = this.#outbox.reserve(SIMPLE_REPLY_LENGTH);
    const end = slab.used;
    encodeSimpleReply(slab.bytes, end - SIMPLE_REPLY_LENGTH, errno, cookieHigh, cookieLow);
    this.#outbox.commit(slab, end - SIMPLE_REPLY_LENGTH, end);
  }

  #none(request: Request): void {
    const slab = this.#outbox.reserve(this.#bare);
    const end = slab.used;
    encodeChunkHeader(slab.bytes, end - this.#bare, request, REPLY_FLAG.DONE, CHUNK.NONE, 0);
    this.#outbox.commit(slab, end - this.#bare, end);
  }
}

/** Some codes mean something particular to clients and may be sent only where the protocol says so. */
function wireCode(code: ErrorCode, { type, flags }: Request): ErrorCode {
  const fastZero = type === CMD.WRITE_ZEROES && (flags & CMD_FLAG.FAST_ZERO) !== 0;
  if (code === "ENOTSUP" && !fastZero) return "EINVAL";
  if (code === "EOVERFLOW" && (type === CMD.WRITE || type === CMD.FLUSH)) return "EINVAL";
  return code;
}
