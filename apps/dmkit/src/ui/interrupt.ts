/**
 * Ctrl-C and its like, for every command but `serve`.
 *
 * The first signal asks the work to end at a safe place. What does not come to its end in the time allowed, because
 * storage does not answer, is ended all the same, and so is whatever is being closed afterwards. The second signal
 * does not wait. Ended that way, work is where a crash would have left it.
 */
import { constants } from "node:os";
import { BlockIoError, type Clock, type Timer } from "@dmkit/block-io";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Milliseconds from the first signal to the end. */
const ALLOWED = 10_000;
/** Milliseconds after which somebody who waits is told for what. */
const SOON = 1000;

/** How the process is ended. */
export interface Ending {
  readonly clock: Clock;
  exit(code: number): void;
}

let ending: Ending | undefined;

/** Lets interrupted work end the process. Without this, in tests that run commands themselves, it is waited for. */
export function setEnding(how: Ending | undefined): void {
  ending = how;
}

/** Exit code of a command that a signal ended at once, as shells have it. */
function codeOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

/**
 * Runs work that a signal ends. "cancelled" if it did.
 * @param label for messages. @param forced exit code if the work does not end by itself; default: as shells have it.
 */
export async function endedBySignal<T>(
  label: string,
  run: (signal: AbortSignal) => Promise<T>,
  forced?: number,
): Promise<{ readonly value: T } | "cancelled"> {
  const abort = new AbortController();
  const timers: Timer[] = [];
  const interrupt = (signal: NodeJS.Signals): void => {
    const code = forced ?? codeOf(signal);
    if (abort.signal.aborted) {
      ending?.exit(code);
      return;
    }
    abort.abort(new BlockIoError("interrupted", { code: "ESHUTDOWN" }));
    if (ending === undefined) return;
    const { clock } = ending;
    const tell = (text: string): void => void process.stderr.write(`dmkit: ${label}: ${text}\n`);
    timers.push(
      clock.after(SOON, () =>
        tell("waiting for requests that are not answered yet; once more to end at once"),
      ),
      clock.after(ALLOWED, () => {
        tell(`ended; the storage has not answered for ${ALLOWED / 1000} s`);
        ending?.exit(code);
      }),
    );
  };
  const listeners = signals.map((signal) => [signal, () => interrupt(signal)] as const);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  try {
    const value = await run(abort.signal);
    for (const timer of timers) timer.cancel();
    return { value };
  } catch (error) {
    // The timers go on when the work was cancelled: what it has opened is still to be closed.
    if (abort.signal.aborted) return "cancelled";
    throw error;
  } finally {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  }
}
