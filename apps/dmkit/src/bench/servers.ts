/**
 * The servers a benchmark compares: ours and its peers, started on unix sockets in a folder of their own and
 * ended by their process id.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { BlockIoError } from "@dmkit/block-io";
import { ownedServer } from "./leftovers.ts";
import type { Work } from "./work.ts";

/** How to start one server. */
export interface ServerSpec {
  /** As in the table: `dmkit`, `nbdkit memory`, … */
  readonly name: string;
  readonly ours: boolean;
  /** The program that must be installed. */
  readonly program: string;
  /** Arguments that make it serve in the foreground on the socket. */
  readonly args: (socket: string, folder: string, bucket: Bucket | undefined) => readonly string[];
  /** Run before the start, e.g. to make an image. */
  readonly prepare?: (folder: string, bucket: Bucket | undefined) => void;
  /** Whether it can be started, besides its program being there. */
  readonly able?: () => boolean;
  /** The load has run on a server before it, so that it finds what that has cached. */
  readonly rehearsed?: boolean;
  /** It speaks TLS only; clients find who signed for it in the folder. */
  readonly tls?: boolean;
}

/** Servers that export the same kind of device. */
export interface DeviceGroup {
  readonly name: string;
  readonly servers: readonly ServerSpec[];
  /**
   * Each measurement gets a server of its own that has just been prepared and started: for overlays, where the
   * first write to a place is what costs, and for caches, which go on writing back while others are measured.
   */
  readonly fresh?: boolean;
  /** Which work of a fresh server finds a device that was written once; without: none. */
  readonly filled?: "always" | "for reads";
  /** Arguments of fio for all work, e.g. what data looks like. */
  readonly data?: readonly string[];
  /** Bytes of the device that are used, where the common span would not show what matters. */
  readonly span?: number;
  /** Servers of ours to compare with each other. */
  readonly pairs?: readonly Pair[];
  /** Its own loads, in place of the common ones. */
  readonly works?: readonly Work[];
  /** The object store that its servers find by their environment. */
  readonly bucket?: BucketSpec;
}

/** An object store for the time of a group. */
export interface BucketSpec {
  /** Milliseconds before a GET is carried out. */
  readonly getLatency: number;
  /** Milliseconds before a PUT is carried out. */
  readonly putLatency: number;
  /** Puts there what the servers read. */
  readonly fill?: (bucket: Bucket, folder: string) => Promise<void>;
}

/** An object store that runs in this process. */
export interface Bucket {
  readonly endpoint: string;
  /** What a shell would have set for it. */
  readonly env: NodeJS.ProcessEnv;
  readonly objects: Map<string, { body: Buffer; modified: Date }>;
  /** What was asked of it since its start. */
  readonly used: () => BucketUse;
  readonly close: () => Promise<void>;
}

/** Counts of requests, and bytes of bodies both ways. */
export interface BucketUse {
  readonly gets: number;
  readonly puts: number;
  readonly bytes: number;
}

/** How much one server does of what another does under the same load. */
export interface Pair {
  readonly of: string;
  readonly to: string;
  /** Loads whose name begins like this. */
  readonly work: string;
  /** The ratio to reach. */
  readonly goal?: number;
}

/** A server that answers. */
export interface RunningServer {
  readonly name: string;
  readonly ours: boolean;
  readonly uri: string;
  /** Milliseconds from the start of the process until its socket answered. */
  readonly startup: number;
  /** Resident memory in bytes at present; undefined where the system does not tell. */
  memory(): number | undefined;
  stop(): Promise<void>;
}

/** What follows the socket. */
type Args = (folder: string, bucket: Bucket | undefined) => readonly string[];

/** The command that is running. */
export const main: string = process.argv[1] as string;

/** `dmkit serve …` as a server of a group. */
export function dmkit(name: string, args: Args, prepare?: ServerSpec["prepare"]): ServerSpec {
  return {
    name,
    ours: true,
    program: process.execPath,
    args: (socket, ...where) => [main, "serve", "-q", "-U", socket, ...args(...where)],
    ...(prepare === undefined ? {} : { prepare }),
  };
}

/** `nbdkit` with a plugin and perhaps filters. */
export function nbdkit(name: string, args: Args, prepare?: ServerSpec["prepare"]): ServerSpec {
  return {
    name,
    ours: false,
    program: "nbdkit",
    args: (socket, ...where) => ["-f", "-U", socket, ...args(...where)],
    ...(prepare === undefined ? {} : { prepare }),
  };
}

/** `qemu-nbd` for any number of clients. */
export function qemuNbd(name: string, args: Args, prepare?: ServerSpec["prepare"]): ServerSpec {
  return {
    name,
    ours: false,
    program: "qemu-nbd",
    // --discard and writeback caching are what the other servers do; 16 clients allow a second connection.
    args: (socket, ...where) => [
      "-t",
      "-e",
      "16",
      "-k",
      socket,
      "--cache=writeback",
      "--discard=unmap",
      ...args(...where),
    ],
    ...(prepare === undefined ? {} : { prepare }),
  };
}

/** Whether a program can be run. */
export function isInstalled(program: string): boolean {
  try {
    execFileSync("/bin/sh", ["-c", `command -v "$1"`, "sh", program], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** Starts a server and waits until its socket answers; throws with what it printed if it does not. */
export async function startServer(
  spec: ServerSpec,
  folder: string,
  index: number,
  bucket?: Bucket,
): Promise<RunningServer> {
  spec.prepare?.(folder, bucket);
  const socket = join(folder, `${index}.sock`);
  // Some servers leave it behind.
  rmSync(socket, { force: true });
  const started = performance.now();
  const child = ownedServer(
    spawn(spec.program, spec.args(socket, folder, bucket), {
      stdio: ["ignore", "pipe", "pipe"],
      env: bucket?.env ?? process.env,
    }),
  );
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      printed = (printed + chunk.toString()).slice(-4000);
    });
  }
  const ended = new Promise<void>((resolve) => {
    child.on("exit", () => resolve());
    child.on("error", (error) => {
      printed += error.message;
      resolve();
    });
  });
  let gone = false;
  void ended.then(() => (gone = true));
  while (!(await answers(socket))) {
    if (gone || performance.now() - started > 20_000) {
      child.kill();
      throw new BlockIoError(`${spec.name} did not start: ${printed.trim()}`, { code: "EIO" });
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return {
    name: spec.name,
    ours: spec.ours,
    uri: `${spec.tls === true ? "nbds" : "nbd"}+unix:///?socket=${socket}`,
    startup: performance.now() - started,
    memory: () => residentMemory(child),
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    // Every NBD server speaks first.
    socket.once("data", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  });
}

function residentMemory(child: ChildProcess): number | undefined {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
  } catch {
    return undefined;
  }
}
