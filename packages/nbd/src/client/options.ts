/** The options of the client: one place for defaults and ranges. */
import {
  type Environment,
  type SettingsTable,
  checkSettings,
  realEnvironment,
  setting,
} from "@dmkit/block-io";
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

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** What each takes. Anything but a boolean is a mistake where one is meant: `readOnly: "yes"` must not be written to. */
const clientSettings: SettingsTable<NbdClientOptions> = {
  environment: setting.environment,
  name: setting.text,
  lost: setting.call,
  readOnly: setting.flag,
  connections: setting.integer(1, 16),
  reconnect: setting.either(setting.number(0, MAX_SECONDS), setting.choice("off")),
  replayBuffer: setting.either(setting.choice(0), setting.integer(MIB, 4 * GIB)),
  connectTimeout: setting.number(0.001, MAX_SECONDS),
  maxInFlight: setting.integer(1, 65_536),
  maxInFlightBytes: setting.integer(64 * 1024, GIB),
  wholeBlocks: setting.flag,
  writeThrough: setting.flag,
};

/** What those take who only ask a server something. */
const querySettings: SettingsTable<Pick<NbdClientOptions, "environment" | "connectTimeout">> = {
  environment: clientSettings.environment,
  connectTimeout: clientSettings.connectTimeout,
};

/** Throws `EPARSE` or `ENOTSUP` for the URI, `EINVAL` for an option that is out of its range. */
export function checkOptions(target: string | NbdUri, given: NbdClientOptions): CheckedOptions {
  const split = typeof target === "string" ? splitNbdUri(target) : undefined;
  const uri = split === undefined ? (target as NbdUri) : parseNbdUri(split.uri);
  checkSettings(clientSettings, given);
  const explicit = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  // Those of the URI have been read, and may be out of range.
  const options: NbdClientOptions = checkSettings(clientSettings, { ...split?.options, ...explicit });
  return {
    environment: options.environment ?? realEnvironment,
    choices: {
      readOnly: options.readOnly === true,
      wholeBlocks: options.wholeBlocks === true,
      writeThrough: options.writeThrough === true,
    },
    link: {
      name: options.name ?? formatNbdUri(uri),
      lost: options.lost,
      uri,
      connections: options.connections ?? 1,
      patience: 1000 * (options.reconnect === "off" ? 0 : (options.reconnect ?? 30)),
      connectTimeout: timeoutOf(options),
      maxInFlight: options.maxInFlight ?? 128,
      maxInFlightBytes: options.maxInFlightBytes ?? 32 * MIB,
      journal: options.replayBuffer ?? 0,
      writeThrough: options.writeThrough === true,
    },
  };
}

/** Milliseconds for a connection and its handshake. */
function timeoutOf({ connectTimeout = 10 }: Pick<NbdClientOptions, "connectTimeout">): number {
  return 1000 * connectTimeout;
}

/** The same of who only asks something. Throws `EINVAL`. */
export function queryTimeoutOf(options: Pick<NbdClientOptions, "environment" | "connectTimeout">): number {
  return timeoutOf(checkSettings(querySettings, options, "connect"));
}
