/** `dmkit targets`: what can stand in a table, from the same tables that validate it. */
import { type AnyTarget, BlockIoError } from "@dmkit/block-io";
import type { Command } from "commander";
import { messageTerms, optionTerms } from "../manual/option-terms.ts";
import type { Term } from "../manual/roff.ts";
import { exitCodes } from "../ui/terminal.ts";
import type { Finish, Known } from "./command.ts";

export function addTargets(program: Command, finish: Finish, load: Known): void {
  program
    .command("targets")
    .summary("list the targets and their options")
    .description("Lists the targets a table can name; with a name, its options with ranges and defaults.")
    .argument("[name]", "a target")
    .option("--json", "print JSON", false)
    .action(async (name: string | undefined, { json }: { json: boolean }) => {
      const known = (await load()).list();
      const chosen = known.filter(
        (target) => name === undefined || target.name === name || target.aliases?.includes(name),
      );
      if (chosen.length === 0) {
        const hint = `Known targets: ${known.map((target) => target.name).join(", ")}.`;
        throw new BlockIoError(`there is no target "${name}"`, { code: "EPARSE", hint });
      }
      if (json) {
        const facts = chosen.map(({ name, version, summary, synopsis, options, tunables, messages }) => ({
          name,
          version,
          summary,
          synopsis,
          options,
          tunables: tunables?.names ?? [],
          messages: messages ?? {},
        }));
        process.stdout.write(`${JSON.stringify(facts, undefined, 2)}\n`);
      } else {
        for (const target of chosen) {
          process.stdout.write(`${target.name.padEnd(12)} ${target.summary}\n`);
          if (name !== undefined) process.stdout.write(describe(target));
        }
      }
      finish(exitCodes.ok);
    });
}

function describe(target: AnyTarget): string {
  const lines = [`\n  <start> <length> ${target.name} ${target.synopsis}\n`];
  const add = ({ term, meaning }: Term): number => lines.push(`  ${term.padEnd(12)} ${meaning}`);
  optionTerms(target).forEach(add);
  const told = messageTerms(target);
  if (told.length > 0) lines.push("\n  Messages:");
  told.forEach(add);
  return `${lines.join("\n")}\n`;
}
