/** One run of the command line: subcommands, errors to texts, exit codes. */
import { readFileSync } from "node:fs";
import { didYouMean, printable } from "@dmkit/block-io";
import { Command, CommanderError, Help, type Option } from "commander";
import { addCommands, listOf } from "./commands/all.ts";
import type { Known } from "./commands/command.ts";
import { refuseEmptyWords } from "./ui/empty-words.ts";
import { refuseForeignWords } from "./ui/foreign-words.ts";
import { StackFileError, describeProblem } from "./stack-file/problem.ts";
import { usage } from "./ui/usage.ts";
import { exitCodeOf, exitCodes, exitHelp, printError, failureCodes } from "./ui/terminal.ts";

const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};

const allTargets: Known = async () => (await import("./targets.ts")).targets;

/** Without what goes without saying: that an option nobody gives is not given. */
function optionDescription(option: Option): string {
  const said = new Help().optionDescription(option);
  return said.replace(/ \(default: (?:false|\[\])\)/, "");
}

/** What is written down beside the bundle for `dmkit --help`. */
export async function listCommands(): Promise<ReturnType<typeof listOf>> {
  const program = new Command();
  await addCommands(program, ["all"], () => {}, allTargets);
  return listOf(program);
}

/**
 * Carries out a command, tells what went wrong, and says what the process is to end with.
 * @param words after `dmkit`.
 * @param known the targets it works with.
 */
export async function runCommandLine(words: readonly string[], known: Known = allTargets): Promise<number> {
  let code: number = exitCodes.ok;
  const finish = (result: number): void => {
    code = result;
  };
  const program = new Command("dmkit")
    .description("device-mapper in user space: serve, stack and copy block devices")
    .version(manifest.version)
    .showHelpAfterError("(see --help)")
    .configureHelp({ showGlobalOptions: true, optionDescription })
    .addHelpText("after", exitHelp)
    .exitOverride();
  program.hook("preAction", (_program, command) => refuseEmptyWords(command));
  const [name] = words;
  await addCommands(program, words, finish, known);
  try {
    refuseForeignWords(words);
    refuseUnknownHelp(program, words);
    await program.parseAsync(words, { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? exitCodes.ok : failureCodes(name).usage;
    if (error instanceof StackFileError) {
      for (const problem of error.problems) process.stderr.write(`${printable(describeProblem(problem))}\n`);
    } else {
      printError(error);
    }
    return exitCodeOf(error, name);
  }
}

/** Help on what is not there would be that of all commands, and no error. Throws `EPARSE`. */
function refuseUnknownHelp(program: Command, [help, name]: readonly string[]): void {
  if (help !== "help" || name === undefined || name.startsWith("-")) return;
  const names = program.commands.map((command) => command.name());
  if ([...names, help].includes(name)) return;
  throw usage(`there is no command "${name}"`, `${didYouMean(name, names)}All of them: dmkit help`);
}
