/**
 * Words that are empty: a variable of a script that was not set, most often. One that is to name a file, a device or a
 * number is refused before anything is done, in one place for all commands.
 */
import type { Command } from "commander";

/** What may be empty, as declarations call it: the default export has no name, and a text can say nothing. */
const mayBeEmpty = new Set(["name", "new-name", "text", "word", "line", "name=value"]);

/** Ends the command with a usage error if a word is empty that cannot be. */
export function refuseEmptyWords(command: Command): void {
  for (const [index, argument] of command.registeredArguments.entries()) {
    if (!mayBeEmpty.has(argument.name()))
      refuse(
        command,
        command.args.slice(index, argument.variadic ? undefined : index + 1),
        `argument '${argument.name()}'`,
      );
  }
  for (const { flags, attribute } of command.options.map((option) => ({
    flags: option.flags,
    attribute: option.attributeName(),
  }))) {
    const [, value] = /[<[]([^\].>]+)/.exec(flags) ?? [];
    if (value === undefined || mayBeEmpty.has(value)) continue;
    refuse(command, [command.getOptionValue(attribute)].flat(), `option '${flags}'`);
  }
}

function refuse(command: Command, values: readonly unknown[], what: string): void {
  if (values.includes("")) command.error(`error: ${what} cannot be empty`);
}
