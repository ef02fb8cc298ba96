/** Running dmkit and other programs in tests, as a user would: by command line, in folders of their own. */
import { type ChildProcess, type SpawnOptions, execFileSync, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, onTestFinished } from "vitest";
import { ControlClient } from "../src/control/client.ts";

export const main: string = fileURLToPath(new URL("../bin/main.js", import.meta.url));

/** Runs after the test, last registered first. (A hook of this module would be one of the first file that imports it.) */
export function cleanUp(work: () => Promise<void> | void): void {
  onTestFinished(async () => work());
}

/** A fresh folder that goes away after the test. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  cleanUp(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function installed(program: string): boolean {
  try {
    execFileSync("/bin/sh", ["-c", `command -v "$1"`, "sh", program], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** `describe` for tests that need programs: skipped with the reason where they are missing, but not in CI. */
export function describeWith(programs: readonly string[], name: string, body: () => void): void {
  const missing = programs.filter((program) => !installed(program));
  if (missing.length === 0 || process.env["CI"]) describe(name, body);
  else describe.skip(`${name} (not installed: ${missing.join(", ")})`, body);
}

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What was said on standard error but for progress: that is printed where something takes long, on a busy machine. */
export function complaints(stderr: string): string {
  return stderr.replaceAll(/^.*: \d+ %.*\n/gm, "");
}

/** Runs a program to its end. */
export function run(program: string, args: readonly string[], options: SpawnOptions = {}): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs a program and demands that it succeeds; its standard output. */
export async function succeed(
  program: string,
  args: readonly string[],
  options: SpawnOptions = {},
): Promise<string> {
  const { code, stdout, stderr } = await run(program, args, options);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${code}: ${stderr || stdout}`);
  return stdout;
}

/** Runs `dmkit` to its end. */
export function dmkit(args: readonly string[], options: SpawnOptions = {}): Promise<Result> {
  return run(process.execPath, [main, ...args], options);
}

/** A dmkit server in a process of its own. */
export interface Server {
  readonly uri: string;
  readonly process: ChildProcess;
  readonly stderr: () => string;
  /** Resolves with the exit code, null if it was killed. */
  readonly ended: Promise<number | null>;
  /** Sends a signal and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/**
 * Starts `dmkit serve … --print-uri` and waits for the URI. Without a listener option: on a private socket.
 * @param program the command that `dmkit` is, and what comes before it.
 */
export async function serve(
  args: readonly string[],
  options: SpawnOptions = {},
  [program = "", ...before]: readonly string[] = [process.execPath, main],
): Promise<Server> {
  const listens = args.some((arg) => ["-U", "-p", "--unix", "--port"].includes(arg));
  const where = listens ? [] : ["-U", join(tempFolder(), "nbd.sock")];
  const child = spawn(program, [...before, "serve", "-q", "--print-uri", ...where, ...args], {
    ...options,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stderr = "";
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const uri = await new Promise<string>((resolve, reject) => {
    let stdout = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      stdout += chunk.toString();
      if (stdout.includes("\n")) resolve(stdout.slice(0, stdout.indexOf("\n")));
    });
    void ended.then((code) => reject(new Error(`dmkit serve ended with ${code}: ${stderr}`)));
  });
  const stop = (signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> => {
    child.kill(signal);
    return ended;
  };
  cleanUp(async () => {
    if (child.exitCode === null && child.signalCode === null) await stop("SIGKILL");
  });
  return { uri, process: child, stderr: () => stderr, ended, stop };
}

/** Waits until `condition` holds, looking every 20 ms; gives up before the test's time is over, and says on what. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let tries = 0; tries < 7500; tries += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`waited in vain for ${what}`);
}

/** Waits until a server has taken a request that it has not answered: from then on it is in flight. */
export async function untilInFlight(control: string): Promise<void> {
  const client = await ControlClient.connect(control);
  try {
    const inFlight = async (): Promise<boolean> =>
      (await client.call<{ bytesInFlight: number }>("statistics", {})).bytesInFlight > 0;
    await until(inFlight, "a request in flight");
  } finally {
    client.close();
  }
}

/** A TCP port nobody has, and the system gives to nobody who asks for any one: those are above 32768. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(16_384, 32_768);
    const listener = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      listener.once("error", () => resolve(false));
      listener.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => listener.close(resolve));
    return port;
  }
}

/** Makes a disk of 25 MiB: partition 1 begins at 1 MiB and 2 at 9 MiB, each of 8 MiB; 3 begins at 5 MiB, in both. */
export function makePartitioned(path: string): void {
  const table = Buffer.alloc(512);
  for (const [index, first] of [2048, 18_432, 10_240].entries()) {
    table.writeUInt8(0x83, 446 + 16 * index + 4);
    table.writeUInt32LE(first, 446 + 16 * index + 8);
    table.writeUInt32LE(16_384, 446 + 16 * index + 12);
  }
  table.writeUInt16LE(0xaa55, 510);
  writeFileSync(path, table);
  truncateSync(path, 25 * 2 ** 20);
}
