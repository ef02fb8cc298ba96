/**
 * What a running target can be told, as data: the options that can be set while it runs, and its messages. A target
 * declares both; everything else is here, once: the grammar, ranges, refusals.
 *
 *      [<sector>] [set] <tunable> <value>      sets an option, within the range its table gives
 *      [<sector>] <tunable>                    answers with its value
 *      [<sector>] <message> [<argument>…]      see the target's messages
 *
 * The sector is device-mapper's, `0` or `@0`, and says which line of a table is meant; it may be left out where there
 * is one line. Names of tunables and messages are taken in any case.
 */
import { type SettingsTable, checkSettings, setting } from "../contract/settings.ts";
import { didYouMean, shellQuote } from "../bytes/text.ts";
import { BlockIoError, refuse, toBlockIoError } from "../contract/errors.ts";
import { type OptionSpec, type OptionTable, parseOption, requireOrder } from "./options.ts";

/** How far a long message is; `done` of `total` units. */
export interface MessageProgress {
  readonly done: number;
  readonly total: number;
  /** What is counted, in the plural: `segments`, `blocks`. */
  readonly unit: string;
}

/** For messages that take long: how they are ended, and how they say how far they are. */
export interface MessageOptions {
  /** Ends the work early where the target can: the message rejects, what was done stays done. */
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: MessageProgress) => void) | undefined;
  /** Who uses the device, as far as whoever passes the message on knows: `export "disk"`, `device vm`. */
  readonly users?: readonly string[] | undefined;
  /** Devices that stand on it: they keep what they know of its contents, so no word gives those up under them. */
  readonly above?: readonly string[] | undefined;
  /** Called when all contents are about to be given up, for those who read the device as it was. */
  readonly givenUp?: (() => void) | undefined;
}

const messageSettings: SettingsTable<MessageOptions> = {
  signal: setting.signal,
  progress: setting.call,
  users: setting.as("a list of names", Array.isArray),
  above: setting.as("a list of names", Array.isArray),
  givenUp: setting.call,
};

/** What ends long work early, and what it tells meanwhile. */
export type LongWork = Pick<MessageOptions, "signal" | "progress">;

/** The part of a table of options that can be set while the target runs. */
export interface TunableTable {
  readonly options: OptionTable;
  readonly names: readonly string[];
  /** Other names of tunables, in lower case: those of historical drivers. */
  readonly aliases: Readonly<Record<string, string>>;
}

/** Picks tunables from a table of options. */
export function tunablesOf<const Table extends OptionTable>(
  options: Table,
  names: readonly (keyof Table & string)[],
  aliases: Readonly<Record<string, keyof Table & string>> = {},
): TunableTable {
  return { options, names, aliases };
}

/** What a device can be told, by one name. */
export interface Message<Device> {
  /** In words, as in help: `<bitmap> <data> [<offset>]`; empty if there are none, and then none is accepted. */
  readonly arguments: string;
  /** One line, for help. */
  readonly help: string;
  /** May be sent to a device that is open read-only, which refuses all others, and setting what is tuned. */
  readonly readOnly?: true;
  /** May take long: it tells how far it is, and ends early on the signal of {@link MessageOptions}. */
  readonly long?: true;
  /**
   * It gives up data: refused while anybody uses the device, unless its last word is `force`; and whatever is said, while
   * another device stands on it.
   */
  readonly destroys?: true;
  run(device: Device, args: readonly string[], options: MessageOptions): Promise<string> | string;
}

/**
 * A long message that `<name> stop` ends, for all who wait for it: they get `ESHUTDOWN`.
 * @param help what it does, as the first half of a line.
 */
export function endable<Device extends { readonly name: string }>(
  help: string,
  run: (device: Device, work: LongWork) => Promise<void>,
): Message<Device> {
  const running = new WeakMap<Device, Set<AbortController>>();
  return {
    arguments: "[stop]",
    long: true,
    help: `${help}; stop: ends that`,
    async run(device, args, { signal, progress }) {
      const ends = running.get(device) ?? new Set();
      running.set(device, ends);
      const word = args.join(" ").toLowerCase();
      if (word === "stop") {
        const hint = "What was done stays done; send it again to go on.";
        const reason = refuse(device.name, "ESHUTDOWN", "it was ended by stop", hint, "message");
        for (const one of ends) one.abort(reason);
      } else if (word !== "") {
        throw refuse(
          device.name,
          "EINVAL",
          `"${word}" is not stop`,
          "Leave it out, or write: stop",
          "message",
        );
      } else {
        const end = new AbortController();
        ends.add(end);
        const either = signal === undefined ? end.signal : AbortSignal.any([signal, end.signal]);
        await run(device, { signal: either, progress }).finally(() => ends.delete(end));
      }
      return "";
    },
  };
}

/** By name, in lower case. */
export type Messages<Device> = Readonly<Record<string, Message<Device>>>;

/** What a target's device can be told. */
export interface Controls<Device> {
  readonly tunables: TunableTable;
  readonly messages: Messages<Device>;
}

/** Of a device that takes no messages. */
export const noControls: Controls<never> = { tunables: tunablesOf({}, []), messages: {} };

/** A device as this file needs it. */
export interface Controlled {
  readonly name: string;
  /** Requests it works on. */
  readonly busy: number;
  readonly readOnly: boolean;
  /** The tunables' values, typed as their options are. */
  values(): Readonly<Record<string, unknown>>;
  /** Changes tunables; the values are in range. */
  tune(changes: Readonly<Record<string, unknown>>): Promise<void> | void;
}

/** Carries out a message. Errors: `EINVAL` (unknown, out of range), `EBUSY`, those of the target. */
export async function carryOut<Device>(
  device: Device,
  { tunables, messages }: Controls<Device>,
  controlled: Controlled,
  words: readonly string[],
  options: MessageOptions,
): Promise<string> {
  checkSettings(messageSettings, options, "message");
  const [first = "", ...args] = words;
  const verb = first.toLowerCase();
  const message = Object.hasOwn(messages, verb) ? messages[verb] : undefined;
  if (message !== undefined) {
    if (controlled.readOnly && message.readOnly !== true) throw readOnlyError(controlled.name);

    if (message.long) options.signal?.throwIfAborted();
    if (message.destroys) refuseWhileUsed(controlled, verb, args, options);
    const rest = message.destroys && args.at(-1)?.toLowerCase() === "force" ? args.slice(0, -1) : args;
    if (message.arguments !== "" || rest.length === 0) {
      if (message.destroys) options.givenUp?.();
      return message.run(device, rest, options);
    }
  }
  const [key = "", value, ...more] = verb === "set" ? args : words;
  const name = tunableNamed(tunables, key);
  if (name !== undefined && more.length === 0) {
    if (value !== undefined) {
      if (controlled.readOnly) throw readOnlyError(controlled.name);
      await controlled.tune({ [name]: tunableValue(controlled, tunables, name, value) });
      return "";
    }
    if (verb !== "set") return printValue(controlled.values()[name]);
  }
  throw unknownMessage(controlled.name, words, { tunables, messages });
}

/** The error for what is no message of a device. */
export function unknownMessage(
  device: string,
  words: readonly string[],
  { tunables, messages }: Controls<never> = noControls,
): BlockIoError {
  const known = Object.entries(messages).map(([name, { arguments: args }]) => `${name} ${args}`.trim());
  const { names } = tunables;
  const kinds = [
    ...(names.length === 0 ? [] : [`set <tunable> <value> with one of: ${names.join(", ")}`]),
    ...(known.length === 0 ? [] : [`the messages: ${known.join("; ")}`]),
  ];
  const [first = "", second = ""] = words;
  const word = first.toLowerCase() === "set" ? second : first;
  const meant = didYouMean(word, [...Object.keys(messages), ...names, ...Object.keys(tunables.aliases)]);
  return new BlockIoError(`unknown message "${words.join(" ")}"`, {
    code: "EINVAL",
    device,
    op: "message",
    hint: kinds.length === 0 ? "It takes no messages." : `${meant}It takes ${kinds.join(", and ")}.`,
  });
}

/** The tunable a word names, in any case; undefined if there is none. */
export function tunableNamed({ names, aliases }: TunableTable, word: string): string | undefined {
  const name = word.toLowerCase();
  if (names.includes(name)) return name;
  return Object.hasOwn(aliases, name) ? aliases[name] : undefined;
}

/** A value as its option has it, which goes with those of the others. Throws `EINVAL` with the range. */
function tunableValue(
  controlled: Controlled,
  { options }: TunableTable,
  name: string,
  value: string,
): unknown {
  try {
    const parsed = parseOption(name, options[name] as OptionSpec, value);
    requireOrder(options, { ...controlled.values(), [name]: parsed }, "");
    return parsed;
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    throw refuse(controlled.name, "EINVAL", reason, hint, "message");
  }
}

/** As a table has it. */
export function printValue(value: unknown): string {
  if (typeof value === "boolean") return value ? "1" : "0";
  return typeof value === "number" || typeof value === "string" ? String(value) : "";
}

function readOnlyError(device: string): BlockIoError {
  return refuse(device, "EROFS", "the device is open read-only", "Open it for writing.", "message");
}

function refuseWhileUsed(
  { name, busy }: Controlled,
  verb: string,
  args: readonly string[],
  { users = [], above = [] }: MessageOptions,
): void {
  if (above.length > 0)
    throw refuse(
      name,
      "EBUSY",
      `${verb} gives up all contents, and ${above.join(", ")} would go on with what it knows of them`,
      "Remove what stands on it first.",
      "message",
    );
  if (args.at(-1)?.toLowerCase() === "force") return;
  const who = users.length > 0 ? `is used by ${users.join(", ")}` : `works on ${busy} requests`;
  if (users.length === 0 && busy === 0) return;
  throw new BlockIoError(`${verb} gives up all contents, and the device ${who}`, {
    code: "EBUSY",
    device: name,
    op: "message",
    hint: `Withdraw what uses it first, or say it: ${[verb, ...args, "force"].map(shellQuote).join(" ")}`,
  });
}
