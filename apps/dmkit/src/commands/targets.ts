/** `dmkit targets`: what can stand in a table, from the same tables that validate it. */
import { type AnyTarget, BlockIoError, didYouMean } from "@dmkit/block-io";
import type { Command, Help } from "commander";
import { lengthTerm, messageTerms, optionTerms } from "../manual/option-terms.ts";
import type { Term } from "../manual/roff.ts";
import { exitCodes } from "../ui/terminal.ts";
import type { Finish, Known } from "./command.ts";

// Columns of an option or message that has its meaning beside it; a longer one has it below.
const WIDEST = 28;

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
        const names = known.map((target) => target.name);
        const hint = `${didYouMean(name ?? "", names)}Known targets: ${names.join(", ")}.`;
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
        const help = program.createHelp();
        help.prepareContext({ helpWidth: process.stdout.columns });
        for (const target of chosen) {
          process.stdout.write(`${target.name.padEnd(12)} ${target.summary}\n`);
          if (name !== undefined) process.stdout.write(describe(target, help));
        }
      }
      finish(exitCodes.ok);
    });
}

function describe(target: AnyTarget, help: Help): string {
  const [options, told] = [optionTerms(target), messageTerms(target)];
  const width = Math.max(...[...options, ...told].map(({ term }) => Math.min(term.length, WIDEST)));
  const item = ({ term, meaning }: Term): string =>
    term.length <= width
      ? help.formatItem(term, width, meaning, help)
      : `  ${term}\n${help.formatItem("", width, meaning, help)}`;
  const sections: [title: string, terms: readonly Term[]][] = [
    ["Options:", options],
    ["Messages:", told],
  ];
  const shown = sections.filter(([, terms]) => terms.length > 0);
  return [
    `\n  <start> <length> ${target.name} ${target.synopsis}`.trimEnd(),
    "\n",
    `  ${lengthTerm(target)}\n`,
    ...shown.map(([title, terms]) => `\n${title}\n${terms.map((one) => `${item(one)}\n`).join("")}`),
  ].join("");
}
