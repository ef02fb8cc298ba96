/**
 * Which module has which command, in the order of the help. A module is loaded when one of its commands is
 * typed, so that `dmkit status` does not wait for benchmarks and picture formats.
 *
 * For the list of commands all would be: four times what `dmkit --help` takes without. So it is written down beside the
 * bundle when that is made; where there is none, from the sources, all are loaded.
 */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { type CommandModule, type Finish, type Known, visibleCommands } from "./command.ts";
import { ownCommands } from "./own/all.ts";

const serving: readonly CommandModule[] = [
  { names: ["serve"], load: async () => (await import("./serve.ts")).addServe },
  {
    names: ["create", "remove", "ls", "table", "status", "message", "suspend", "resume", "reload", "rename"],
    load: async () => (await import("./server/dm.ts")).addDeviceVerbs,
  },
  { names: ["export"], load: async () => (await import("./server/export.ts")).addExport },
  { names: ["top"], load: async () => (await import("./server/top.ts")).addTop },
  { names: ["stack"], load: async () => (await import("./stack.ts")).addStack },
];

const offline: readonly CommandModule[] = [
  { names: ["copy"], load: async () => (await import("./copy.ts")).addCopy },
  { names: ["backup"], load: async () => (await import("./offline/backup.ts")).addBackup },
  { names: ["compare"], load: async () => (await import("./compare.ts")).addCompare },
  { names: ["measure"], load: async () => (await import("./offline/measure.ts")).addMeasure },
  { names: ["info"], load: async () => (await import("./offline/info.ts")).addInfo },
  { names: ["fsck"], load: async () => (await import("./offline/fsck.ts")).addFsck },
  { names: ["replay"], load: async () => (await import("./offline/replay.ts")).addReplay },
  { names: ["undo"], load: async () => (await import("./offline/undo.ts")).addUndo },
  { names: ["map"], load: async () => (await import("./offline/map.ts")).addMap },
  { names: ["dump"], load: async () => (await import("./offline/dump.ts")).addDump },
  { names: ["restore"], load: async () => (await import("./offline/restore.ts")).addRestore },
  { names: ["format"], load: async () => (await import("./offline/format.ts")).addFormat },
];

const about: readonly CommandModule[] = [
  { names: ["targets"], load: async () => (await import("./targets.ts")).addTargets },
  { names: ["bench"], load: async () => (await import("./bench.ts")).addBench },
  {
    names: ["completion", "complete"],
    load: async () => (await import("./completion.ts")).addCompletion,
  },
  { names: ["man"], load: async () => (await import("./man.ts")).addMan },
];

/** As the help has them, title and commands. */
const groups: readonly (readonly [title: string, modules: readonly CommandModule[]])[] = [
  ["Servers, and devices of a server that runs:", serving],
  ["Images that nobody serves:", offline],
  ["Images and disks in object stores, and other commands of one target:", ownCommands],
  ["About dmkit:", about],
];

/** What the list says of a command: its group, its name and arguments, and what it does. */
type Listed = readonly [group: string, term: string, description: string];

const OPTIONS = " [options]";
const file = new URL("commands.json", import.meta.url);

/** Of these commands. */
export function listOf(program: Command): Listed[] {
  const help = program.createHelp();
  return visibleCommands(program).map((one) => [
    one.helpGroup(),
    help.subcommandTerm(one),
    help.subcommandDescription(one),
  ]);
}

function written(): Listed[] | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Listed[];
  } catch {
    return undefined;
  }
}

/** Commands that are good for nothing but being listed. */
function addListed(program: Command, list: readonly Listed[]): void {
  for (const [group, term, description] of list) {
    const command = program.command(term.replace(OPTIONS, "")).description(description).helpGroup(group);
    if (term.includes(OPTIONS)) command.option("--any");
  }
}

function isHelp(word: string | undefined): boolean {
  return word === undefined || ["help", "--help", "-h"].includes(word);
}

/** Whether there is a command of this name. */
export function isCommand(word: string | undefined): boolean {
  return groups.some(([, modules]) => modules.some((one) => isNamed(one, word)));
}

function isNamed({ names }: CommandModule, word: string | undefined): boolean {
  return word !== undefined && names.includes(word);
}

/** @param words after `dmkit`. If the first is no command, all are added. */
export async function addCommands(
  program: Command,
  words: readonly string[],
  finish: Finish,
  known: Known,
): Promise<void> {
  const [word] = words;
  // The version is that of all of them.
  if (word === "--version" || word === "-V") return;
  const isKnown = isCommand(word);
  const list = words.length <= 1 && isHelp(word) ? written() : undefined;
  if (list !== undefined) addListed(program, list);
  const whole = async (): Promise<Command> => {
    const all = program
      .createCommand("dmkit")
      .description(program.description())
      .copyInheritedSettings(program);
    await addCommands(all, ["all"], () => {}, known);
    return all;
  };
  for (const [title, modules] of groups) {
    program.commandsGroup(title);
    for (const module of modules) {
      if (isKnown ? isNamed(module, word) : list === undefined)
        await (await module.load())(program, finish, known, whole);
    }
  }
  // In the last of the groups.
  if (!isKnown) program.helpCommand(true);
}
