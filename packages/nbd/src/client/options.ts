/** The options of the client: one place for defaults and ranges. */
import { type BlockIoError, type Environment, realEnvironment, refuse } from "@dmkit/block-io";
import type { NbdClientOptions } from "./client-options.ts";
import { type NbdUri, formatNbdUri, parseNbdUri } from "../uri.ts";
import type { LinkOptions } from "./link.ts";
import type { DeviceChoices } from "./terms.ts";
import { MAX_SECONDS, splitNbdUri } from "./uri-options.ts";

/** The options of a client with all defaults filled in. */
export interface CheckedOptions {
  readonly environment: Environment;
  readonly choices: DeviceChoices;
  readonly link: LinkOptions;
}

const names: readonly (keyof NbdClientOptions)[] = [
  "environment",
  "readOnly",
  "connections",
  "reconnect",
  "replayBuffer",
  "connectTimeout",
  "maxInFlight",
  "maxInFlightBytes",
  "wholeBlocks",
  "writeThrough",
];

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** Throws `EPARSE` or `ENOTSUP` for the URI, `EINVAL` for an option that is out of its range. */
export function checkOptions(target: string | NbdUri, given: NbdClientOptions): CheckedOptions {
  const split = typeof target === "string" ? splitNbdUri(target) : undefined;
  const uri = split === undefined ? (target as NbdUri) : parseNbdUri(split.uri);
  const unknown = Object.keys(given).find((name) => !names.includes(name as keyof NbdClientOptions));
  if (unknown !== undefined) {
    throw refuse(undefined, "EINVAL", `there is no option ${unknown}`, `Options: ${names.join(", ")}.`);
  }
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options: NbdClientOptions = { ...split?.options, ...explicit };
  const reconnect = options.reconnect === "off" ? 0 : (options.reconnect ?? 30);
  const replayBuffer = options.replayBuffer ?? 0;
  return {
    environment: options.environment ?? realEnvironment,
    choices: {
      readOnly: flag("readOnly", options.readOnly),
      wholeBlocks: flag("wholeBlocks", options.wholeBlocks),
      writeThrough: flag("writeThrough", options.writeThrough),
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
      writeThrough: flag("writeThrough", options.writeThrough),
    },
  };
}

/** Anything but a boolean is a mistake: `readOnly: "yes"` must not be written to. */
function flag(name: string, value: boolean | undefined = false): boolean {
  if (typeof value === "boolean") return value;
  throw refuse(undefined, "EINVAL", `${name} is ${String(value)}`, "Give true or false.");
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
  return refuse(undefined, "EINVAL", `${name} is ${value}`, `Give ${kind} from ${least} to ${most}.`);
}
