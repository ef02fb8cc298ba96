/** What a module of commands is, and what it is given. */
import type { TargetRegistry } from "@dmkit/block-io";
import type { Command } from "commander";

/** Takes the exit code. */
export type Finish = (code: number) => void;

/** The targets there are; they are loaded when a command asks for them. */
export type Known = () => Promise<TargetRegistry>;

/** Adds commands to the program. */
export type Add = (program: Command, finish: Finish, known: Known) => void | Promise<void>;

export interface CommandModule {
  readonly names: readonly string[];
  readonly load: () => Promise<Add>;
}
