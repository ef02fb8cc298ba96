/** The options of the client: one place for defaults and ranges. */
import { BlockIoError, type Environment, realEnvironment } from "@dmkit/block-io";
import { type NbdUri, formatNbdUri, parseNbdUri } from "../uri.ts";
import type { LinkOptions } from "./link.ts";
import type { DeviceChoices } from "./terms.ts";
import { MAX_SECONDS, splitNbdUri } from "./uri-options.ts";

export interface NbdClientOptions {
  /** Clock, random numbers and log; the real ones unless given. */
  readonly environment?: Environment | undefined;
  /** Never write, whatever the server allows. */
  readonly readOnly?: boolean | undefined;
  /** Connections to use if the server keeps several consistent: 1 … 16. Default 1. */
  readonly connections?: number | undefined;
  /** Seconds a request may wait for a lost server to come back; 0 or "off": not at all. Default 30. */
  readonly reconnect?: number | "off" | undefined;
  /**
   * Bytes of unflushed writes to keep, so that they can be repeated when the server comes back without them:
   * 0 (keep none: a loss with unflushed writes makes the device fail) or 1 MiB … 4 GiB. Default 0. When half
   * of it is in use the device flushes by itself.
   */
  readonly replayBuffer?: number | undefined;
  /** Seconds for a connection and its handshake, at least 0.001. Default 10. */
  readonly connectTimeout?: number | undefined;
  /** Requests in flight at once, over all connections: 1 … 65536. Default 128. */
  readonly maxInFlight?: number | undefined;
  /** Bytes of payload in flight at once: 64 KiB … 1 GiB. Default 32 MiB. One request is always let through. */
  readonly maxInFlightBytes?: number | undefined;
  /** Leave out the last bytes of an export whose size is not a multiple of the block size. */
  readonly wholeBlocks?: boolean | undefined;
  /** The server stores every write before it answers, although it says so neither by FLUSH nor by FUA. */
  readonly writeThrough?: boolean | undefined;
}

/** The options of a client with all defaults filled in. */
export interface CheckedOptions {
  readonly environment: Environment;
  readonly choices: DeviceChoices;
  readonly link: LinkOptions;
}

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** Throws `EPARSE` or `ENOTSUP` for the URI, `EINVAL` for an option that is out of its range. */
export function checkOptions(target: string | NbdUri, given: NbdClientOptions): CheckedOptions {
  const split = typeof target === "string" ? splitNbdUri(target) : undefined;
  const uri = split === undefined ? (target as NbdUri) : parseNbdUri(split.uri);
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options: NbdClientOptions = { ...split?.options, ...explicit };
  const reconnect = options.reconnect === "off" ? 0 : (options.reconnect ?? 30);
  const replayBuffer = options.replayBuffer ?? 0;
  return {
    environment: options.environment ?? realEnvironment,
    choices: {
      readOnly: options.readOnly === true,
      wholeBlocks: options.wholeBlocks === true,
      writeThrough: options.writeThrough === true,
    },
    link: {
      name: formatNbdUri(uri),
      uri,
      connections: integer("connections", options.connections ?? 1, 1, 16),
      patience: 1000 * number("reconnect", reconnect, 0, MAX_SECONDS),
      connectTimeout: timeoutOf(options),
      maxInFlight: integer("maxInFlight", options.maxInFlight ?? 128, 1, 65_536),
      maxInFlightBytes: integer("maxInFlightBytes", options.maxInFlightBytes ?? 32 * MIB, 64 * 1024, GIB),
      journal: replayBuffer === 0 ? 0 : integer("replayBuffer", replayBuffer, MIB, 4 * GIB),
      writeThrough: options.writeThrough === true,
    },
  };
}

/** Milliseconds for a connection and its handshake. Throws `EINVAL`. */
export function timeoutOf({ connectTimeout = 10 }: Pick<NbdClientOptions, "connectTimeout">): number {
  return 1000 * number("connectTimeout", connectTimeout, 0.001, MAX_SECONDS);
}

function integer(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value)) throw outOfRange(name, value, least, most, "an integer");
  return number(name, value, least, most);
}

function number(name: string, value: number, least: number, most: number): number {
  if (!(value >= least && value <= most)) throw outOfRange(name, value, least, most, "a number");
  return value;
}

function outOfRange(name: string, value: number, least: number, most: number, kind: string): BlockIoError {
  return new BlockIoError(`${name} is ${value}`, {
    code: "EINVAL",
    op: "open",
    hint: `Give ${kind} from ${least} to ${most}.`,
  });
}
