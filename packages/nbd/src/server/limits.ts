/** What a server lets its clients use. Every limit is a number with a range; nothing grows without one. */
import { type BlockIoError, type SettingsTable, checkSettings, refuse, setting } from "@dmkit/block-io";
import { DEFAULT_MAX_PAYLOAD, MAX_EXTENTS_PER_CHUNK, MAX_STRING } from "../protocol.ts";
import { bufferSize } from "./io/buffer-pool.ts";

const KiB = 1024;
const MiB = 1024 * 1024;

/**
 * Bytes; the least a request is charged, whatever its length. A request can keep alive one slab of replies or
 * one small received chunk, so this makes the charge an upper bound of the memory.
 */
export const MINIMUM_CHARGE: number = bufferSize(0);

/** Bytes; one large receive buffer. */
export const RECEIVE_BUFFER: number = bufferSize(256 * KiB);

/**
 * Bytes; what a connection may hold although none of its requests is in flight: the buffer in which the next
 * request waits, and the one the socket would read into next. Twice, because both count in the budget's test
 * of what is left. Only the rest of a connection's limit is for requests, or one could wait for itself.
 */
export const OVERHEAD: number = 4 * RECEIVE_BUFFER;

/** Bytes per second; a peer that is slower with one request or reply is as good as dead, once the stall time has passed. */
export const SLOWEST_RATE: number = 16 * KiB;

/** What a server takes on at most: of connections, requests and bytes. */
export interface ServerLimits {
  /** Connections at a time; those beyond are refused with a text. */
  readonly connections: number;
  /** Bytes of requests and replies in flight on one connection; beyond, its socket is not read. */
  readonly bytesPerConnection: number;
  /** Bytes of requests and replies in flight on all connections together; half of them in equal parts. */
  readonly bytesInAll: number;
  /** Bytes; the longest READ or WRITE that is carried out. Advertised to clients that ask. */
  readonly maximumPayload: number;
  /**
   * Bytes; a WRITE longer than allowed is drained and answered up to this length. Beyond, the peer is dropped; with
   * extended headers beyond 32 MiB or the maximum payload already, whichever is more.
   */
  readonly drainedPayload: number;
  /** Milliseconds from connecting to the end of the handshake. */
  readonly handshakeTime: number;
  /** Options a client may send before it is dropped. */
  readonly handshakeOptions: number;
  /** Bytes of data in one option; a longer one is drained and answered with an error. */
  readonly optionLength: number;
  /** Bytes of option data a client may send before it is dropped, drained ones included. */
  readonly handshakeBytes: number;
  /**
   * Milliseconds in which not one byte of a half-sent request or an unread reply moves, before the peer is dropped; so
   * is one that needs longer for it than this and 16 KiB a second allow.
   */
  readonly stallTime: number;
  /** Milliseconds without any request before the peer is dropped; 0 for no limit. */
  readonly idleTime: number;
  /** Descriptors in one BLOCK_STATUS reply, for each metadata context. */
  readonly extentsPerReply: number;
}

/** The limits of a server that was told nothing. */
export const defaultLimits: ServerLimits = {
  connections: 100,
  bytesPerConnection: 64 * MiB,
  bytesInAll: 256 * MiB,
  maximumPayload: DEFAULT_MAX_PAYLOAD,
  drainedPayload: 64 * MiB,
  handshakeTime: 10_000,
  handshakeOptions: 4096,
  optionLength: 32 * KiB,
  handshakeBytes: 4 * MiB,
  stallTime: 30_000,
  idleTime: 0,
  extentsPerReply: 16 * KiB,
};

/** Connections at a time that a server with the default limits can be given. */
export const MOST_CONNECTIONS: number = Math.floor(defaultLimits.bytesInAll / (2 * MINIMUM_CHARGE));

/** What each takes. */
export const limitSettings: SettingsTable<ServerLimits> = {
  connections: setting.integer(1, 65_536),
  bytesPerConnection: setting.integer(4 * MiB, Number.MAX_SAFE_INTEGER),
  bytesInAll: setting.integer(8 * MiB, Number.MAX_SAFE_INTEGER),
  maximumPayload: setting.integer(MiB, 1024 * MiB),
  drainedPayload: setting.integer(MiB, 0xffff_ffff),
  handshakeTime: setting.integer(1, 3_600_000),
  handshakeOptions: setting.integer(1, Number.MAX_SAFE_INTEGER),
  optionLength: setting.integer(2 * MAX_STRING, MiB),
  handshakeBytes: setting.integer(2 * MAX_STRING, Number.MAX_SAFE_INTEGER),
  stallTime: setting.integer(1, 3_600_000),
  idleTime: setting.integer(0, Number.MAX_SAFE_INTEGER),
  extentsPerReply: setting.integer(1, MAX_EXTENTS_PER_CHUNK),
};

/** Bytes; the most one request is charged. */
export function mostCharge({ bytesPerConnection }: ServerLimits): number {
  return bytesPerConnection - OVERHEAD;
}

/** Bytes; the most a BLOCK_STATUS takes for one context: descriptors in an array, in a chunk, in the reply. */
export function statusCharge({ extentsPerReply }: ServerLimits): number {
  return MINIMUM_CHARGE + 48 * extentsPerReply;
}

/** Fills in the defaults. Throws `EINVAL` for a limit out of its range or limits that contradict each other. */
export function resolveLimits(given: Partial<ServerLimits> = {}): ServerLimits {
  checkSettings({ limits: setting.within(limitSettings) }, { limits: given }, "listen");
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const limits: ServerLimits = { ...defaultLimits, ...explicit };
  // Otherwise the largest request could never be admitted and its connection would wait for ever.
  const largest = Math.max(bufferSize(limits.maximumPayload + KiB), statusCharge(limits)) + OVERHEAD;
  if (limits.bytesPerConnection < largest) {
    throw invalid(`limit bytesPerConnection is below the ${largest} bytes one request can need`);
  }
  if (limits.bytesInAll < 2 * limits.bytesPerConnection) {
    throw invalid("limit bytesInAll is below twice limit bytesPerConnection");
  }
  // So that a connection's guaranteed part is worth something.
  if (limits.bytesInAll < 2 * limits.connections * MINIMUM_CHARGE) {
    throw invalid(
      `limit bytesInAll is below ${2 * MINIMUM_CHARGE} bytes for each of ${limits.connections} connections`,
      "Give a lower limit connections, or a higher limit bytesInAll.",
    );
  }
  // The protocol: no chunk has more of anything than the maximum payload that clients are told.
  if (16 * limits.extentsPerReply > limits.maximumPayload) {
    throw invalid("limit extentsPerReply makes replies of 16 bytes each, more than limit maximumPayload");
  }
  if (limits.drainedPayload < limits.maximumPayload) {
    throw invalid("limit drainedPayload is below limit maximumPayload");
  }
  return limits;
}

/** The error for what a caller of the server gave and cannot be. @param hint what is allowed. */
export function invalid(reason: string, hint?: string): BlockIoError {
  return refuse(undefined, "EINVAL", reason, hint, "listen");
}

/** How a value that cannot be is shown: a text in quotes, a number as it is. */
export function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
