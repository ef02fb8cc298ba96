/** Who may connect where it is listened: one table for the options of the command line and the words of a stack file. */
import type { Command } from "commander";
import { InvalidArgumentError, Option } from "commander";

/** How a word is read: a value of YAML, or the text of an option. Undefined for what is not allowed. */
interface AccessWord<Value> {
  /** The option of `dmkit serve`. */
  readonly flags: string;
  readonly help: string;
  /** What is allowed. */
  readonly takes: string;
  readonly read: (value: unknown) => Value | undefined;
}

/** A number, or one in quotes, is as good a word as any other. */
export function wordOf(value: unknown): string | undefined {
  return (typeof value === "string" || typeof value === "number") && value !== "" ? String(value) : undefined;
}

/** A word, or a list of them. */
function wordsOf(value: unknown): readonly string[] | undefined {
  const words = (Array.isArray(value) ? value : [value]).map(wordOf);
  return words.every((word) => word !== undefined) ? words : undefined;
}

const allow: AccessWord<readonly string[]> = {
  flags: "--allow <addresses>",
  help: "who may connect to the TCP port: addresses or ranges of them, with commas between",
  takes: "addresses or ranges of them: [192.168.0.0/16, fd00::/8]",
  read: wordsOf,
};

const mode: AccessWord<number> = {
  flags: "--socket-mode <mode>",
  help: "mode of the unix socket, 600 to 777 (default: 600)",
  takes: "three octal digits from 600 to 777",
  read(value) {
    const digits = wordOf(value) ?? "";
    return /^0?[67][0-7]{2}$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
  },
};

const group: AccessWord<string> = {
  flags: "--socket-group <group>",
  help: "group of the unix socket, a name or a number; with --socket-mode 660 its members may connect",
  takes: "the name or number of a group",
  read: wordOf,
};

const names = "names of certificates that were verified, or identities of pre-shared keys";

const identities: AccessWord<readonly string[]> = {
  flags: "--identities <names>",
  help: `who may use what is served: ${names}, with commas between`,
  takes: names,
  read: wordsOf,
};

const writers: AccessWord<readonly string[]> = {
  flags: "--writers <names>",
  help: "the same: who may write; to everybody else all is read-only",
  takes: names,
  read: wordsOf,
};

/** As stack files have them. */
export const accessWords: {
  readonly allow: AccessWord<readonly string[]>;
  readonly identities: AccessWord<readonly string[]>;
  readonly writers: AccessWord<readonly string[]>;
  readonly mode: AccessWord<number>;
  readonly group: AccessWord<string>;
} = { allow, identities, writers, mode, group };

/** The option of a word that is a list, with commas between. */
export function listOption({ flags, help, takes, read }: AccessWord<readonly string[]>): Option {
  return optionOf({
    flags,
    help,
    takes,
    read: (text) =>
      read(
        String(text)
          .split(",")
          .map((word) => word.trim()),
      ),
  });
}

function optionOf<Value>({ flags, help, takes, read }: AccessWord<Value>): Option {
  return new Option(flags, help).argParser((text): Value => {
    const value = read(text);
    if (value === undefined) throw new InvalidArgumentError(`Give ${takes}.`);
    return value;
  });
}

/** Adds their options to a command. */
export function addAccess(command: Command): Command {
  for (const list of [allow, identities, writers]) command.addOption(listOption(list));
  return command.addOption(optionOf(mode)).addOption(optionOf(group));
}
