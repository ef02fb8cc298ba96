/**
 * The manual: a page of each command, one of the program, and dmkit-targets(7), all from the tables that parse command lines
 * and tables. So it says nothing that the help does not, and nothing is written twice.
 */
import type { EventEmitter } from "node:events";
import type { AnyTarget, TargetRegistry } from "@dmkit/block-io";
import type { Command, Option } from "commander";
import { visibleCommands } from "../commands/command.ts";
import { lengthTerm, messageTerms, optionTerms } from "./option-terms.ts";
import type { Page, Section } from "./roff.ts";

/** @param source for the foot of the pages. */
export function manualPages(program: Command, targets: TargetRegistry, source: string): Page[] {
  const commands = visibleCommands(program);
  const names = commands.map((command) => `dmkit-${command.name()}`);
  return [
    {
      name: "dmkit",
      section: 1,
      source,
      sections: [
        { title: "Name", paragraphs: [`dmkit - ${program.description()}`] },
        { title: "Synopsis", paragraphs: ["dmkit COMMAND [OPTION]... [ARGUMENT]..."] },
        ...inGroups(program, commands, (command) => command.helpGroup()).map(([title, some]) => ({
          title,
          terms: some.map((command) => ({ term: `dmkit-${command.name()}(1)`, meaning: summaryOf(command) })),
        })),
        ...extra(program),
        { title: "See also", paragraphs: ["dmkit-targets(7)"] },
      ],
    },
    ...commands.map((command) => commandPage(command, source)),
    targetsPage(targets, source, names),
  ];
}

function commandPage(command: Command, source: string): Page {
  const subs = visibleCommands(command);
  return {
    name: `dmkit-${command.name()}`,
    section: 1,
    source,
    sections: [
      { title: "Name", paragraphs: [`dmkit-${command.name()} - ${summaryOf(command)}`] },
      {
        title: "Synopsis",
        verbatim: (subs.length > 0 ? subs : [command]).map((one) => synopsisOf(one)).join("\n"),
      },
      { title: "Description", paragraphs: [command.description()] },
      ...optionsOf(command, "Options"),
      ...subs.flatMap((sub): Section[] => [
        { title: `dmkit ${command.name()} ${sub.name()}`, paragraphs: [sub.description()] },
        ...optionsOf(sub, `Options of ${sub.name()}`),
        ...extra(sub),
      ]),
      ...extra(command),
      { title: "See also", paragraphs: ["dmkit(1), dmkit-targets(7)"] },
    ],
  };
}

function targetsPage(targets: TargetRegistry, source: string, commands: readonly string[]): Page {
  return {
    name: "dmkit-targets",
    section: 7,
    source,
    sections: [
      { title: "Name", paragraphs: ["dmkit-targets - what can stand in a table of dmkit"] },
      {
        title: "Description",
        paragraphs: [
          "A line of a table is START LENGTH TARGET ARGUMENTS, with START and LENGTH in sectors of 512 bytes. Arguments in brackets may be left out; options follow by name and value.",
        ],
      },
      ...targets.list().flatMap(targetSections),
      { title: "See also", paragraphs: [commands.map((name) => `${name}(1)`).join(", ")] },
    ],
  };
}

function targetSections(target: AnyTarget): Section[] {
  const { name, aliases = [], summary, synopsis } = target;
  const also = aliases.length > 0 ? ` Also called ${aliases.join(", ")}.` : "";
  const messages = messageTerms(target).map(({ term, meaning }) => ({ term: `message: ${term}`, meaning }));
  const paragraphs = [`${summary}.${also}`, `START LENGTH ${name} ${synopsis}`, lengthTerm(target)];
  return [{ title: name, paragraphs, terms: [...optionTerms(target), ...messages] }];
}

function synopsisOf(command: Command): string {
  const above = command.parent === null || command.parent.parent === null ? [] : [command.parent.name()];
  return ["dmkit", ...above, command.name(), command.usage()].join(" ");
}

function optionsOf(command: Command, title: string): Section[] {
  const help = command.createHelp();
  const args = command.registeredArguments
    .filter(({ description }) => description !== "")
    .map((one) => ({ term: one.name(), meaning: help.argumentDescription(one) }));
  const shown = command.options.filter(({ hidden }) => !hidden);
  const sections = inGroups(command, shown, ({ helpGroupHeading = title }) => helpGroupHeading).map(
    ([group, some]): Section => ({
      title: group,
      terms: some.map((one) => ({ term: one.flags, meaning: help.optionDescription(one) })),
    }),
  );
  const [first] = sections;
  if (args.length === 0) return sections;
  if (first?.title !== title) return [{ title: "Arguments", terms: args }, ...sections];
  return [{ title, terms: [...args, ...(first.terms ?? [])] }, ...sections.slice(1)];
}

/** By the headings that the help has, without their colons. */
function inGroups<One extends Command | Option>(
  command: Command,
  all: readonly One[],
  headingOf: (one: One) => string,
): [title: string, some: One[]][] {
  const groups = command.createHelp().groupItems([...all], [...all], headingOf);
  return [...groups].map(([heading, some]) => [heading.replace(/:$/, ""), some]);
}

/** What follows the help: examples, exit status. */
function extra(command: Command): Section[] {
  let text = "";
  const context = { error: false, command, write: (part: string) => (text += part) };
  // Commander hands its texts to whoever listens, and has no other way to them.
  (command as unknown as EventEmitter).emit("afterHelp", context);
  const sections: Section[] = [];
  for (const block of text.trim().split(/\n(?=[A-Z][^\n]*:(?:\s|$))/)) {
    const [, title, rest] = /^([A-Z][A-Za-z ]{2,30}):\s*([\s\S]*)$/.exec(block.trim()) ?? [];
    if (title !== undefined && rest !== undefined) sections.push({ title, verbatim: rest.trim() });
    else if (block.trim() !== "") sections.push({ title: "Notes", verbatim: block.trim() });
  }
  return sections;
}

function summaryOf(command: Command): string {
  return command.summary() === "" ? command.description() : command.summary();
}
