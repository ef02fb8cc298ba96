/** The process of a command: its outputs, what ends it, and its exit status. */
import { endProcess, realEnvironment } from "@dmkit/block-io";
import { runCommandLine } from "./command-line.ts";
import { isCommand } from "./commands/all.ts";
import { end } from "./ui/end.ts";
import { setEnding } from "./ui/interrupt.ts";
import { hasPrinted, statusOf, watchOutputs } from "./ui/output.ts";
import { failureCodes, reportStrays } from "./ui/terminal.ts";

/** When a server has answered its first clients, and before it answers many. In ms. */
const STARTED = 1000;

/**
 * Runs what the command line says, to the end of the process.
 * @param keep what a command has compiled, for the next time. It must not fail.
 */
export async function runProcess(keep: () => void): Promise<void> {
  watchOutputs();
  reportStrays();
  setEnding({ clock: realEnvironment.clock, exit: end });
  // A word that is no command may take as long on a busy machine.
  if (isCommand(process.argv[2])) setTimeout(keep, STARTED).unref();
  const code = await runCommandLine(process.argv.slice(2));
  process.exitCode = code;
  // A command may leave something behind that never ends, e.g. storage that does not answer.
  const ending = (): void => {
    // Whether all has arrived is known only now, and said by a handler that comes after this one.
    setImmediate(() => {
      const [, , command] = process.argv;
      // What is no command has loaded all of them.
      if (code !== failureCodes(command).usage) keep();
      endProcess(statusOf(command, code));
    });
  };
  // Who has printed nothing does not care who reads it.
  if (hasPrinted()) process.stdout.write("", ending);
  else ending();
}
