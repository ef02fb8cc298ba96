#!/usr/bin/env node
/** The command line: subcommands, errors to texts, exit codes. */
import { readFileSync } from "node:fs";
import { endProcess, printable, realEnvironment } from "@dmkit/block-io";
import { Command, CommanderError } from "commander";
import { addCommands } from "./commands/all.ts";
import { StackFileError, describeProblem } from "./stack-file/problem.ts";
import { end } from "./ui/end.ts";
import { setEnding } from "./ui/interrupt.ts";
import { statusOf, watchOutputs } from "./ui/output.ts";
import { exitCodes, printError, reportStrays, usageCode } from "./ui/terminal.ts";

const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};

async function main(): Promise<number> {
  let code: number = exitCodes.ok;
  const finish = (result: number): void => {
    code = result;
  };
  const program = new Command("dmkit")
    .description("device-mapper in user space: serve, stack and copy block devices")
    .version(manifest.version)
    .showHelpAfterError("(see --help)")
    .configureHelp({ showGlobalOptions: true })
    .exitOverride();
  await addCommands(program, process.argv[2], finish);
  // Subcommands do not inherit this, and without it they would end the process by themselves.
  for (const command of program.commands) command.exitOverride().showHelpAfterError("(see --help)");
  try {
    await program.parseAsync();
    return code;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? exitCodes.ok : usageCode(process.argv[2]);
    if (error instanceof StackFileError) {
      for (const problem of error.problems) process.stderr.write(`${printable(describeProblem(problem))}\n`);
      return exitCodes.usage;
    }
    printError(error);
    return exitCodes.error;
  }
}

watchOutputs();
reportStrays();
setEnding({ clock: realEnvironment.clock, exit: end });
const code = await main();
process.exitCode = code;
// A command may leave something behind that never ends, e.g. storage that does not answer.
process.stdout.write("", () => {
  // Whether all has arrived is known only now, and said by a handler that comes after this one.
  setImmediate(() => endProcess(statusOf(process.argv[2], code)));
});
