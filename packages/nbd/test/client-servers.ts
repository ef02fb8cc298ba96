/** NBD servers to test the client against: started in a folder of their own, ended by process id. */
import { type ChildProcess, spawn } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { describe } from "vitest";
import type { BlockDevice } from "@dmkit/block-io";
import { NbdServer } from "../src/index.ts";

const folders: string[] = [];
const running = new Set<RunningServer>();

/** For each test file: ends what it has left running. */
export async function endServers(): Promise<void> {
  await Promise.all([...running].map((server) => server.kill()));
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** A server that listens on a Unix socket. */
export interface RunningServer {
  readonly socket: string;
  uri(exportName?: string): string;
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>;
  /** Asks it to end, and waits. */
  stop(): Promise<void>;
}

/** Like `describe`, skipped where a program is missing. With CI=true it must not be missing. */
export function describeWith(program: string, name: string, body: () => void): void {
  const present = isInstalled(program);
  if (!present && process.env["CI"] === "true") throw new Error(`${program} is not installed`);
  describe.skipIf(!present)(present ? name : `${name} (skipped: ${program} is not installed)`, body);
}

export function isInstalled(program: string): boolean {
  return (process.env["PATH"] ?? "").split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** A fresh folder that goes away after the test file. */
export function testFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-nbd-"));
  folders.push(folder);
  return folder;
}

/** A sparse file of `size` bytes. */
export function imageFile(size: number): string {
  const path = join(testFolder(), "image");
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

/** @param args filters, plugin and parameters. */
export function startNbdkit(args: readonly string[], socket: string = freshSocket()): Promise<RunningServer> {
  return start("nbdkit", ["-f", "-U", socket, ...args], socket);
}

/** @param args options before the image. */
export function startQemuNbd(
  image: string,
  args: readonly string[] = [],
  socket: string = freshSocket(),
): Promise<RunningServer> {
  return start("qemu-nbd", ["-k", socket, "-f", "raw", "-t", "-e", "8", ...args, image], socket);
}

/** It answers each client from a process of its own, so it is not one to be killed. */
export async function startNbdServer(image: string, socket: string = freshSocket()): Promise<RunningServer> {
  const folder = testFolder();
  const config = join(folder, "config");
  const pidFile = join(folder, "pid");
  const lines = ["[generic]", `unixsock = ${socket}`, "allowlist = true"];
  lines.push("[disk]", `exportname = ${image}`, "flush = true", "fua = true", "trim = true");
  writeFileSync(config, lines.join("\n"));
  const daemon = spawn("nbd-server", ["-C", config, "-p", pidFile], { stdio: "ignore" });
  await new Promise((resolve) => daemon.once("exit", resolve));
  await listening(socket, () => undefined);
  await until(() => existsSync(pidFile) && readFileSync(pidFile, "utf8").trim() !== "");
  const pid = Number(readFileSync(pidFile, "utf8"));
  const stop = async (): Promise<void> => {
    running.delete(server);
    if (isAlive(pid)) process.kill(pid, "SIGTERM");
    await until(() => !isAlive(pid));
  };
  const server: RunningServer = { socket, uri: (name = "disk") => uriOf(socket, name), kill: stop, stop };
  running.add(server);
  return server;
}

/** Our own server, in this process. */
export async function startOurs(device: BlockDevice, socket: string = freshSocket()): Promise<RunningServer> {
  const own = new NbdServer();
  own.addExport({ name: "", device });
  const listener = await own.listen({ path: socket });
  const end = async (timeout: number): Promise<void> => {
    running.delete(server);
    await own.close({ timeout });
    await listener.close();
  };
  const server: RunningServer = {
    socket,
    uri: (name = "") => uriOf(socket, name),
    kill: () => end(0),
    stop: () => end(5000),
  };
  running.add(server);
  return server;
}

export function freshSocket(): string {
  return join(testFolder(), "socket");
}

export function uriOf(socket: string, exportName = ""): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socket)}`;
}

async function start(program: string, args: readonly string[], socket: string): Promise<RunningServer> {
  rmSync(socket, { force: true });
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  const exited = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const server: RunningServer = {
    socket,
    uri: (name = "") => uriOf(socket, name),
    kill: () => end("SIGKILL"),
    stop: () => end("SIGTERM"),
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    running.delete(server);
    child.kill(signal);
    await exited;
  };
  running.add(server);
  await listening(socket, () => (hasExited(child) ? `${program} ended: ${said}` : undefined));
  return server;
}

function hasExited(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Waits until somebody listens on the socket, or throws what `failure` says. */
async function listening(socket: string, failure: () => string | undefined): Promise<void> {
  await until(async () => {
    const problem = failure();
    if (problem !== undefined) throw new Error(problem);
    return existsSync(socket) && (await accepts(socket));
  });
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Waits for a condition; the test's own time limit is the bound. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 10));
}
