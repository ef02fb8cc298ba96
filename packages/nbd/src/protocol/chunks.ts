/**
 * Structured and extended replies: one or more chunks with the same cookie, the last one flagged DONE. All integers
 * are big-endian.
 *
 *     structured chunk header, server → client, 20 bytes; the payload follows
 *     0      4      6      8               16      20
 *     +------+------+------+---------------+-------+------...
 *     |magic |flags | type |    cookie     |length | payload
 *     +------+------+------+---------------+-------+------...
 *
 *     extended chunk header, 32 bytes; offset is the request's, whatever the payload is about
 *     0      4      6      8               16              24              32
 *     +------+------+------+---------------+---------------+---------------+------...
 *     |magic |flags | type |    cookie     |    offset     |    length     | payload
 *     +------+------+------+---------------+---------------+---------------+------...
 *
 *     OFFSET_DATA        | u64 offset | data ... |
 *     OFFSET_HOLE        | u64 offset | u32 length |
 *     BLOCK_STATUS       | u32 context id | n x { u32 length | u32 status } |            structured only
 *     BLOCK_STATUS_EXT   | u32 context id | u32 n | n x { u64 length | u64 status } |    extended only
 *     ERROR              | u32 error | u16 length | text ... |
 *     ERROR_OFFSET       | u32 error | u16 length | text ... | u64 offset |
 *     NONE               nothing
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import {
  CHUNK,
  CHUNK_ERROR_BIT,
  EXTENDED_REPLY_MAGIC,
  MAX_EXTENTS_PER_CHUNK,
  MAX_STRING,
  REPLY_FLAG,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./constants.ts";
import { clipText, protocolError, readText } from "./text.ts";
import { type RequestHeader, SIMPLE_REPLY_LENGTH } from "./transmission.ts";

const STRUCTURED_HEADER_LENGTH = 20;
const EXTENDED_HEADER_LENGTH = 32;
/** Bytes; the most a data chunk has in front of its data, see {@link dataChunkOverhead}. */
export const DATA_CHUNK_OVERHEAD: number = EXTENDED_HEADER_LENGTH + 8;

/** What a chunk tells of the request it answers. */
export type Asked = Pick<Readonly<RequestHeader>, "extended" | "cookieHigh" | "cookieLow" | "offset">;

/** Bytes of a chunk in front of its payload. */
export function chunkHeaderLength(extended: boolean | undefined): number {
  return extended ? EXTENDED_HEADER_LENGTH : STRUCTURED_HEADER_LENGTH;
}

/** Bytes of a data chunk in front of its data. */
export function dataChunkOverhead(extended: boolean | undefined): number {
  return chunkHeaderLength(extended) + 8;
}

/** Bytes of a whole hole chunk. */
export function holeChunkLength(extended: boolean | undefined): number {
  return chunkHeaderLength(extended) + 12;
}

/** Bytes of a number in a payload of block status, and of all that stands in front of its descriptors. */
function statusWidth(extended: boolean | undefined): number {
  return extended ? 8 : 4;
}

/** Bytes of the longest payload of block status. */
export function longestStatusPayload(extended: boolean): number {
  return statusWidth(extended) * (1 + 2 * MAX_EXTENTS_PER_CHUNK);
}

/** A reply's header of any kind. Mutable, so that a hot path can decode into an object it keeps. */
export interface ReplyHeader {
  /** It is a chunk. */
  structured: boolean;
  /** It is an extended one. */
  extended: boolean;
  cookieHigh: number;
  cookieLow: number;
  /** Simple replies: of {@link ERRNO}, or 0. */
  error: number;
  /** Chunks: of {@link REPLY_FLAG}. */
  flags: number;
  /** Chunks: one of {@link CHUNK}, or an unknown number. */
  type: number;
  /** Extended chunks: the request's. */
  offset: number;
  /** Chunks: bytes of payload. Not a safe integer if the peer sent 2^53 or more. */
  length: number;
}

/** Writes {@link chunkHeaderLength} bytes at `at`. @param length bytes of payload. */
export function encodeChunkHeader(
  into: Uint8Array,
  at: number,
  { extended, cookieHigh, cookieLow, offset }: Asked,
  flags: number,
  type: number,
  length: number,
): void {
  setU32(into, at, extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
  setU16(into, at + 4, flags);
  setU16(into, at + 6, type);
  setU32(into, at + 8, cookieHigh);
  setU32(into, at + 12, cookieLow);
  if (extended) {
    setU64(into, at + 16, offset);
    setU64(into, at + 24, length);
  } else {
    setU32(into, at + 16, length);
  }
}

/** Writes the {@link dataChunkOverhead} bytes in front of `length` bytes of data. */
export function encodeDataChunkHeader(
  into: Uint8Array,
  at: number,
  asked: Asked,
  flags: number,
  offset: number,
  length: number,
): void {
  encodeChunkHeader(into, at, asked, flags, CHUNK.OFFSET_DATA, 8 + length);
  setU64(into, at + chunkHeaderLength(asked.extended), offset);
}

/** Writes {@link holeChunkLength} bytes at `at`. */
export function encodeHoleChunk(
  into: Uint8Array,
  at: number,
  asked: Asked,
  flags: number,
  offset: number,
  length: number,
): void {
  encodeChunkHeader(into, at, asked, flags, CHUNK.OFFSET_HOLE, 12);
  const payload = at + chunkHeaderLength(asked.extended);
  setU64(into, payload, offset);
  setU32(into, payload + 8, length);
}

/** A chunk with room for a payload, and where that begins. */
function chunkOf(asked: Asked, flags: number, type: number, length: number): [bytes: Buffer, at: number] {
  const at = chunkHeaderLength(asked.extended);
  const bytes = Buffer.allocUnsafe(at + length);
  encodeChunkHeader(bytes, 0, asked, flags, type, length);
  return [bytes, at];
}

/**
 * A final error chunk: ERROR_OFFSET where an offset is given, ERROR otherwise.
 * @param error of {@link ERRNO}.
 * @param text for the person in front of the client; cut to 4096 bytes.
 */
export function encodeErrorChunk(asked: Asked, error: number, text: string, offset?: number): Buffer {
  const message = clipText(text);
  const length = 6 + message.length + (offset === undefined ? 0 : 8);
  const type = offset === undefined ? CHUNK.ERROR : CHUNK.ERROR_OFFSET;
  const [bytes, at] = chunkOf(asked, REPLY_FLAG.DONE, type, length);
  setU32(bytes, at, error);
  setU16(bytes, at + 4, message.length);
  bytes.set(message, at + 6);
  if (offset !== undefined) setU64(bytes, bytes.length - 8, offset);
  return bytes;
}

/** @param descriptors pairs of length in bytes and status flags; at least one pair, at most 2^20. */
export function encodeBlockStatusChunk(
  asked: Asked,
  flags: number,
  contextId: number,
  descriptors: readonly number[],
): Buffer {
  const width = statusWidth(asked.extended);
  const type = asked.extended ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS;
  const [bytes, at] = chunkOf(asked, flags, type, width * (1 + descriptors.length));
  setU32(bytes, at, contextId);
  if (asked.extended) setU32(bytes, at + 4, descriptors.length / 2);
  const set = asked.extended ? setU64 : setU32;
  for (let index = 0; index < descriptors.length; index += 1)
    set(bytes, at + width * (1 + index), descriptors[index] as number);
  return bytes;
}

/** How long the header of the reply at `at` is, from its first four bytes; 0 if that is no reply. */
export function replyHeaderLength(from: Uint8Array, at: number): number {
  switch (getU32(from, at)) {
    case SIMPLE_REPLY_MAGIC:
      return SIMPLE_REPLY_LENGTH;
    case STRUCTURED_REPLY_MAGIC:
      return STRUCTURED_HEADER_LENGTH;
    case EXTENDED_REPLY_MAGIC:
      return EXTENDED_HEADER_LENGTH;
    default:
      return 0;
  }
}

/** Reads a whole header (see {@link replyHeaderLength}) into `header`; false if that is no reply. */
export function decodeReplyHeader(from: Uint8Array, at: number, header: ReplyHeader): boolean {
  const magic = getU32(from, at);
  header.cookieHigh = getU32(from, at + 8);
  header.cookieLow = getU32(from, at + 12);
  header.extended = magic === EXTENDED_REPLY_MAGIC;
  header.structured = header.extended || magic === STRUCTURED_REPLY_MAGIC;
  if (header.structured) {
    header.error = 0;
    header.flags = getU16(from, at + 4);
    header.type = getU16(from, at + 6);
    header.offset = header.extended ? getU64(from, at + 16) : 0;
    header.length = header.extended ? getU64(from, at + 24) : getU32(from, at + 16);
    return true;
  }
  header.error = getU32(from, at + 4);
  header.flags = REPLY_FLAG.DONE;
  header.type = CHUNK.NONE;
  header.offset = 0;
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

/** The payload of BLOCK_STATUS or BLOCK_STATUS_EXT. */
export interface BlockStatusChunk {
  readonly contextId: number;
  /** Pairs of length in bytes (not a safe integer if the peer sent 2^53 or more) and status flags (32 bits). */
  readonly descriptors: readonly number[];
}

/**
 * Throws `EPROTO` if there is no descriptor, an empty one, half of one, or one with more than 32 bits of status, which
 * no metadata context has that is asked for.
 * @param extended the chunk is a BLOCK_STATUS_EXT.
 */
export function decodeBlockStatusChunk(payload: Uint8Array, extended = false): BlockStatusChunk {
  const width = statusWidth(extended);
  const count = (payload.length - width) / (2 * width);
  if (!Number.isInteger(count) || count < 1 || (extended && getU32(payload, 4) !== count)) {
    throw protocolError(`a block status chunk of ${payload.length} bytes is not what it says`);
  }
  const get = extended ? getU64 : getU32;
  const descriptors = Array.from({ length: 2 * count }, (_, index) => get(payload, width * (1 + index)));
  for (let index = 0; index < descriptors.length; index += 2) {
    if (descriptors[index] === 0) throw protocolError("a block status descriptor describes no bytes");
    if ((descriptors[index + 1] as number) > 0xffff_ffff)
      throw protocolError("a status of more than 32 bits");
  }
  return { contextId: getU32(payload, 0), descriptors };
}
