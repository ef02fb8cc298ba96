/** Makes the replies of one connection: simple ones, or chunks where structured replies were negotiated. */
import { type ErrorCode } from "@dmkit/block-io";
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
} from "../../protocol.ts";
import { type Outbox, type Slab, slabOf } from "../io/outbox.ts";
import type { Request } from "./request.ts";

export class Replies {
  readonly #outbox: Outbox;
  readonly #structured: boolean;
  // Bytes in front of a READ's data.
  readonly #overhead: number;

  constructor(outbox: Outbox, structured: boolean) {
    this.#outbox = outbox;
    this.#structured = structured;
    this.#overhead = structured ? DATA_CHUNK_OVERHEAD : SIMPLE_REPLY_LENGTH;
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
    else if (this.#structured && request.type === CMD.READ) this.#none(request);
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
    const { cookieHigh, cookieLow } = request;
    this.#outbox.append(slabOf(encodeErrorChunk(cookieHigh, cookieLow, errno, text, offset)));
  }

  #data(request: Request, slab: Slab): void {
    const { at, offset, length, cookieHigh, cookieLow } = request;
    if (this.#structured) {
      encodeDataChunkHeader(slab.bytes, at, REPLY_FLAG.DONE, cookieHigh, cookieLow, offset, length);
    } else {
      encodeSimpleReply(slab.bytes, at, 0, cookieHigh, cookieLow);
    }
    this.#outbox.commit(slab, at, at + this.#overhead + length);
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
}

/** Some codes mean something particular to clients and may be sent only where the protocol says so. */
function wireCode(code: ErrorCode, { type, flags }: Request): ErrorCode {
  const fastZero = type === CMD.WRITE_ZEROES && (flags & CMD_FLAG.FAST_ZERO) !== 0;
  if (code === "ENOTSUP" && !fastZero) return "EINVAL";
  if (code === "EOVERFLOW" && (type === CMD.WRITE || type === CMD.FLUSH)) return "EINVAL";
  return code;
}
