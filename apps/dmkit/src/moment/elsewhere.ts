/**
 * Whether a destination is, at its other end, what is read from: an NBD server on this machine that has the running device
 * itself, something that it stands on or that stands on it, or its files open for writing. Which process listens, and what it has
 * open, is asked of the system; where that cannot be told (another user's, another machine) nothing is refused.
 */
import { readFileSync, readdirSync, readlinkSync, realpathSync } from "node:fs";
import { lookup } from "node:dns/promises";
import { networkInterfaces } from "node:os";
import { basename, resolve } from "node:path";
import { SECTOR, type Use, identityOf, parseTable, refuse, schemeOf } from "@dmkit/block-io";
import { type NbdAddress, isNbdUri, parseNbdUri } from "@dmkit/nbd";
import type { ServerSnapshot } from "../manager/snapshot.ts";
import { targets } from "../targets.ts";

/** What a server tells of itself. */
type Server = Pick<ServerSnapshot, "pid" | "devices" | "exports">;

/** Throws `EINVAL` where what is written to a destination would change the device `name` of a running server. */
export async function requireElsewhere(to: string, name: string, server: Server): Promise<void> {
  // A snapshot does not change with its device.
  if (!isNbdUri(to) || !server.devices.some((one) => one.name === name)) return;
  const { address, exportName } = parseNbdUri(to);
  const listening = await listenersAt(address);
  const below = reached(name, server, () => true);
  if (listening.has(server.pid)) {
    const { device } = server.exports.find((one) => one.name === exportName) ?? {};
    if (device === undefined) return;
    const changed = reached(device, server, (use) => use !== "reads" && use !== "looks");
    if (![...changed].some((one) => below.has(one))) return;
    const what =
      device === name ? "is an export of it" : `is an export of dm:${device}, which shares its bytes`;
    throw itself(to, name, what);
  }
  for (const pid of listening)
    for (const file of filesWrittenBy(pid))
      if (below.has(identityOf(file)))
        throw itself(
          to,
          name,
          `is served by process ${pid}, which writes to ${readlinkSync(file)}, as it does`,
        );
}

function itself(to: string, name: string, what: string): Error {
  const reason = `${what}: dm:${name} would be written over while it is read`;
  return refuse(to, "EINVAL", reason, "Give another destination. Nothing was written.");
}

/** A device, and what it comes to by such uses: names of devices, and identities of what is no device. */
function reached(name: string, { devices }: Server, follows: (use: Use) => boolean): ReadonlySet<string> {
  const found = new Set<string>();
  const visit = (reference: string): void => {
    const key = schemeOf(reference) === "dm" ? reference : identityOf(reference);
    if (found.has(key)) return;
    found.add(key);
    const device = devices.find((one) => `dm:${one.name}` === key);
    if (device === undefined) return;
    for (const { target, options, length } of parseTable(device.table, targets))
      for (const [below, use] of target.uses?.(options, length * SECTOR) ?? [])
        if (follows(use)) visit(below);
  };
  visit(`dm:${name}`);
  return found;
}

/** The processes of this machine that listen where an NBD server is. */
async function listenersAt(address: NbdAddress): Promise<ReadonlySet<number>> {
  try {
    const sockets = address.kind === "unix" ? unixSockets(address.path) : await tcpSockets(address);
    return sockets.size === 0 ? new Set() : ownersOf(sockets);
  } catch {
    // Another system, or nobody is there.
    return new Set();
  }
}

/** Inodes of the sockets that listen at a path. A relative path is of a folder that the list does not have. */
function unixSockets(path: string): Set<string> {
  const real = realpathSync(path);
  const found = new Set<string>();
  for (const line of readFileSync("/proc/net/unix", "utf8").split("\n")) {
    // Num RefCount Protocol Flags Type St Inode Path; __SO_ACCEPTCON
    const [, flags, inode, at] = /^\S+\s+\S+\s+\S+\s+(\S+)\s+\S+\s+\S+\s+(\d+) (.+)$/.exec(line) ?? [];
    if (flags !== "00010000" || inode === undefined || at === undefined) continue;
    // Our servers listen before the socket has its name.
    const name = at.replace(/\.nbd~$/, "");
    if (name.startsWith("/") ? isAt(name, real) : basename(name) === basename(real)) found.add(inode);
  }
  return found;
}

function isAt(path: string, real: string): boolean {
  try {
    return realpathSync(path) === real;
  } catch {
    return resolve(path) === real;
  }
}

/** Inodes of the sockets of this machine that listen on a port, if the host is this machine. */
async function tcpSockets({ host, port }: Extract<NbdAddress, { kind: "tcp" }>): Promise<Set<string>> {
  const own = new Set(
    Object.values(networkInterfaces()).flatMap((all) => all?.map(({ address }) => address)),
  );
  const addresses = await lookup(host, { all: true });
  const found = new Set<string>();
  if (!addresses.some(({ address }) => address.startsWith("127.") || own.has(address))) return found;
  for (const list of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of readFileSync(list, "utf8").split("\n")) {
      // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode; TCP_LISTEN
      const words = line.trim().split(/\s+/);
      const at = Number.parseInt(words[1]?.split(":")[1] ?? "", 16);
      if (words[3] === "0A" && at === port && words[9] !== undefined) found.add(words[9]);
    }
  }
  return found;
}

/** The processes that have one of these sockets, as far as this one may look. */
function ownersOf(inodes: ReadonlySet<string>): Set<number> {
  const found = new Set<number>();
  for (const pid of readdirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    if (linksOf(Number(pid)).some(([, to]) => inodes.has(/^socket:\[(\d+)\]$/.exec(to)?.[1] ?? "")))
      found.add(Number(pid));
  }
  return found;
}

/** What a process has open for writing, but for its standard streams: paths of its descriptors. */
function filesWrittenBy(pid: number): string[] {
  return linksOf(pid)
    .filter(([fd, to]) => fd > 2 && to.startsWith("/") && isForWriting(pid, fd))
    .map(([fd]) => `/proc/${pid}/fd/${fd}`);
}

function isForWriting(pid: number, fd: number): boolean {
  try {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    return (Number.parseInt(flags, 8) & 3) !== 0;
  } catch {
    return false;
  }
}

/** Descriptors of a process and what they are; none where this process may not look. */
function linksOf(pid: number): [fd: number, to: string][] {
  try {
    return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return [[Number(fd), readlinkSync(`/proc/${pid}/fd/${fd}`)] as [number, string]];
      } catch {
        return [];
      }
    });
  } catch {
    return [];
  }
}
