/**
 * What a word of a command line may become, from the same tables that parse it: commands, options and their choices out of
 * the program; targets, tunables and messages out of the registry; devices and exports from the server that runs.
 *
 * Invariant: completing writes nothing, and an error of whoever is asked is no candidates, not a message.
 */
import type { TargetRegistry } from "@dmkit/block-io";
import type { Argument, Command, Option } from "commander";
import { visibleCommands } from "../commands/command.ts";

export interface Candidate {
  readonly word: string;
  /** One line for people; may be empty. */
  readonly help: string;
}

/** The candidates, or that names of files are wanted, which shells know better. */
export type Completion = { readonly files: true } | { readonly candidates: readonly Candidate[] };

/** A device as far as completion needs it. */
export interface KnownDevice {
  readonly name: string;
  readonly targets: readonly string[];
}

export interface CompletionSources {
  readonly targets: () => Promise<TargetRegistry>;
  /** @param server what `--control` says, if it was typed. */
  readonly devices: (server: string | undefined) => Promise<readonly KnownDevice[]>;
  readonly exports: (server: string | undefined) => Promise<readonly string[]>;
}

type Kind = "device" | "export" | "target" | "message" | "new" | "files";

/** What the arguments of commands are, where that is not files. The last goes on for the rest. */
export const argumentKinds: Readonly<Record<string, readonly Kind[]>> = {
  create: ["new", "new"],
  remove: ["device"],
  ls: ["new"],
  table: ["device"],
  status: ["device"],
  message: ["device", "message"],
  suspend: ["device"],
  resume: ["device"],
  reload: ["device", "new"],
  rename: ["device", "new"],
  "export add": ["new", "device"],
  "export rm": ["export"],
  "image record": ["device", "new"],
  targets: ["target"],
};

const nothing: Completion = { candidates: [] };
const files: Completion = { files: true };

/** @param words after `dmkit`; the last is the one to complete, and may be empty. */
export async function complete(
  program: Command,
  words: readonly string[],
  sources: CompletionSources,
): Promise<Completion> {
  const current = words.at(-1) ?? "";
  const { command, path, args, pending, control } = walk(program, words.slice(0, -1));
  if (pending !== undefined) return values(pending);
  if (current.startsWith("-")) return matching(current, optionsOf(command));
  if (command.commands.length > 0 && args.length === 0) return matching(current, commandsOf(command));
  const argument = argumentAt(command.registeredArguments, args.length);
  if (argument?.argChoices !== undefined) return matching(current, plain(argument.argChoices));
  const kinds = argumentKinds[path] ?? ["files"];
  const kind = kinds[Math.min(args.length, kinds.length - 1)];
  if (argument === undefined || kind === "new") return nothing;
  if (kind === undefined || kind === "files") return files;
  return matching(current, await ofKind(kind, args, control, sources).catch(() => []));
}

interface Walked {
  readonly command: Command;
  /** Names of the command and those above it, without the program's. */
  readonly path: string;
  readonly args: readonly string[];
  /** The option whose value comes next. */
  readonly pending: Option | undefined;
  readonly control: string | undefined;
}

/** What the words before the one to complete mean. */
function walk(program: Command, words: readonly string[]): Walked {
  let command = program;
  let pending: Option | undefined;
  let control: string | undefined;
  const path: string[] = [];
  const args: string[] = [];
  for (const word of words) {
    if (pending !== undefined) {
      if (pending.attributeName() === "control") control = word;
      pending = undefined;
      continue;
    }
    const sub = args.length === 0 ? command.commands.find((one) => isNamed(one, word)) : undefined;
    if (sub !== undefined) {
      command = sub;
      path.push(sub.name());
    } else if (word.startsWith("-")) {
      const [name, value] = word.split(/=(.*)/s);
      const option = command.options.find((one) => one.long === name || one.short === name);
      const takes = option?.required === true || option?.optional === true ? option : undefined;
      if (value === undefined) pending = takes;
      else if (takes?.attributeName() === "control") control = value;
    } else args.push(word);
  }
  return { command, path: path.join(" "), args, pending, control };
}

function isNamed(command: Command, word: string): boolean {
  return command.name() === word || command.aliases().includes(word);
}

function argumentAt(args: readonly Argument[], index: number): Argument | undefined {
  const last = args.at(-1);
  return args[index] ?? (last?.variadic === true ? last : undefined);
}

function values({ argChoices, flags }: Option): Completion {
  if (argChoices !== undefined) return { candidates: plain(argChoices) };
  return /<(path|file|folder|dir|image|device|uri|source)\b/i.test(flags) ? files : nothing;
}

function commandsOf(command: Command): Candidate[] {
  const help = command.createHelp();
  return visibleCommands(command).map((one) => ({ word: one.name(), help: help.subcommandDescription(one) }));
}

function optionsOf(command: Command): Candidate[] {
  const shown = command.createHelp().visibleOptions(command);
  return shown.map(({ long, short, description }) => ({ word: long ?? short ?? "", help: description }));
}

async function ofKind(
  kind: Exclude<Kind, "new" | "files">,
  args: readonly string[],
  control: string | undefined,
  { devices, exports, targets }: CompletionSources,
): Promise<Candidate[]> {
  if (kind === "export") return plain(await exports(control));
  if (kind === "target")
    return (await targets()).list().map(({ name, summary }) => ({ word: name, help: summary }));
  const known = await devices(control);
  if (kind === "device") return known.map(({ name, targets: of }) => ({ word: name, help: of.join(", ") }));
  // A message is one word, or a tunable and its value.
  const [name, ...said] = args;
  if (said.length > 0) return [];
  const registry = await targets();
  const device = known.find((one) => one.name === name);
  return (device?.targets ?? []).flatMap((of) => {
    const { messages = {}, tunables, options } = registry.get(of);
    return [
      ...Object.entries(messages).map(([word, { help }]) => ({ word, help })),
      ...(tunables?.names ?? []).map((word) => ({ word, help: options[word]?.help ?? "" })),
    ];
  });
}

function plain(words: readonly string[]): Candidate[] {
  return words.map((word) => ({ word, help: "" }));
}

function matching(current: string, all: readonly Candidate[]): Completion {
  return { candidates: all.filter(({ word }) => word.startsWith(current)) };
}
