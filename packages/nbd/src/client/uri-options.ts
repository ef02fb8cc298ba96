/**
 * Options of the client inside of a URI, where nothing else can carry them: in a table, a stack file, on the command line.
 *
 *     nbd://HOST/EXPORT?reconnect=300&whole-blocks
 *     nbd+unix:///EXPORT?socket=PATH&replay-buffer=64M
 *
 * They are ours: other programs refuse or ignore them. {@link splitNbdUri} takes them out.
 */
import { resolve } from "node:path";
import { BlockIoError, parseSize } from "@dmkit/block-io";
import { type NbdUri, clientParameters, formatNbdUri, parseNbdUri } from "../uri.ts";
import type { NbdClientOptions } from "./client-options.ts";

/** The longest time that can be given. */
export const MAX_SECONDS = 1_000_000;

type UriOptions = Omit<NbdClientOptions, "environment" | "readOnly">;

/** Parameter, option, how its value is read, and its range in words. */
const parameters: Readonly<
  Record<
    (typeof clientParameters)[number],
    { option: keyof UriOptions; read: (value: string) => unknown; takes: string }
  >
> = {
  reconnect: {
    option: "reconnect",
    read: (value) => (value === "off" ? "off" : decimal(value)),
    takes: `0 … ${MAX_SECONDS} seconds that requests wait for a lost server, or off`,
  },
  "replay-buffer": {
    option: "replayBuffer",
    read: size,
    takes: "a size from 1M to 4G, or 0: unflushed writes kept to be repeated after a loss",
  },
  connections: { option: "connections", read: decimal, takes: "1 … 16" },
  "connect-timeout": { option: "connectTimeout", read: decimal, takes: `0.001 … ${MAX_SECONDS} seconds` },
  "whole-blocks": {
    option: "wholeBlocks",
    read: flag,
    takes: "0 or 1: leave out the last bytes of an export that ends inside of a block",
  },
  "write-through": {
    option: "writeThrough",
    read: flag,
    takes: "0 or 1: the server stores every write before it answers, although it does not say so",
  },
};

export interface SplitUri {
  /** Without our parameters. */
  readonly uri: string;
  readonly options: UriOptions;
  /** Our parameters as they were written. */
  readonly ours: readonly string[];
}

/** Takes our parameters out of a URI; what is left is for {@link parseNbdUri} to judge. Throws `EPARSE` for values. */
export function splitNbdUri(text: string): SplitUri {
  const mark = text.indexOf("?");
  if (mark < 0) return { uri: text, options: {}, ours: [] };
  const options: Record<string, unknown> = {};
  const ours: string[] = [];
  const theirs: string[] = [];
  for (const part of text.slice(mark + 1).split("&")) {
    const [name = "", ...rest] = part.split("=");
    const ownName = clientParameters.find((one) => one === name);
    const known = ownName && parameters[ownName];
    if (known === undefined) {
      theirs.push(part);
      continue;
    }
    const value = known.read(rest.join("="));
    if (value === undefined || Object.hasOwn(options, known.option)) {
      throw new BlockIoError(
        value === undefined ? `"${part}" in the URI is not allowed` : `the URI has ${name} twice`,
        { code: "EPARSE", device: text, op: "parse", hint: `${name} takes ${known.takes}.` },
      );
    }
    options[known.option] = value;
    ours.push(part);
  }
  const query = theirs.length === 0 ? "" : `?${theirs.join("&")}`;
  return { uri: `${text.slice(0, mark)}${query}`, options, ours };
}

/**
 * The URI with relative paths (of a socket, of certificates and keys) started from `folder`, everything else as it was. Throws `EPARSE` or
 * `ENOTSUP` for what is no URI of ours.
 */
export function resolveNbdUri(text: string, folder: string): string {
  const { uri, ours } = splitNbdUri(text);
  const given = parseNbdUri(uri);
  const absolute = (path: string | undefined): string | undefined => path && resolve(folder, path);
  const { address, tls } = given;
  const whole: NbdUri = {
    ...given,
    address: address.kind === "unix" ? { ...address, path: resolve(folder, address.path) } : address,
    tls: tls && { ...tls, certificates: absolute(tls.certificates), pskFile: absolute(tls.pskFile) },
  };
  const result = formatNbdUri(whole);
  if (result === formatNbdUri(given)) return text;
  return [result, ...ours].join("&");
}

function decimal(value: string): number | undefined {
  return /^\d{1,9}(\.\d{1,6})?$/.test(value) ? Number(value) : undefined;
}

function flag(value: string): boolean | undefined {
  if (value === "" || value === "1") return true;
  return value === "0" ? false : undefined;
}

function size(value: string): number | undefined {
  try {
    return parseSize(value);
  } catch {
    return undefined;
  }
}
