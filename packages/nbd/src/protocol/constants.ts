/**
 * Numbers of the NBD protocol, under the names of its public specification without the `NBD_` prefix. Those of extended
 * headers are in its text of 2023, in the branch `extension-ext-header`.
 */

// -- Magic numbers ------------------------------------------------------------------------------------------

/** "NBDMAGIC", the first eight bytes a server sends; as two 32-bit halves. */
export const INIT_MAGIC_HIGH = 0x4e42_444d;
export const INIT_MAGIC_LOW = 0x4147_4943;
/** "IHAVEOPT", the newstyle handshake and every option. */
export const OPTION_MAGIC_HIGH = 0x4948_4156;
export const OPTION_MAGIC_LOW = 0x454f_5054;
/** The second eight bytes of a server that speaks the oldstyle handshake, which is not spoken here. */
export const OLDSTYLE_MAGIC_HIGH = 0x0000_4202;
export const OLDSTYLE_MAGIC_LOW = 0x8186_1253;
export const OPTION_REPLY_MAGIC_HIGH = 0x0003_e889;
export const OPTION_REPLY_MAGIC_LOW = 0x0455_65a9;
export const REQUEST_MAGIC = 0x2560_9513;
export const SIMPLE_REPLY_MAGIC = 0x6744_6698;
export const STRUCTURED_REPLY_MAGIC = 0x668e_33ef;
/** Requests and chunks with 64-bit lengths. */
export const EXTENDED_REQUEST_MAGIC = 0x21e4_1c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a_278c;

// -- Handshake ----------------------------------------------------------------------------------------------

/** Flags of the server's greeting (16 bits) and, with the same values, of the client's answer (32 bits). */
export const HANDSHAKE_FLAG = {
  FIXED_NEWSTYLE: 0x1,
  NO_ZEROES: 0x2,
} as const;

/** Options of the handshake. */
export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** Option replies. Errors have bit 31 set and carry a text. */
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x8000_0001,
  ERR_POLICY: 0x8000_0002,
  ERR_INVALID: 0x8000_0003,
  ERR_PLATFORM: 0x8000_0004,
  ERR_TLS_REQD: 0x8000_0005,
  ERR_UNKNOWN: 0x8000_0006,
  ERR_SHUTDOWN: 0x8000_0007,
  ERR_BLOCK_SIZE_REQD: 0x8000_0008,
  ERR_TOO_BIG: 0x8000_0009,
  ERR_EXT_HEADER_REQD: 0x8000_000a,
} as const;

/** Information types of INFO and GO. */
export const INFO = {
  EXPORT: 0,
  NAME: 1,
  DESCRIPTION: 2,
  BLOCK_SIZE: 3,
} as const;

/** Transmission flags: what an export can do. */
export const FLAG = {
  HAS_FLAGS: 0x1,
  READ_ONLY: 0x2,
  SEND_FLUSH: 0x4,
  SEND_FUA: 0x8,
  ROTATIONAL: 0x10,
  SEND_TRIM: 0x20,
  SEND_WRITE_ZEROES: 0x40,
  SEND_DF: 0x80,
  CAN_MULTI_CONN: 0x100,
  SEND_RESIZE: 0x200,
  SEND_CACHE: 0x400,
  SEND_FAST_ZERO: 0x800,
  BLOCK_STATUS_PAYLOAD: 0x1000,
} as const;

// -- Transmission -------------------------------------------------------------------------------------------

/** Commands. */
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const;

/** Flags of a command. */
export const CMD_FLAG = {
  FUA: 0x1,
  NO_HOLE: 0x2,
  DF: 0x4,
  REQ_ONE: 0x8,
  FAST_ZERO: 0x10,
  PAYLOAD_LEN: 0x20,
} as const;

/** Flags of a chunk. */
export const REPLY_FLAG = { DONE: 0x1 } as const;

/** Types of chunks. Errors have bit 15 set. */
export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** Bit 15 of a chunk's type: it reports an error. */
export const CHUNK_ERROR_BIT = 0x8000;
/** Bit 31 of an option reply's type: it reports an error. */
export const REP_ERROR_BIT = 0x8000_0000;

/** Error numbers on the wire. 0 is success. */
export const ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The metadata context every server of block status offers. */
export const BASE_ALLOCATION = "base:allocation";

/** Status flags of `base:allocation`. */
export const STATE = {
  HOLE: 0x1,
  ZERO: 0x2,
} as const;

// -- Limits set by the protocol -----------------------------------------------------------------------------

/** Bytes; the longest string (export name, metadata query, error text). */
export const MAX_STRING = 4096;
/** Bytes; the payload every server accepts, and what a client may assume without asking. */
export const DEFAULT_MAX_PAYLOAD: number = 32 * 1024 * 1024;
/** Bytes; the block size a client may assume without asking, if it wants to get on with every server. */
export const DEFAULT_MIN_BLOCK = 512;
/** Bytes; the preferred block size where none is advertised. */
export const DEFAULT_PREFERRED_BLOCK = 4096;
/** Bytes; the largest minimum block size that may be advertised. */
export const MAX_MIN_BLOCK: number = 64 * 1024;
/** Descriptors; the most in one chunk of block status. */
export const MAX_EXTENTS_PER_CHUNK: number = 1024 * 1024;
