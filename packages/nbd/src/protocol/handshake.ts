/**
 * The handshake's frames. All integers are big-endian.
 *
 *     greeting, server → client, 18 bytes       client flags, client → server, 4 bytes
 *     0       8        16  18                   0      4
 *     +-------+--------+---+                    +------+
 *     |NBDMAGIC|IHAVEOPT|flags|                 | flags|
 *     +-------+--------+---+                    +------+
 *
 *     option, client → server                   option reply, server → client
 *     0         8      12      16               0        8      12     16      20
 *     +---------+------+-------+------...       +--------+------+------+-------+------...
 *     |IHAVEOPT |option|length | data           | magic  |option| type |length | data
 *     +---------+------+-------+------...       +--------+------+------+-------+------...
 *
 *     answer to EXPORT_NAME, server → client; the zeroes are left out if both sides said NO_ZEROES
 *     0        8      10          134
 *     +--------+------+-----------+
 *     |  size  |flags | 124 zeroes|
 *     +--------+------+-----------+
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import {
  INIT_MAGIC_HIGH,
  INIT_MAGIC_LOW,
  OLDSTYLE_MAGIC_HIGH,
  OLDSTYLE_MAGIC_LOW,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
} from "./constants.ts";
import { clipText, protocolError } from "./text.ts";

export const GREETING_LENGTH = 18;
export const CLIENT_FLAGS_LENGTH = 4;
export const OPTION_HEADER_LENGTH = 16;
export const OPTION_REPLY_HEADER_LENGTH = 20;
/** The answer to EXPORT_NAME without its zeroes. */
export const EXPORT_ANSWER_LENGTH = 10;
export const EXPORT_ANSWER_ZEROES = 124;

const empty = Buffer.alloc(0);

/** @param flags of {@link HANDSHAKE_FLAG}. */
export function encodeGreeting(flags: number): Buffer {
  const bytes = Buffer.alloc(GREETING_LENGTH);
  setU32(bytes, 0, INIT_MAGIC_HIGH);
  setU32(bytes, 4, INIT_MAGIC_LOW);
  setU32(bytes, 8, OPTION_MAGIC_HIGH);
  setU32(bytes, 12, OPTION_MAGIC_LOW);
  setU16(bytes, 16, flags);
  return bytes;
}

/** The handshake flags. Throws `EPROTO` if this is no newstyle NBD server. */
export function decodeGreeting(bytes: Uint8Array): number {
  if (getU32(bytes, 0) !== INIT_MAGIC_HIGH || getU32(bytes, 4) !== INIT_MAGIC_LOW) {
    throw protocolError("this is not an NBD server");
  }
  const high = getU32(bytes, 8);
  const low = getU32(bytes, 12);
  if (high === OLDSTYLE_MAGIC_HIGH && low === OLDSTYLE_MAGIC_LOW) {
    throw protocolError("the server speaks only the oldstyle handshake, which is not supported");
  }
  if (high !== OPTION_MAGIC_HIGH || low !== OPTION_MAGIC_LOW) {
    throw protocolError("the NBD server's greeting is malformed");
  }
  return getU16(bytes, 16);
}

export function encodeClientFlags(flags: number): Buffer {
  const bytes = Buffer.alloc(CLIENT_FLAGS_LENGTH);
  setU32(bytes, 0, flags);
  return bytes;
}

export function decodeClientFlags(bytes: Uint8Array): number {
  return getU32(bytes, 0);
}

/** The head of an option; its data follow. */
export interface OptionHeader {
  readonly option: number;
  /** Bytes of data. */
  readonly length: number;
}

export function encodeOption(option: number, data: Uint8Array = empty): Buffer {
  const bytes = Buffer.allocUnsafe(OPTION_HEADER_LENGTH + data.length);
  setU32(bytes, 0, OPTION_MAGIC_HIGH);
  setU32(bytes, 4, OPTION_MAGIC_LOW);
  setU32(bytes, 8, option);
  setU32(bytes, 12, data.length);
  bytes.set(data, OPTION_HEADER_LENGTH);
  return bytes;
}

/** Throws `EPROTO` on a bad magic number. */
export function decodeOptionHeader(bytes: Uint8Array): OptionHeader {
  if (getU32(bytes, 0) !== OPTION_MAGIC_HIGH || getU32(bytes, 4) !== OPTION_MAGIC_LOW) {
    throw protocolError("an option does not begin with its magic number");
  }
  return { option: getU32(bytes, 8), length: getU32(bytes, 12) };
}

/** The head of an option reply; its data follow. */
export interface OptionReplyHeader {
  readonly option: number;
  /** One of {@link REP}, or an unknown number. */
  readonly type: number;
  /** Bytes of data. */
  readonly length: number;
}

export function encodeOptionReply(option: number, type: number, data: Uint8Array = empty): Buffer {
  const bytes = Buffer.allocUnsafe(OPTION_REPLY_HEADER_LENGTH + data.length);
  setU32(bytes, 0, OPTION_REPLY_MAGIC_HIGH);
  setU32(bytes, 4, OPTION_REPLY_MAGIC_LOW);
  setU32(bytes, 8, option);
  setU32(bytes, 12, type);
  setU32(bytes, 16, data.length);
  bytes.set(data, OPTION_REPLY_HEADER_LENGTH);
  return bytes;
}

/** An error reply with a text for the person in front of the client. */
export function encodeOptionError(option: number, type: number, text: string): Buffer {
  return encodeOptionReply(option, type, clipText(text));
}

/** Throws `EPROTO` on a bad magic number. */
export function decodeOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader {
  if (getU32(bytes, 0) !== OPTION_REPLY_MAGIC_HIGH || getU32(bytes, 4) !== OPTION_REPLY_MAGIC_LOW) {
    throw protocolError("an option reply does not begin with its magic number");
  }
  return { option: getU32(bytes, 8), type: getU32(bytes, 12), length: getU32(bytes, 16) };
}

/** What an export is: in the answer to EXPORT_NAME and in INFO_EXPORT. */
export interface ExportAnswer {
  /** Bytes. Not a safe integer if the peer sent 2^53 or more. */
  readonly size: number;
  /** Of {@link FLAG}. */
  readonly flags: number;
}

export function encodeExportAnswer({ size, flags }: ExportAnswer, withZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(EXPORT_ANSWER_LENGTH + (withZeroes ? EXPORT_ANSWER_ZEROES : 0));
  setU64(bytes, 0, size);
  setU16(bytes, 8, flags);
  return bytes;
}

/** Reads the first ten bytes; the zeroes after them, if any, are the caller's to skip. */
export function decodeExportAnswer(bytes: Uint8Array): ExportAnswer {
  return { size: getU64(bytes, 0), flags: getU16(bytes, 8) };
}
