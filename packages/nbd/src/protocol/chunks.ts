/**
 * Structured replies: one or more chunks with the same cookie, the last one flagged DONE. All integers are
 * big-endian.
 *
 *     chunk header, server → client, 20 bytes; the payload follows
 *     0      4      6      8               16      20
 *     +------+------+------+---------------+-------+------...
 *     |magic |flags | type |    cookie     |length | payload
 *     +------+------+------+---------------+-------+------...
 *
 *     OFFSET_DATA    | u64 offset | data ... |
 *     OFFSET_HOLE    | u64 offset | u32 length |
 *     BLOCK_STATUS   | u32 context id | n x { u32 length | u32 status } |
 *     ERROR          | u32 error | u16 length | text ... |
 *     ERROR_OFFSET   | u32 error | u16 length | text ... | u64 offset |
 *     NONE           nothing
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import {
  CHUNK,
  CHUNK_ERROR_BIT,
  MAX_STRING,
  REPLY_FLAG,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./constants.ts";
import { clipText, protocolError, readText } from "./text.ts";
import { SIMPLE_REPLY_LENGTH } from "./transmission.ts";

export const CHUNK_HEADER_LENGTH = 20;
/** Bytes of a data chunk in front of its data. */
export const DATA_CHUNK_OVERHEAD: number = CHUNK_HEADER_LENGTH + 8;
/** Bytes of a whole hole chunk. */
export const HOLE_CHUNK_LENGTH: number = CHUNK_HEADER_LENGTH + 12;
/** Bytes of one descriptor of a BLOCK_STATUS chunk. */
export const DESCRIPTOR_LENGTH = 8;

/** Either kind of reply's header. Mutable, so that a hot path can decode into an object it keeps. */
export interface ReplyHeader {
  structured: boolean;
  cookieHigh: number;
  cookieLow: number;
  /** Simple replies: of {@link ERRNO}, or 0. */
  error: number;
  /** Structured: of {@link REPLY_FLAG}. */
  flags: number;
  /** Structured: one of {@link CHUNK}, or an unknown number. */
  type: number;
  /** Structured: bytes of payload. */
  length: number;
}

/** Writes {@link CHUNK_HEADER_LENGTH} bytes at `at`. @param length bytes of payload. */
export function encodeChunkHeader(
  into: Uint8Array,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): void {
  setU32(into, at, STRUCTURED_REPLY_MAGIC);
  setU16(into, at + 4, flags);
  setU16(into, at + 6, type);
  setU32(into, at + 8, cookieHigh);
  setU32(into, at + 12, cookieLow);
  setU32(into, at + 16, length);
}

/** Writes the {@link DATA_CHUNK_OVERHEAD} bytes in front of `length` bytes of data. */
export function encodeDataChunkHeader(
  into: Uint8Array,
  at: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  encodeChunkHeader(into, at, flags, CHUNK.OFFSET_DATA, cookieHigh, cookieLow, 8 + length);
  setU64(into, at + CHUNK_HEADER_LENGTH, offset);
}

/** Writes {@link HOLE_CHUNK_LENGTH} bytes at `at`. */
export function encodeHoleChunk(
  into: Uint8Array,
  at: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  encodeChunkHeader(into, at, flags, CHUNK.OFFSET_HOLE, cookieHigh, cookieLow, 12);
  setU64(into, at + CHUNK_HEADER_LENGTH, offset);
  setU32(into, at + CHUNK_HEADER_LENGTH + 8, length);
}

/**
 * A final error chunk: ERROR_OFFSET where an offset is given, ERROR otherwise.
 * @param error of {@link ERRNO}.
 * @param text for the person in front of the client; cut to 4096 bytes.
 */
export function encodeErrorChunk(
  cookieHigh: number,
  cookieLow: number,
  error: number,
  text: string,
  offset?: number,
): Buffer {
  const message = clipText(text);
  const length = 6 + message.length + (offset === undefined ? 0 : 8);
  const type = offset === undefined ? CHUNK.ERROR : CHUNK.ERROR_OFFSET;
  const bytes = Buffer.allocUnsafe(CHUNK_HEADER_LENGTH + length);
  encodeChunkHeader(bytes, 0, REPLY_FLAG.DONE, type, cookieHigh, cookieLow, length);
  setU32(bytes, CHUNK_HEADER_LENGTH, error);
  setU16(bytes, CHUNK_HEADER_LENGTH + 4, message.length);
  bytes.set(message, CHUNK_HEADER_LENGTH + 6);
  if (offset !== undefined) setU64(bytes, bytes.length - 8, offset);
  return bytes;
}

/** @param descriptors pairs of length in bytes and status flags; at least one pair, at most 2^20. */
export function encodeBlockStatusChunk(
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  contextId: number,
  descriptors: readonly number[],
): Buffer {
  const length = 4 + 4 * descriptors.length;
  const bytes = Buffer.allocUnsafe(CHUNK_HEADER_LENGTH + length);
  encodeChunkHeader(bytes, 0, flags, CHUNK.BLOCK_STATUS, cookieHigh, cookieLow, length);
  setU32(bytes, CHUNK_HEADER_LENGTH, contextId);
  for (let index = 0; index < descriptors.length; index += 1) {
    setU32(bytes, CHUNK_HEADER_LENGTH + 4 + 4 * index, descriptors[index] as number);
  }
  return bytes;
}

/** How long the header of the reply at `at` is, from its first four bytes; 0 if that is no reply. */
export function replyHeaderLength(from: Uint8Array, at: number): number {
  const magic = getU32(from, at);
  if (magic === SIMPLE_REPLY_MAGIC) return SIMPLE_REPLY_LENGTH;
  return magic === STRUCTURED_REPLY_MAGIC ? CHUNK_HEADER_LENGTH : 0;
}

/** Reads a whole header (see {@link replyHeaderLength}) into `header`; false if that is no reply. */
export function decodeReplyHeader(from: Uint8Array, at: number, header: ReplyHeader): boolean {
  const magic = getU32(from, at);
  header.cookieHigh = getU32(from, at + 8);
  header.cookieLow = getU32(from, at + 12);
  header.structured = magic === STRUCTURED_REPLY_MAGIC;
  if (header.structured) {
    header.error = 0;
    header.flags = getU16(from, at + 4);
    header.type = getU16(from, at + 6);
    header.length = getU32(from, at + 16);
    return true;
  }
  header.error = getU32(from, at + 4);
  header.flags = REPLY_FLAG.DONE;
  header.type = CHUNK.NONE;
  header.length = 0;
  return magic === SIMPLE_REPLY_MAGIC;
}

/** The offset at the start of the payload of OFFSET_DATA and OFFSET_HOLE. */
export function decodeChunkOffset(payload: Uint8Array, at: number): number {
  return getU64(payload, at);
}

/** The payload of OFFSET_HOLE. Throws `EPROTO` if it is not 12 bytes or the hole is empty. */
export function decodeHoleChunk(payload: Uint8Array): { offset: number; length: number } {
  if (payload.length !== 12) throw protocolError(`a hole chunk has ${payload.length} bytes instead of 12`);
  const hole = { offset: getU64(payload, 0), length: getU32(payload, 8) };
  if (hole.length === 0) throw protocolError("a hole chunk describes no bytes");
  return hole;
}

/** What an error chunk says. */
export interface ErrorChunk {
  readonly error: number;
  readonly text: string;
  /** Bytes; where the request failed, if the server knows. */
  readonly offset: number | undefined;
}

/** The payload of any chunk whose type has {@link CHUNK_ERROR_BIT}. Throws `EPROTO` if it does not fit. */
export function decodeErrorChunk(type: number, payload: Uint8Array): ErrorChunk {
  if ((type & CHUNK_ERROR_BIT) === 0) throw protocolError(`chunk type ${type} is no error`);
  const tail = type === CHUNK.ERROR_OFFSET ? 8 : 0;
  if (payload.length < 6 + tail)
    throw protocolError(`an error chunk of ${payload.length} bytes is too short`);
  const length = getU16(payload, 4);
  if (length > MAX_STRING || length > payload.length - 6 - tail) {
    throw protocolError(`an error text of ${length} bytes does not fit its chunk`);
  }
  return {
    error: getU32(payload, 0),
    text: readText(payload.subarray(6, 6 + length)).text,
    offset: tail === 0 ? undefined : getU64(payload, 6 + length),
  };
}

/** The payload of BLOCK_STATUS. */
export interface BlockStatusChunk {
  readonly contextId: number;
  /** Pairs of length in bytes and status flags. */
  readonly descriptors: readonly number[];
}

/** Throws `EPROTO` if there is no descriptor, an empty one, or half of one. */
export function decodeBlockStatusChunk(payload: Uint8Array): BlockStatusChunk {
  if (payload.length < 4 + DESCRIPTOR_LENGTH || (payload.length - 4) % DESCRIPTOR_LENGTH !== 0) {
    throw protocolError(`a block status chunk cannot have ${payload.length} bytes`);
  }
  const descriptors = Array.from({ length: (payload.length - 4) / 4 }, (_, index) =>
    getU32(payload, 4 + 4 * index),
  );
  for (let index = 0; index < descriptors.length; index += 2) {
    if (descriptors[index] === 0) throw protocolError("a block status descriptor describes no bytes");
  }
  return { contextId: getU32(payload, 0), descriptors };
}
