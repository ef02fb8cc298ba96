/**
 * Requests and simple replies. All integers are big-endian.
 *
 *     request, client → server, 28 bytes; the payload of a WRITE follows
 *     0      4      6      8               16              24      28
 *     +------+------+------+---------------+---------------+-------+
 *     |magic |flags | type |    cookie     |    offset     |length |
 *     +------+------+------+---------------+---------------+-------+
 *
 *     simple reply, server → client, 16 bytes; the data of a successful READ follow
 *     0      4      8               16
 *     +------+------+---------------+
 *     |magic |error |    cookie     |
 *     +------+------+---------------+
 *
 * A cookie means nothing to a server; it is kept as two 32-bit halves so that all its bits survive.
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import { REQUEST_MAGIC, SIMPLE_REPLY_MAGIC } from "./constants.ts";

export const REQUEST_LENGTH = 28;
export const SIMPLE_REPLY_LENGTH = 16;

/** A request's header. Mutable, so that a hot path can decode into an object it keeps. */
export interface RequestHeader {
  /** Of {@link CMD_FLAG}. */
  flags: number;
  /** One of {@link CMD}, or an unknown number. */
  type: number;
  cookieHigh: number;
  cookieLow: number;
  /** Bytes. Not a safe integer, and past every device, if the peer sent 2^53 or more. */
  offset: number;
  /** Bytes, 0 … 2^32 - 1. */
  length: number;
}

/** Writes {@link REQUEST_LENGTH} bytes at `at`. */
export function encodeRequest(into: Uint8Array, at: number, header: Readonly<RequestHeader>): void {
  setU32(into, at, REQUEST_MAGIC);
  setU16(into, at + 4, header.flags);
  setU16(into, at + 6, header.type);
  setU32(into, at + 8, header.cookieHigh);
  setU32(into, at + 12, header.cookieLow);
  setU64(into, at + 16, header.offset);
  setU32(into, at + 24, header.length);
}

/** Reads {@link REQUEST_LENGTH} bytes at `at` into `header`; false if the magic number is wrong. */
export function decodeRequest(from: Uint8Array, at: number, header: RequestHeader): boolean {
  if (getU32(from, at) !== REQUEST_MAGIC) return false;
  header.flags = getU16(from, at + 4);
  header.type = getU16(from, at + 6);
  header.cookieHigh = getU32(from, at + 8);
  header.cookieLow = getU32(from, at + 12);
  header.offset = getU64(from, at + 16);
  header.length = getU32(from, at + 24);
  return true;
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
