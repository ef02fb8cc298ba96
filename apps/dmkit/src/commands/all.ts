/**
 * Which module has which command, in the order of the help. A module is loaded when one of its commands is
 * typed, so that `dmkit status` does not wait for benchmarks and picture formats; for the help all are.
 */
import type { Command } from "commander";
import type { CommandModule, Finish, Known } from "./command.ts";
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
  { names: ["compare"], load: async () => (await import("./compare.ts")).addCompare },
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

/** @param word what was typed first; if it is no command, all are added. */
export async function addCommands(
  program: Command,
  word: string | undefined,
  finish: Finish,
  known: Known,
): Promise<void> {
  // The version is that of all of them.
  if (word === "--version" || word === "-V") return;
  const isNamed = ({ names }: CommandModule): boolean => word !== undefined && names.includes(word);
  const isCommand = groups.some(([, modules]) => modules.some(isNamed));
  const whole = async (): Promise<Command> => {
    const all = program
      .createCommand("dmkit")
      .description(program.description())
      .copyInheritedSettings(program);
    await addCommands(all, undefined, () => {}, known);
    return all;
  };
  for (const [title, modules] of groups) {
    program.commandsGroup(title);
    for (const module of modules) {
      if (!isCommand || isNamed(module)) await (await module.load())(program, finish, known, whole);
    }
  }
  // In the last of the groups.
  if (!isCommand) program.helpCommand(true);
}
