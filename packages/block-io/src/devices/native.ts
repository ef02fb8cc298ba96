/**
 * The few system calls Node does not offer, through the optional package `koffi`: file locks, holes in files,
 * preallocation, the size of a block device, datagrams to a unix socket, second descriptors, and an end that waits for nobody. Without koffi, or on a system other than
 * Linux, there are none of them, and devices say honestly what they cannot do.
 */
import { createRequire } from "node:module";
import { endianness } from "node:os";
import { AF_UNIX, unixAddress } from "../format/unix-address.ts";
import { Limiter } from "../sync/limiter.ts";

/** Numbers from the Linux headers: asm-generic/fcntl, linux/falloc.h, sys/file.h, sys/socket.h, unistd.h. */
const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 16;
const LOCK_SHARED = 1;
const LOCK_EXCLUSIVE = 2;
const LOCK_NOWAIT = 4;
const LOCK_UNLOCK = 8;
const ENXIO = 6;
const F_DUPFD_CLOEXEC = 1030;
const SOCK_DGRAM_CLOEXEC = 0x80002;
const MSG_DONTWAIT_NOSIGNAL = 0x4040;

// Calls handed to koffi's threads at a time. It refuses more than 256 in the process, whoever makes them, and each
// takes 256 KiB; its threads are as many as there are processors.
const CALLS = 64;

/** What `fallocate` is to do with a range. None of them changes the size of a file, but `allocate` may. */
export type FallocateMode = "allocate" | "punchHole" | "zeroRange";

export interface Native {
  /** Start of the first data at or after `offset`; undefined when there is none. Throws an errno name. */
  seekData(fd: number, offset: number): number | undefined;
  /** Start of the first hole at or after `offset`; the end of a file counts as one. */
  seekHole(fd: number, offset: number): number | undefined;
  /** Bytes; for block devices, where `stat` says 0. */
  sizeOf(fd: number): number;
  fallocate(fd: number, mode: FallocateMode, offset: number, length: number): Promise<void>;
  /** False when somebody else holds a lock that conflicts. */
  tryLock(fd: number, exclusive: boolean): boolean;
  /** `_exit`: at once, and without waiting for other threads. */
  exit(code: number): void;
  unlock(fd: number): void;
  /** Sends one datagram to the unix socket at `path`; one that begins with `@` has no file (unix(7), abstract). */
  sendDatagram(path: string, bytes: Buffer): void;
  /** Another descriptor of what is open as `fd`. */
  duplicate(fd: number): number;
}

/** An error of a system call; `code` is the errno's name. */
class SystemError extends Error {
  readonly code: string;

  constructor(call: string, code: string) {
    super(`${call}: ${code}`);
    this.code = code;
  }
}

type Koffi = typeof import("koffi");

const notThere = "the optional package koffi is not installed";
let missing = notThere;

function load(): Native | undefined {
  if (process.platform !== "linux" || endianness() !== "LE") {
    missing = `dmkit can do that on Linux with little-endian processors, and this is ${process.platform} (${endianness()})`;
    return undefined;
  }
  let koffi: Koffi;
  try {
    koffi = createRequire(import.meta.url)("koffi") as Koffi;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "MODULE_NOT_FOUND")
      missing = `the package koffi cannot be loaded: ${message.split("\n")[0]}`;
    return undefined;
  }
  const names = new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name]));
  const fail = (call: string, errno: number): never => {
    throw new SystemError(call, names.get(errno) ?? `errno ${errno}`);
  };
  const libc = koffi.load(null);
  const lseek = libc.func("int64_t lseek64(int fd, int64_t offset, int whence)");
  const fallocate = libc.func("int fallocate64(int fd, int mode, int64_t offset, int64_t length)");
  const flock = libc.func("int flock(int fd, int operation)");
  const fcntl = libc.func("int fcntl(int fd, int command, int least)");
  const calls = new Limiter(CALLS);
  const exit = libc.func("void _exit(int status)");
  // Loaded with the first datagram: few ever send one.
  let datagrams: ((path: string, bytes: Buffer) => void) | undefined;
  const datagramSender = (): ((path: string, bytes: Buffer) => void) => {
    const socket = libc.func("int socket(int domain, int type, int protocol)");
    const close = libc.func("int close(int fd)");
    const sendto = libc.func(
      "int64_t sendto(int fd, const void *bytes, size_t length, int flags, const void *address, uint32_t addressLength)",
    );
    return (path, bytes) => {
      const address = unixAddress(path) ?? fail("sendto", koffi.os.errno["ENAMETOOLONG"] as number);
      const fd = Number(socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0));
      if (fd < 0) fail("socket", koffi.errno());
      const sent = Number(sendto(fd, bytes, bytes.length, MSG_DONTWAIT_NOSIGNAL, address, address.length));
      const errno = koffi.errno();
      close(fd);
      if (sent < 0) fail("sendto", errno);
    };
  };

  function seek(fd: number, offset: number, whence: number): number | undefined {
    const result = Number(lseek(fd, offset, whence));
    if (result >= 0) return result;
    if (koffi.errno() === ENXIO) return undefined;
    return fail("lseek", koffi.errno());
  }

  const modes: Readonly<Record<FallocateMode, number>> = {
    allocate: 0,
    punchHole: FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE,
    zeroRange: FALLOC_KEEP_SIZE | FALLOC_ZERO_RANGE,
  };

  return {
    seekData: (fd, offset) => seek(fd, offset, SEEK_DATA),
    seekHole: (fd, offset) => seek(fd, offset, SEEK_HOLE),
    sizeOf: (fd) => seek(fd, 0, SEEK_END) ?? 0,
    fallocate: (fd, mode, offset, length) =>
      calls.run(
        () =>
          new Promise((resolve, reject) => {
            // On a thread of the pool: punching a large range can take a while.
            fallocate.async(fd, modes[mode], offset, length, (error: Error | null, result: number) => {
              if (error !== null) return reject(error);
              if (result === 0) return resolve();
              // errno belongs to the pool's thread. The call may be repeated, so ask again on this one.
              if (fallocate(fd, modes[mode], offset, length) === 0) return resolve();
              return reject(new SystemError("fallocate", names.get(koffi.errno()) ?? "EIO"));
            });
          }),
      ),
    tryLock(fd, exclusive) {
      if (flock(fd, (exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED) | LOCK_NOWAIT) === 0) return true;
      if (names.get(koffi.errno()) === "EAGAIN" || names.get(koffi.errno()) === "EWOULDBLOCK") return false;
      return fail("flock", koffi.errno());
    },
    exit: (code) => exit(code),
    unlock(fd) {
      if (flock(fd, LOCK_UNLOCK) !== 0) fail("flock", koffi.errno());
    },
    sendDatagram(path, bytes) {
      datagrams ??= datagramSender();
      datagrams(path, bytes);
    },
    duplicate(fd) {
      const copy = Number(fcntl(fd, F_DUPFD_CLOEXEC, 0));
      return copy < 0 ? fail("fcntl", koffi.errno()) : copy;
    },
  };
}

let loaded: { readonly calls: Native | undefined } | undefined;

/** Loaded when the first file is opened: a command that opens none starts without. */
export function native(): Native | undefined {
  loaded ??= { calls: load() };
  return loaded.calls;
}

/** Why there are no native calls, and what to do where that helps; for errors. */
export function withoutNative(): { readonly reason: string; readonly help: string } {
  return { reason: missing, help: missing === notThere ? "Install it (npm install koffi); or " : "" };
}

/**
 * Sends one datagram to a unix socket, which Node cannot; false without the package `koffi`. Never waits. Throws what the
 * system says: `ECONNREFUSED`, `ENOENT`, `EAGAIN` (its queue is full) …
 * @param path a path, or `@` and a name without a file.
 */
export function sendDatagram(path: string, text: string): boolean {
  const calls = native();
  calls?.sendDatagram(path, Buffer.from(text));
  return calls !== undefined;
}

/** Another descriptor of what is open as `fd`; undefined where there can be none. */
export function duplicateDescriptor(fd: number): number | undefined {
  try {
    return native()?.duplicate(fd);
  } catch {
    return undefined;
  }
}

/** Whether something has needed them so far. */
export function isNativeLoaded(): boolean {
  return loaded !== undefined;
}
