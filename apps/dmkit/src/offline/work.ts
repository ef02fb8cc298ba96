/** Long offline work: progress, an interrupt that ends it at a safe place, and errors as exit codes. */
import { type OfflineWork, printableJson, printableLines } from "@dmkit/block-io";
import { endedBySignal } from "../ui/interrupt.ts";
import { startRatio } from "../ui/progress.ts";
import { exitCodeOf, printError } from "../ui/terminal.ts";
import { commandEnvironment } from "../ui/command-environment.ts";

/** What a command that was interrupted ends with; the checkers have their own. */
export const CANCELLED = 130;

/**
 * Runs work that an interrupt ends.
 * @param forced exit code if it has to be ended by force; default: as shells have it.
 */
export async function interruptible<T>(
  label: string,
  quiet: boolean,
  run: (work: OfflineWork) => Promise<T>,
  forced?: number,
): Promise<{ readonly value: T } | "cancelled"> {
  const shown = startRatio(label, quiet);
  const work = (signal: AbortSignal): Promise<T> =>
    run({ environment: commandEnvironment, signal, progress: (done, total) => shown.update(done, total) });
  try {
    return await endedBySignal(label, work, forced);
  } finally {
    shown.stop();
  }
}

/** Says that work was interrupted. The exit code of it. */
export function tellCancelled(label: string): number {
  process.stderr.write(`dmkit: ${label} interrupted; run it again to finish\n`);
  return CANCELLED;
}

/** Prints what `run` throws; the exit code. */
export async function failing(run: () => Promise<number>): Promise<number> {
  try {
    return await run();
  } catch (error) {
    printError(error);
    return exitCodeOf(error);
  }
}

/** Lines; what came from elsewhere and may have line ends of its own goes through `printable` before. */
export function print(text: string): void {
  process.stdout.write(printableLines(text));
}

export function printJson(value: unknown): void {
  print(`${printableJson(value, 2)}\n`);
}
