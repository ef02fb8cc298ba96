/**
 * The end of this process, whatever its threads are doing.
 *
 * `process.exit` waits for the thread pool, and so for ever for a read, write or sync of storage that does not
 * answer: neither an error nor a signal could end such a process.
 */
import { isNativeLoaded, native } from "./devices/native.ts";

/**
 * Ends the process with an exit code from 0 to 255. Nothing runs after it, not even handlers of `exit`: what is to be
 * printed must have left. Without the package `koffi` it is `process.exit`, and waits as that does.
 */
export function endProcess(code: number): never {
  // Koffi takes 15 ms to load, for nothing where no thread is at work.
  if (isNativeLoaded() || threadsAtWork()) native()?.exit(code);
  process.exit(code);
}

/** Whether threads of the pool are busy, or about to be, with files or the addresses of hosts. */
export function threadsAtWork(): boolean {
  return process.getActiveResourcesInfo().some((name) => name.includes("Req"));
}
