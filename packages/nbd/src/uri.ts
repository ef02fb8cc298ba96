/**
 * NBD URIs: where a server listens, and which of its exports is meant.
 *
 *     nbd://HOST[:PORT][/EXPORT]              TCP; port 10809 unless given; IPv6 addresses in brackets
 *     nbd+unix:///[EXPORT]?socket=PATH        Unix-domain socket
 *
 * The export name is everything after the first slash of the path, percent-decoded; it may be empty (the
 * server's default export) and may itself begin with a slash (`nbd://host//name`).
 *
 * `nbds` instead of `nbd` asks for TLS, and nothing falls back to plain text then:
 *
 *     nbds://[USER@]HOST...                   USER: identity of a pre-shared key
 *     ?tls-certificates=FOLDER                ca-cert.pem, and perhaps client-cert.pem and client-key.pem
 *     &tls-psk-file=FILE                      lines of IDENTITY:KEY
 *     &tls-hostname=NAME                      the name the server's certificate must be for, if it is not HOST
 *     &tls-verify-peer=false                  take any certificate
 *
 * `nbd+vsock://` is recognised and refused.
 */
import { type ErrorCode, BlockIoError, didYouMean, refuse } from "@dmkit/block-io";
import { MAX_STRING } from "./protocol.ts";

// The port registered for NBD.
const NBD_PORT = 10_809;

/** Where a server listens. */
export type NbdAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** How TLS is spoken with a server; all of it may be left out. */
export interface NbdUriTls {
  /** Folder of ca-cert.pem, ca-crl.pem, client-cert.pem and client-key.pem; without it the system's authorities count. */
  readonly certificates?: string | undefined;
  /** File of pre-shared keys, instead of certificates. */
  readonly pskFile?: string | undefined;
  /** Identity of the key; the name of the user at this machine if it is left out. */
  readonly username?: string | undefined;
  /** Whom the server's certificate must be for, if that is not the host. */
  readonly hostname?: string | undefined;
  /** False: any certificate will do, and anybody may be at the other end. */
  readonly verifyPeer?: boolean | undefined;
}

/** What an NBD URI says. */
export interface NbdUri {
  readonly address: NbdAddress;
  /** Undefined: plain text. */
  readonly tls?: NbdUriTls | undefined;
  /** At most 4096 bytes of UTF-8; empty for the server's default export. */
  readonly exportName: string;
}

/** Parameters that are options of our client: uri-options.ts takes them out before a URI is read. */
export const clientParameters = [
  "reconnect",
  "replay-buffer",
  "connections",
  "connect-timeout",
  "whole-blocks",
  "write-through",
] as const;

const shape = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/i;
const authorityShape = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::([0-9]*))?$/;
const known = ["nbd", "nbd+unix", "nbds", "nbds+unix", "nbd+vsock", "nbds+vsock"];

/** Whether `text` begins with a scheme of an NBD URI, supported or not. */
export function isNbdUri(text: string): boolean {
  const scheme = shape.exec(text)?.[1]?.toLowerCase();
  return scheme !== undefined && known.includes(scheme);
}

/** Throws `EPARSE` for what is no NBD URI and `ENOTSUP` for vsock. */
export function parseNbdUri(text: string): NbdUri {
  const match = shape.exec(text);
  const scheme = match?.[1]?.toLowerCase() ?? "";
  if (match === null || !known.includes(scheme)) {
    throw malformed(
      text,
      "is not an NBD URI",
      "Write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.",
    );
  }
  const [, , authority = "", path = "", query, fragment] = match;
  const isSecure = scheme.startsWith("nbds");
  if (scheme.endsWith("+vsock")) {
    throw malformed(text, "asks for vsock, which is not supported", "Use nbd:// or nbd+unix://.", "ENOTSUP");
  }
  if (fragment !== undefined) {
    throw malformed(text, "has a fragment, which means nothing here", "Write # inside a name as %23.");
  }
  const at = authority.indexOf("@");
  if (at >= 0 && !isSecure) {
    throw malformed(
      text,
      "names a user, which has a meaning with TLS only",
      "Leave out everything up to the @, or write nbds:// for TLS.",
    );
  }
  const parameters = parseQuery(text, query);
  const tls = takeTls(text, at < 0 ? undefined : decode(text, authority.slice(0, at)), parameters);
  if (!isSecure && Object.keys(tls).length > 0) {
    throw malformed(text, "has parameters of TLS, and asks for none", "Write nbds instead of nbd.");
  }
  return {
    ...parsePlace(text, scheme.endsWith("+unix"), authority.slice(at + 1), path, parameters),
    ...(isSecure ? { tls } : {}),
  };
}

function parsePlace(
  text: string,
  isUnix: boolean,
  authority: string,
  path: string,
  parameters: ReadonlyMap<string, string>,
): NbdUri {
  const exportName = parseExportName(text, path);
  if (!isUnix) {
    if (parameters.has("socket")) {
      throw malformed(text, "names a socket beside a host", "For a Unix socket write nbd+unix://.");
    }
    for (const name of parameters.keys()) throw unknownParameter(text, name);
    return { address: parseAuthority(text, authority), exportName };
  }
  return { address: { kind: "unix", path: parseSocket(text, authority, parameters) }, exportName };
}

/** The URI of an address and export; {@link parseNbdUri} gives them back. Throws `EINVAL` for impossible names. */
export function formatNbdUri({ address, exportName, tls }: NbdUri): string {
  const path = exportName === "" ? "" : `/${encode(exportName)}`;
  const scheme = tls === undefined ? "nbd" : "nbds";
  const user = tls?.username === undefined ? "" : `${encode(tls.username).replaceAll("/", "%2F")}@`;
  const parameters = Object.entries(tlsParameters).flatMap(([name, { key }]) =>
    tls?.[key] === undefined ? [] : [`${name}=${encode(String(tls[key]))}`],
  );
  if (address.kind === "unix") {
    const query = [`socket=${encode(address.path)}`, ...parameters].join("&");
    return `${scheme}+unix://${user}${path || "/"}?${query}`;
  }
  const query = parameters.length === 0 ? "" : `${path === "" ? "/" : ""}?${parameters.join("&")}`;
  const host = address.host.includes(":")
    ? `[${encodeURIComponent(address.host).replaceAll("%3A", ":")}]`
    : encode(address.host);
  return `${scheme}://${user}${host}${address.port === NBD_PORT ? "" : `:${address.port}`}${path}${query}`;
}

/** Parameters of TLS, what they are called here, and how they are read. */
const tlsParameters: Readonly<
  Record<
    string,
    { key: keyof NbdUriTls; read: (value: string) => string | boolean | undefined; takes: string }
  >
> = {
  "tls-certificates": { key: "certificates", read: named, takes: "a folder" },
  "tls-psk-file": { key: "pskFile", read: named, takes: "a file" },
  "tls-hostname": { key: "hostname", read: named, takes: "the name of a host" },
  "tls-verify-peer": {
    key: "verifyPeer",
    read: (value) =>
      ["", "1", "true"].includes(value) ? true : ["0", "false"].includes(value) ? false : undefined,
    takes: "true or false",
  },
};

function named(value: string): string | undefined {
  return value === "" || value.includes("\0") ? undefined : value;
}

/** Takes the parameters of TLS out of those of a URI. */
function takeTls(text: string, username: string | undefined, parameters: Map<string, string>): NbdUriTls {
  const tls: Record<string, unknown> = username === undefined ? {} : { username };
  for (const [name, { key, read, takes }] of Object.entries(tlsParameters)) {
    const given = parameters.get(name);
    if (given === undefined) continue;
    parameters.delete(name);
    tls[key] = read(given);
    if (tls[key] === undefined)
      throw malformed(text, `has "${given}" for ${name}`, `${name} takes ${takes}.`);
  }
  const { certificates, pskFile } = tls as NbdUriTls;
  if (certificates !== undefined && pskFile !== undefined)
    throw malformed(text, "has both certificates and pre-shared keys", "Name one of the two.");
  return tls;
}

function parseAuthority(text: string, authority: string): NbdAddress {
  const match = authorityShape.exec(authority);
  if (match === null) {
    throw malformed(text, "has no well-formed host and port", "Write HOST, HOST:PORT or [IPV6]:PORT.");
  }
  const host = decode(text, match[1] ?? match[2] ?? "");
  if (host === "") throw malformed(text, "names no host", "Write nbd://localhost/EXPORT for this machine.");
  const digits = match[3] ?? "";
  const port = digits === "" ? NBD_PORT : Number(digits);
  if (port < 1 || port > 65_535) throw malformed(text, `has no port ${digits}`, "Ports are 1 … 65535.");
  return { kind: "tcp", host, port };
}

function parseSocket(text: string, authority: string, parameters: ReadonlyMap<string, string>): string {
  if (authority !== "") {
    throw malformed(
      text,
      "names a host beside a Unix socket",
      "Write three slashes: nbd+unix:///EXPORT?socket=PATH.",
    );
  }
  for (const name of parameters.keys()) {
    if (name !== "socket") throw unknownParameter(text, name);
  }
  const path = parameters.get("socket") ?? "";
  if (path === "") throw malformed(text, "names no socket", "Add ?socket=PATH.");
  if (path.includes("\0")) throw malformed(text, "has a socket path with a NUL byte", "Name a file.");
  return path;
}

function unknownParameter(text: string, name: string): BlockIoError {
  const names = ["socket", ...Object.keys(tlsParameters), ...clientParameters];
  return malformed(
    text,
    `has an unknown parameter ${name}`,
    `${didYouMean(name, names)}Known are: ${names.join(", ")}.`,
  );
}

function parseQuery(text: string, query: string | undefined): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query === undefined || query === "" ? [] : query.split("&")) {
    const equals = part.indexOf("=");
    const name = decode(text, equals < 0 ? part : part.slice(0, equals));
    if (parameters.has(name)) throw malformed(text, `has the parameter ${name} twice`, "Name it once.");
    parameters.set(name, equals < 0 ? "" : decode(text, part.slice(equals + 1)));
  }
  return parameters;
}

function parseExportName(text: string, path: string): string {
  const name = decode(text, path.slice(1));
  if (name.includes("\0") || Buffer.byteLength(name) > MAX_STRING) {
    throw malformed(text, `has an export name with a NUL or of more than ${MAX_STRING} bytes`, "Shorten it.");
  }
  return name;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw malformed(text, "has a % that begins no UTF-8 character", "Write a percent sign as %25.");
  }
}

// Slashes need no escape in a path or a parameter, and names are easier to read with them.
function encode(part: string): string {
  try {
    return encodeURIComponent(part).replaceAll("%2F", "/");
  } catch (cause) {
    throw new BlockIoError("a name is not valid Unicode", { code: "EINVAL", op: "parse", cause });
  }
}

function malformed(text: string, reason: string, hint: string, code: ErrorCode = "EPARSE"): BlockIoError {
  return refuse(undefined, code, `"${text}" ${reason}`, hint, "parse");
}
