/**
 * What a benchmark has made, and takes away also when it is interrupted: processes, which are ended by their id, and
 * folders.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockIoError, asking } from "@dmkit/block-io";
import { beforeEnd } from "../ui/end.ts";

const clients = new Set<ChildProcess>();
let ending = false;

/** A server: ends with the benchmark, if it has not ended before. */
export function ownedServer<Child extends ChildProcess>(child: Child): Child {
  // In order, so that it takes away what it has made.
  const over = beforeEnd(() => child.kill("SIGTERM"));
  child.once("exit", over);
  child.once("error", over);
  return child;
}

/** What loads a server; see {@link endClients}. */
export function ownedClient<Child extends ChildProcess>(child: Child): Child {
  clients.add(child);
  const gone = (): void => void clients.delete(child);
  child.once("exit", gone);
  child.once("error", gone);
  if (ending) child.kill("SIGKILL");
  return ownedServer(child);
}

/** Runs a client to its end; resolves with what it printed. Errors: EIO with its words, if it failed. */
export function runClient(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = ownedClient(spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env }));
    let output = "";
    let errors = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(output);
      else {
        const words = errors.trim().slice(0, 500);
        reject(new BlockIoError(`${program} ended with ${code}: ${words}`, { code: "EIO" }));
      }
    });
  });
}

/** Ends what loads the servers, now and later; who waits for it fails, stops its servers and removes its folder. */
export function endClients(): void {
  ending = true;
  for (const child of clients) child.kill("SIGKILL");
}

/** Runs `work` with a new folder. */
export async function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const hint = "Set TMPDIR to a folder that can be written to.";
  const folder = asking({ device: tmpdir(), hint }, () => mkdtempSync(join(tmpdir(), "dmkit-bench-")));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const over = beforeEnd(remove);
  try {
    return await work(folder);
  } finally {
    over();
    remove();
  }
}
