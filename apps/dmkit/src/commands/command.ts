/** What a module of commands is, and what it is given. */
import type { TargetRegistry } from "@dmkit/block-io";
import type { Command } from "commander";

/** Takes the exit code. */
export type Finish = (code: number) => void;

/** The targets there are; they are loaded when a command asks for them. */
export type Known = () => Promise<TargetRegistry>;

/** A program with all commands, whatever was typed: for those that tell of others. */
export type Whole = () => Promise<Command>;

/** Adds commands to the program. */
export type Add = (program: Command, finish: Finish, known: Known, whole: Whole) => void | Promise<void>;

export interface CommandModule {
  readonly names: readonly string[];
  readonly load: () => Promise<Add>;
}

/** The subcommands that people are told of, without commander's own `help`. */
export function visibleCommands(command: Command): readonly Command[] {
  const shown = command.createHelp().visibleCommands(command);
  return command.commands.filter((one) => shown.includes(one));
}
