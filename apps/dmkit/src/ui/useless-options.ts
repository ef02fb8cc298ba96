/**
 * Options that would do nothing, since another one is missing or stands beside them. Whoever gave them relies on them:
 * they are refused before anything is done.
 */
import type { Command } from "commander";
import { usage } from "./usage.ts";

/** `option` does nothing without another one, or beside it; names as in `--name`. */
export type Useless =
  | { readonly option: string; readonly without: string }
  | { readonly option: string; readonly beside: string };

/** Throws `EPARSE`. */
export function refuseUseless(command: Command, rules: readonly Useless[]): void {
  for (const rule of rules) {
    if (!isGiven(command, rule.option)) continue;
    if ("without" in rule && !isGiven(command, rule.without))
      throw usage(
        `--${rule.option} does nothing without --${rule.without}`,
        `Give both, or leave --${rule.option} out.`,
      );
    if ("beside" in rule && isGiven(command, rule.beside))
      throw usage(`--${rule.option} does nothing beside --${rule.beside}`, "Leave out one of the two.");
  }
}

/** Whether an option was given on the command line. @param name as in `--name`. */
export function isGiven(command: Command, name: string): boolean {
  const found = command.options.find(({ long }) => long === `--${name}`);
  return found !== undefined && command.getOptionValueSource(found.attributeName()) === "cli";
}
