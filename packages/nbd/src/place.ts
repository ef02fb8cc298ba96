/**
 * Where the bytes of an export are, as a text: the same for the ways to name a place, so that one export is not taken
 * for two devices. Names of other machines are taken as they are: nobody here knows what they stand for later.
 */
import { statSync } from "node:fs";
import { isIPv6 } from "node:net";
import { resolve } from "node:path";
import { type NbdUri, formatNbdUri } from "./uri.ts";

/**
 * Sockets are told by the file, whatever links lead to it, as it is now: a server that is started again makes a new
 * one. @param before what this was, for a socket that is not there just now.
 */
export function placeOf({ address, exportName }: NbdUri, before?: string): string {
  if (address.kind === "unix") {
    const path = socketOf(address.path);
    if (path === undefined && before !== undefined) return before;
    return formatNbdUri({ address: { kind: "unix", path: path ?? resolve(address.path) }, exportName });
  }
  const host = canonicalHost(address.host);
  return formatNbdUri({ address: { ...address, host: isHere(host) ? "localhost" : host }, exportName });
}

/** No path that {@link resolve} gives. */
function socketOf(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

/** Lower case, and addresses in one spelling: IPv4 with four numbers, also where it is mapped into IPv6. */
function canonicalHost(given: string): string {
  const host = given.toLowerCase().replace(/\.$/, "");
  const url = `http://${isIPv6(host) ? `[${host}]` : host}/`;
  // A zone (`%eth0`) has no place in such a URL, and is what tells two addresses apart.
  if (!URL.canParse(url)) return host;
  const { hostname } = new URL(url);
  const [, high, low] = /^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/.exec(hostname) ?? [];
  if (high === undefined || low === undefined) return hostname.replaceAll(/[[\]]/g, "");
  const number = Number.parseInt(high, 16) * 0x1_0000 + Number.parseInt(low, 16);
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 0xff).join(".");
}

/** Connecting to no address in particular is connecting to this machine. */
function isHere(host: string): boolean {
  return ["localhost", "::1", "::", "0.0.0.0"].includes(host) || /^127(\.\d+){3}$/.test(host);
}
