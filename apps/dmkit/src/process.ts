/** The process of a command: its outputs, what ends it, and its exit status. */
import { endProcess, realEnvironment } from "@dmkit/block-io";
import { runCommandLine } from "./command-line.ts";
import { end } from "./ui/end.ts";
import { setEnding } from "./ui/interrupt.ts";
import { statusOf, watchOutputs } from "./ui/output.ts";
import { reportStrays } from "./ui/terminal.ts";

watchOutputs();
reportStrays();
setEnding({ clock: realEnvironment.clock, exit: end });
const code = await runCommandLine(process.argv.slice(2));
process.exitCode = code;
// A command may leave something behind that never ends, e.g. storage that does not answer.
process.stdout.write("", () => {
  // Whether all has arrived is known only now, and said by a handler that comes after this one.
  setImmediate(() => endProcess(statusOf(process.argv[2], code)));
});
