/**
 * Sockets that are listened on: unix sockets, TCP, and sockets inherited from a service manager.
 *
 * A unix socket is created with mode 0600. Its file outlives a killed server: a file nobody listens on is
 * taken over, one that somebody answers on is `EADDRINUSE`, and anything that is no socket is left alone; see
 * unix-socket.ts.
 */
import { type AddressInfo, type Server, isIP } from "node:net";
import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import {
  BlockIoError,
  type ErrorCode,
  type SettingsTable,
  checkSettings,
  codeOf,
  setting,
  shellQuote,
  toBlockIoError,
} from "@dmkit/block-io";
import { invalid } from "../limits.ts";
import { AddressList, type NamedAccess } from "../exports/access.ts";
import { BACKLOG, Door, type DoorOptions } from "./door.ts";
import { groupNumber } from "./group.ts";
import { type ServerTlsOptions, tlsSettings } from "../../tls/server-tls.ts";
import { type SocketFile, bindUnixSocket, pathOfInherited } from "./unix-socket.ts";

/** The port registered for NBD. */
export const NBD_PORT = 10809;

/** What holds for whoever comes that way, to whatever export. */
export interface ListenPolicy extends NamedAccess {
  /** Without it nothing is encrypted. */
  readonly tls?: ServerTlsOptions | undefined;
  /** Addresses or ranges of them, `10.0.0.0/8`, that may connect; everybody if it is left out. */
  readonly allow?: readonly string[] | undefined;
}

/** Where to listen: exactly one of `path`, `fd` and `port`/`host`. */
export type ListenOptions = ListenPolicy & ListenPlace;

type ListenPlace =
  | UnixPlace
  | TcpPlace
  /** A listening socket of this process, e.g. 3 under systemd socket activation. */
  | { readonly fd: number };

interface UnixPlace {
  readonly path: string;
  /** Who may connect: mode of the file, 0o600 unless told otherwise. */
  readonly mode?: number | undefined;
  /** Group of the file, by number or name; the one of the process unless told otherwise. */
  readonly group?: number | string | undefined;
}

interface TcpPlace {
  /** 127.0.0.1 unless told otherwise. */
  readonly host?: string | undefined;
  /** 10809 unless told otherwise; 0 for any that is free. */
  readonly port?: number | undefined;
  /** An address that others can reach has to be asked for explicitly, unless TLS is required there. */
  readonly allowRemote?: boolean | undefined;
}

type TcpOptions = ListenPolicy & TcpPlace;

/** A socket that is listened on. */
export interface Listener {
  /**
   * `nbd://…` or `nbd+unix://…` of an export, `nbds…` where TLS is required; of the default one without a name. Of an
   * inherited unix socket whose path cannot be told: `fd:3`.
   */
  uri(exportName?: string): string;
  /** The path of a unix socket. */
  readonly path: string | undefined;
  readonly host: string | undefined;
  readonly port: number | undefined;
  /** What clients find there. */
  readonly tls: ServerTlsOptions | undefined;
  /** One that has a pre-shared key, where there are any. */
  readonly identity?: string | undefined;
  /** Stops listening; connections stay. */
  close(): Promise<void>;
}

/** What holds for whoever comes by some way, with the fields of {@link ListenPolicy}. */
export const policySettings: SettingsTable<ListenPolicy> = {
  tls: setting.within(tlsSettings),
  allow: setting.texts,
  identities: setting.texts,
  writers: setting.texts,
};

const placeSettings: SettingsTable<UnixPlace & TcpPlace & { readonly fd: number }> = {
  path: setting.as("the path of a unix socket", isText),
  mode: setting.integer(0o600, 0o777),
  group: setting.either(setting.integer(0, 0xffff_fffe), setting.text),
  host: setting.as("an address or the name of a host", isText),
  port: setting.integer(0, 65_535),
  allowRemote: setting.flag,
  fd: setting.integer(0, 0x7fff_ffff),
};

/** Throws `EINVAL` for a place that cannot be, or several. */
export function checkWhere(options: ListenOptions): void {
  checkSettings({ ...placeSettings, ...policySettings }, options, "listen");
  const given: Readonly<Record<string, unknown>> = { ...options };
  const kinds = [
    ["path", "mode", "group"],
    ["fd", "allow"],
    ["host", "port", "allowRemote", "allow"],
  ];
  const everywhere = ["tls", "identities", "writers"];
  const names = Object.keys(given).filter((name) => !everywhere.includes(name) && given[name] !== undefined);
  if (!kinds.some((kind) => names.every((name) => kind.includes(name)))) {
    throw invalid(
      `${names.join(", ")} do not say where to listen`,
      "Give a path, an fd, or port and host, with allowRemote if need be.",
    );
  }
  for (const name of ["path", "fd"] as const)
    if (name in given && given[name] === undefined)
      throw invalid(`${name} is undefined`, `Give ${placeSettings[name].takes}.`);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "" && !value.includes("\0");
}

/** Starts to listen. Throws `EINVAL`, `EADDRINUSE`, `EPERM`, `EEXIST`, or what the operating system says. */
export async function listen(options: ListenOptions, { accept, ...others }: DoorOptions): Promise<Listener> {
  checkWhere(options);
  const allowed = options.allow && new AddressList(options.allow);
  const door = new Door({
    ...others,
    accept: (socket) => {
      if (allowed?.has(socket.remoteAddress) ?? true) accept(socket);
      else socket.destroy();
    },
  });
  const { server } = door;
  let file: SocketFile | undefined;
  if ("path" in options) file = await listenUnix(server, options);
  else if ("fd" in options)
    await listening(server, () => server.listen({ fd: options.fd }), `fd ${options.fd}`);
  else await listenTcp(server, options);
  door.opened();
  return describe(door, options, file);
}

async function listenTcp(
  server: Server,
  { host = "127.0.0.1", port = NBD_PORT, allowRemote = false, tls }: TcpOptions,
): Promise<void> {
  const where = `${host}:${port}`;
  if (!allowRemote && !isLoopback(host) && tls?.mode !== "require") {
    throw new BlockIoError(
      `${host} can be reached from other machines, and connections need not be encrypted`,
      {
        code: "EPERM",
        device: where,
        op: "listen",
        hint: "Require TLS (--tls require, tls: require in a stack file), listen on 127.0.0.1 or a unix socket, or, if the network is trusted, allow it: --allow-remote, allow-remote: true in a stack file, allowRemote in the library.",
      },
    );
  }
  await listening(server, () => server.listen({ host, port, backlog: BACKLOG }), where);
}

async function listenUnix(server: Server, { path, mode = 0o600, group }: UnixPlace): Promise<SocketFile> {
  const rights = { mode, group: group === undefined ? undefined : groupNumber(group) };
  // Binding happens inside the call, so that the file never exists with a wider mode.
  const start = (name: string): void => {
    const before = umask(0o177);
    try {
      server.listen({ path: name, backlog: BACKLOG });
    } finally {
      if (before !== undefined) umask(before);
    }
  };
  return bindUnixSocket(path, rights, {
    bind: (name) => listening(server, () => start(name), path),
    close: () => {
      server.close();
    },
  });
}

/** Sets the umask, where that is possible: not in worker threads. */
function umask(mask: number): number | undefined {
  try {
    return process.umask(mask);
  } catch {
    return undefined;
  }
}

async function listening(server: Server, start: () => void, where: string): Promise<void> {
  await new Promise<void>((settle, fail) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      fail(
        error.code === "EADDRINUSE"
          ? new BlockIoError("the address is in use", {
              code: "EADDRINUSE",
              device: where,
              op: "listen",
              cause: error,
              hint: "Stop the server that uses it or choose another one.",
            })
          : refusedToListen(error, where),
      );
    });
    server.once("listening", settle);
    try {
      start();
    } catch (error) {
      fail(refusedToListen(error, where));
    }
  });
}

/** What the system says of sockets in folders that are missing or not ours is the same, and says little. */
function refusedToListen(error: unknown, where: string): BlockIoError {
  const { code } = error as NodeJS.ErrnoException;
  const folder = /^fd \d+$|:\d+$/.test(where) ? undefined : dirname(where);
  const told = (as: ErrorCode, reason: string, hint: string): BlockIoError =>
    new BlockIoError(reason, { code: as, device: where, op: "listen", cause: error, hint });
  if (folder !== undefined && (code === "EACCES" || code === "ENOENT" || code === "ENOTDIR")) {
    if (!existsSync(folder)) {
      return told(
        "ENOENT",
        "the folder of the socket does not exist",
        `Make it first: mkdir -p ${shellQuote(folder)}`,
      );
    }
    return told("EACCES", "no socket may be made in this folder", "Choose a folder you may write to.");
  }
  if (code === "EROFS") {
    return told(
      "EROFS",
      "the folder of the socket is on a read-only file system",
      "Choose a folder you may write to.",
    );
  }
  if (/^fd \d+$/.test(where)) {
    return told(
      codeOf(error),
      "is no socket that can be listened on",
      "Have the service manager hand over listening sockets: in a .socket unit, with Accept=no.",
    );
  }
  if (code === "EACCES")
    return told("EACCES", "this address or port is not yours to use", "Choose a port above 1023.");
  return toBlockIoError(error, { device: where, op: "listen" });
}

function describe(door: Door, options: ListenOptions, file: SocketFile | undefined): Listener {
  const path = "path" in options ? options.path : undefined;
  const fd = "fd" in options ? options.fd : undefined;
  const address = door.server.address();
  const tcp: AddressInfo | undefined =
    address !== null && typeof address === "object" && address.port !== undefined ? address : undefined;
  const inherited = fd !== undefined && tcp === undefined ? pathOfInherited(fd) : undefined;
  const unix = path ?? (typeof address === "string" ? address : inherited);
  const scheme = options.tls?.mode === "require" ? "nbds" : "nbd";
  const base =
    tcp !== undefined
      ? {
          scheme: `${scheme}://${isIP(tcp.address) === 6 ? `[${tcp.address}]` : tcp.address}:${tcp.port}/`,
          query: "",
        }
      : { scheme: `${scheme}+unix:///`, query: `?socket=${encodePath(resolve(unix ?? ""))}` };
  return {
    path: unix,
    host: tcp?.address,
    port: tcp?.port,
    tls: options.tls,
    uri: (exportName = "") =>
      tcp === undefined && unix === undefined
        ? `fd:${fd}`
        : `${base.scheme}${encodeURIComponent(exportName)}${base.query}`,
    close: () => {
      file?.remove();
      return door.close();
    },
  };
}

function encodePath(path: string): string {
  return encodeURIComponent(path).replaceAll("%2F", "/");
}

/** Whether an address is of this machine alone. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
