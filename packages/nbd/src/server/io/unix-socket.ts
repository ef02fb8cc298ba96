/**
 * A unix socket under a path that may be taken: by a live server, by what a killed one left, by another file.
 *
 *     bind  s.nbd~   only one can: it is the lock, and the kernel drops it with the process
 *     look at  s     nothing there: link s.nbd~ to s. Nobody answers: rename s.nbd~ over s
 *     look at  s     by its inode: is it ours?
 *
 * Invariants:
 *
 * - what appears under the path answers at once: it was listened on before it got its name;
 * - nothing is replaced or removed that is no socket, that somebody answers on, or, at the end, that is not ours;
 * - two servers never both believe to have the path, even if one starts in the middle of the other.
 *
 * Two that find the same stale lock could each remove what the other has bound since. So on Linux those who start take
 * turns: each holds, while it looks and binds, an abstract socket named after the folder and the name, which leaves
 * nothing behind and which the kernel drops with the process.
 *
 * Node removes the name it bound when it closes the socket, whatever stands there by then. That is `s.nbd~`,
 * never the path itself; a server that starts at that moment finds its lock gone and tries again.
 */
import { createHash } from "node:crypto";
import { lstatSync, readFileSync, readlinkSync, unlinkSync } from "node:fs";
import { chmod, chown, link, lstat, rename, unlink } from "node:fs/promises";
import { type Socket, connect, createServer } from "node:net";
import { basename, dirname } from "node:path";
import { BlockIoError, toBlockIoError } from "@dmkit/block-io";

const LOCK_SUFFIX = ".nbd~";
// Bytes of a path the operating system takes for a socket.
const LONGEST_NAME = process.platform === "linux" ? 107 : 103;
/** Bytes of the path of a socket that is listened on. */
export const LONGEST_SOCKET_PATH: number = LONGEST_NAME - LOCK_SUFFIX.length;
// Times to start again because something happened to the files between two looks.
const ATTEMPTS = 5;

/** What is listened with. */
export interface Binder {
  /** Binds and listens at once. Rejects with `EADDRINUSE` if there is a file. */
  bind(path: string): Promise<void>;
  /** Undoes it, at once. */
  close(): void;
}

/** The file of a socket that is listened on. */
export interface SocketFile {
  /** Removes it if it is still the same, at once. To be called before the socket is closed. */
  remove(): void;
}

type FileId = { readonly dev: bigint; readonly ino: bigint };

/** Who may connect. */
export interface SocketRights {
  /** Mode of the file. */
  readonly mode: number;
  /** Number of its group; undefined: as it is. */
  readonly group: number | undefined;
}

/** Listens on `path`. Throws `EADDRINUSE`, `EEXIST`, `EINVAL`, or what the system says. */
export async function bindUnixSocket(
  path: string,
  rights: SocketRights,
  binder: Binder,
): Promise<SocketFile> {
  const lock = `${path}${LOCK_SUFFIX}`;
  if (Buffer.byteLength(lock) > LONGEST_NAME) {
    throw new BlockIoError(`the path is longer than ${LONGEST_SOCKET_PATH} bytes`, {
      code: "EINVAL",
      device: path,
      op: "listen",
      hint: "Choose a shorter path for the socket, or a relative one.",
    });
  }
  const letGo = await takeTurn(path);
  try {
    return await bindNow(path, lock, rights, binder);
  } finally {
    letGo();
  }
}

async function bindNow(
  path: string,
  lock: string,
  rights: SocketRights,
  binder: Binder,
): Promise<SocketFile> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    if (!(await acquire(lock, path, binder))) continue;
    try {
      const ours = await fileId(lock);
      if (ours !== undefined) {
        // The group first: what its members may do is nobody else's.
        if (rights.group !== undefined) await chown(lock, -1, rights.group);
        await chmod(lock, rights.mode);
        await publish(lock, path);
        if (same(ours, await fileId(path))) return { remove: () => remove(path, ours) };
      }
    } catch (error) {
      binder.close();
      // A name was gone or there already: somebody else was at work.
      if (isSystemError(error, "ENOENT") || isSystemError(error, "EEXIST")) continue;
      throw toBlockIoError(error, { device: path, op: "listen" });
    }
    binder.close();
  }
  throw inUse(path);
}

/** Waits until nobody else binds this path; ends the turn when called. Does nothing where there is no such socket. */
async function takeTurn(path: string): Promise<() => void> {
  const folder = process.platform === "linux" ? await fileId(dirname(path)) : undefined;
  if (folder === undefined) return () => {};
  const name = `\0dmkit-listen-${folder.dev}-${folder.ino}-${sha1(basename(path))}`;
  for (;;) {
    const waiting = new Set<Socket>();
    const server = createServer((socket) => {
      waiting.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => waiting.delete(socket));
    });
    const code = await new Promise<string | undefined>((settle) => {
      server.once("error", (error: NodeJS.ErrnoException) => settle(error.code ?? "EIO"));
      server.listen(name, () => settle(undefined));
    });
    if (code === undefined) {
      return () => {
        server.close();
        for (const socket of waiting) socket.destroy();
      };
    }
    // A system that has none: as on other platforms.
    if (code !== "EADDRINUSE") return () => {};
    await untilClosed(name);
  }
}

/** A connection to whoever has the turn lasts as long as it. */
function untilClosed(name: string): Promise<void> {
  return new Promise((settle) => {
    const socket = connect(name);
    socket.on("error", () => {});
    socket.on("close", () => settle());
    socket.resume();
  });
}

function sha1(text: string): string {
  return createHash("sha1").update(text).digest("hex");
}

/** Binds the lock; false if that has to be tried again. */
async function acquire(lock: string, path: string, binder: Binder): Promise<boolean> {
  try {
    await binder.bind(lock);
    return true;
  } catch (error) {
    if (!(error instanceof BlockIoError) || error.code !== "EADDRINUSE") throw error;
  }
  // Of a server that was killed while it started, or of one that is starting.
  if (await isStale(lock, path)) await unlink(lock).catch(() => {});
  return false;
}

/** Gives the socket its name. */
async function publish(lock: string, path: string): Promise<void> {
  if (await isStale(path, path)) {
    await rename(lock, path);
    return;
  }
  // Unlike a rename it does not replace what somebody else has put there by now.
  try {
    await link(lock, path);
  } catch (error) {
    if (isSystemError(error, "ENOENT") || isSystemError(error, "EEXIST")) throw error;
    // A file system without links.
    await rename(lock, path);
  }
  await unlink(lock).catch(() => {});
}

/** Whether `file` is a socket nobody listens on; false if there is nothing. Throws `EEXIST`, `EADDRINUSE`. */
async function isStale(file: string, path: string): Promise<boolean> {
  const stat = await lstat(file).catch(() => undefined);
  if (stat === undefined) return false;
  if (!stat.isSocket()) {
    throw new BlockIoError("there is a file of this name, and it is no socket", {
      code: "EEXIST",
      device: file,
      op: "listen",
      hint: "Choose another path for the socket.",
    });
  }
  if (await answers(file)) throw inUse(path);
  return true;
}

/** Whether anybody listens: only a refused connection says for certain that nobody does. */
function answers(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const socket = connect({ path });
    socket.on("connect", () => {
      socket.destroy();
      settle(true);
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      settle(error.code !== "ECONNREFUSED" && error.code !== "ENOENT");
    });
  });
}

/** Synchronous, so that the file is gone even if the process ends right away. */
function remove(path: string, ours: FileId): void {
  try {
    // Nobody takes it over in between, because we still answer.
    if (same(ours, lstatSync(path, { bigint: true }))) unlinkSync(path);
  } catch {
    // Gone already, or in a directory that is.
  }
}

async function fileId(path: string): Promise<FileId | undefined> {
  return lstat(path, { bigint: true }).catch(() => undefined);
}

function same(one: FileId, other: FileId | undefined): boolean {
  return other !== undefined && one.dev === other.dev && one.ino === other.ino;
}

function inUse(path: string): BlockIoError {
  return new BlockIoError("another server listens on this socket", {
    code: "EADDRINUSE",
    device: path,
    op: "listen",
    hint: "Stop the other server or choose another path.",
  });
}

function isSystemError(error: unknown, code: string): boolean {
  return !(error instanceof BlockIoError) && (error as NodeJS.ErrnoException).code === code;
}

/**
 * The path of a unix socket that was inherited, as the kernel lists it; undefined for other sockets, and where it
 * cannot be told.
 */
export function pathOfInherited(fd: number): string | undefined {
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
    if (inode === undefined) return undefined;
    // Num RefCount Protocol Flags Type St Inode Path
    const line = readFileSync("/proc/net/unix", "utf8")
      .split("\n")
      .find((one) => one.split(/\s+/)[6] === inode);
    const path = line === undefined ? undefined : /^(?:\S+\s+){7}(.*)$/.exec(line)?.[1];
    // A relative one starts somebody else's folder, one with @ is no file.
    return path?.startsWith("/") ? path : undefined;
  } catch {
    return undefined;
  }
}
