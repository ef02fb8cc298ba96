/** The other end of a {@link ThreadTeam}: runs one backend's synchronous calls on a thread of its own. */
import assert from "node:assert";
import { parentPort, workerData } from "node:worker_threads";
import type { Backend } from "../backend.ts";
import { CompressorError, failed } from "../errors.ts";
import { type Answer, type Job, READY, type ThreadSetup } from "./protocol.ts";

const { entry, settings, input, output } = workerData as ThreadSetup;
const inputBytes = Buffer.from(input);
const outputBytes = Buffer.from(output);

async function start(): Promise<void> {
  const exported = (await import(entry.module)) as Readonly<Record<string, Backend | undefined>>;
  const backend = exported[entry.exportName];
  assert(backend !== undefined, `${entry.module} exports no ${entry.exportName}`);
  await backend.load?.();
  const context = backend.createContext(settings);
  assert(parentPort !== null, "this module runs on a worker thread");
  const port = parentPort;
  port.on("message", (job: Job) => port.postMessage(run(backend, context, job)));
  port.postMessage(READY);
}

function run(backend: Backend, context: unknown, { kind, length, limit }: Job): Answer {
  const src = inputBytes.subarray(0, length);
  const dst = outputBytes.subarray(0, limit);
  try {
    return kind === "compress" ? backend.compress(src, dst, context) : backend.decompress(src, dst);
  } catch (error) {
    if (error instanceof CompressorError) return { code: error.code, reason: error.message };
    const { code } = failed(entry.exportName, error);
    return { code, reason: error instanceof Error ? error.message : String(error) };
  }
}

// One that does not start ends the thread: by an error, to whoever waits for it.
void start();
