/**
 * Requests and simple replies. All integers are big-endian.
 *
 *     compact request, client → server, 28 bytes; the payload of a WRITE follows
 *     0      4      6      8               16              24      28
 *     +------+------+------+---------------+---------------+-------+
 *     |magic |flags | type |    cookie     |    offset     |length |
 *     +------+------+------+---------------+---------------+-------+
 *
 *     extended request, 32 bytes; a payload follows if, and only if, the flag PAYLOAD_LEN says that `length` is its length
 *     0      4      6      8               16              24              32
 *     +------+------+------+---------------+---------------+---------------+
 *     |magic |flags | type |    cookie     |    offset     |    length     |
 *     +------+------+------+---------------+---------------+---------------+
 *
 *     payload of an extended BLOCK_STATUS: the range's length, and what to tell of it
 *     | u64 length | n x u32 context id |
 *
 *     simple reply, server → client, 16 bytes; the data of a successful READ follow. Never to an extended request
 *     0      4      8               16
 *     +------+------+---------------+
 *     |magic |error |    cookie     |
 *     +------+------+---------------+
 *
 * A cookie means nothing to a server; it is kept as two 32-bit halves so that all its bits survive.
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import { CMD, CMD_FLAG, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC } from "./constants.ts";
import { protocolError } from "./text.ts";

export const REQUEST_LENGTH = 28;
export const EXTENDED_REQUEST_LENGTH = 32;
export const SIMPLE_REPLY_LENGTH = 16;

/** A request's header. Mutable, so that a hot path can decode into an object it keeps. */
export interface RequestHeader {
  /** Whether it has 64 bits of length, and is answered in extended chunks; both sides know from the handshake. */
  readonly extended?: boolean | undefined;
  /** Of {@link CMD_FLAG}. */
  flags: number;
  /** One of {@link CMD}, or an unknown number. */
  type: number;
  cookieHigh: number;
  cookieLow: number;
  /** Bytes. Not a safe integer, and past every device, if the peer sent 2^53 or more. */
  offset: number;
  /** Bytes, 0 … 2^32 - 1; in an extended header as {@link offset}. */
  length: number;
}

/** Bytes of a request's header. */
export function requestLength(extended: boolean): number {
  return extended ? EXTENDED_REQUEST_LENGTH : REQUEST_LENGTH;
}

/** Writes {@link requestLength} bytes at `at`. */
export function encodeRequest(into: Uint8Array, at: number, header: Readonly<RequestHeader>): void {
  setU32(into, at, header.extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  setU16(into, at + 4, header.flags);
  setU16(into, at + 6, header.type);
  setU32(into, at + 8, header.cookieHigh);
  setU32(into, at + 12, header.cookieLow);
  setU64(into, at + 16, header.offset);
  if (header.extended) setU64(into, at + 24, header.length);
  else setU32(into, at + 24, header.length);
}

/** The request after which nothing is sent. */
export function encodeDisconnect(extended: boolean): Buffer {
  const bytes = Buffer.alloc(requestLength(extended));
  const nothing = { flags: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
  encodeRequest(bytes, 0, { ...nothing, extended, type: CMD.DISC });
  return bytes;
}

/** Reads {@link requestLength} bytes at `at` into `header`; false if the magic number is not the one agreed on. */
export function decodeRequest(from: Uint8Array, at: number, header: RequestHeader): boolean {
  if (getU32(from, at) !== (header.extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) return false;
  header.flags = getU16(from, at + 4);
  header.type = getU16(from, at + 6);
  header.cookieHigh = getU32(from, at + 8);
  header.cookieLow = getU32(from, at + 12);
  header.offset = getU64(from, at + 16);
  header.length = header.extended ? getU64(from, at + 24) : getU32(from, at + 24);
  return true;
}

/** Bytes of payload behind a request's header. Not a safe integer, and past every limit, if the peer sent 2^53 or more. */
export function payloadLength({ extended, flags, type, length }: Readonly<RequestHeader>): number {
  return (extended ? (flags & CMD_FLAG.PAYLOAD_LEN) !== 0 : type === CMD.WRITE) ? length : 0;
}

/** What the payload of a BLOCK_STATUS asks for. */
export interface StatusQuery {
  /** Bytes; as in a header, not a safe integer if the peer sent 2^53 or more. */
  readonly length: number;
  readonly contextIds: readonly number[];
}

/** Throws `EPROTO` if it is not a length and one or more numbers of contexts, each once. */
export function decodeStatusQuery(payload: Uint8Array): StatusQuery {
  if (payload.length < 12 || payload.length % 4 !== 0) {
    throw protocolError(`a payload of ${payload.length} bytes is no length with context ids behind it`);
  }
  const contextIds = Array.from({ length: payload.length / 4 - 2 }, (_, index) =>
    getU32(payload, 8 + 4 * index),
  );
  if (new Set(contextIds).size < contextIds.length) throw protocolError("a context id is there twice");
  return { length: getU64(payload, 0), contextIds };
}

/** Writes {@link SIMPLE_REPLY_LENGTH} bytes at `at`. @param error of {@link ERRNO}, or 0. */
export function encodeSimpleReply(
  into: Uint8Array,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  setU32(into, at, SIMPLE_REPLY_MAGIC);
  setU32(into, at + 4, error);
  setU32(into, at + 8, cookieHigh);
  setU32(into, at + 12, cookieLow);
}
