/**
 * What a program gives functions and classes beside their devices: an object of named settings. Each kind of object has one
 * table, which says of every name what it takes; {@link checkSettings} holds what was given to it before anything is done.
 *
 * A name that is misspelt, or was another once, would be a default that nobody asked for; a NaN passes through every comparison.
 * So both are refused, with `EINVAL`, also for those whose program the compiler has not looked at.
 */
import { didYouMean } from "../bytes/text.ts";
import { type BlockIoError, type Operation, refuse } from "./errors.ts";

/** What a setting takes. */
export interface Setting {
  /** In words, behind "Give": `an integer from 1 to 16`. */
  readonly takes: string;
  readonly accepts: (value: unknown) => boolean;
  /** May not be left out. */
  readonly needed?: true;
  /** For an object of settings: theirs. */
  readonly table?: Readonly<Record<string, Setting>>;
}

/** A table for all names of a kind of settings. */
export type SettingsTable<Settings> = { readonly [Name in keyof Required<Settings>]: Setting };

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function takes(words: string, accepts: (value: unknown) => boolean): Setting {
  return { takes: words, accepts };
}

function list(value: unknown, accepts: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(accepts);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

const flag: Setting = takes("true or false", (value) => typeof value === "boolean");
const text: Setting = takes("a text", isText);
/** The empty one, too. */
const anyText: Setting = takes("a text", (value) => typeof value === "string");
const texts: Setting = takes("a list of texts", (value) => list(value, isText));
const bytes: Setting = takes("a Buffer, or another Uint8Array", (value) => value instanceof Uint8Array);
const call: Setting = takes("a function", (value) => typeof value === "function");
/** With methods or fields of its own: a store. */
const object: Setting = takes("an object", isObject);
const device: Setting = takes(
  "a block device",
  (value) => isObject(value) && typeof value["read"] === "function",
);
const signal: Setting = takes(
  "an AbortSignal",
  (value) => isObject(value) && typeof value["aborted"] === "boolean",
);
const clock: Setting = takes("a clock", (value) => isObject(value) && typeof value["now"] === "function");
/** Whoever takes one uses some of it only. */
const environment: Setting = takes(
  "an environment, like realEnvironment",
  (value) => isObject(value) && ("clock" in value || "random" in value),
);

/** A whole number, both ends included. */
function integer(least: number, most: number): Setting {
  const range = most === Number.MAX_SAFE_INTEGER ? `, ${least} or more` : ` from ${least} to ${most}`;
  return takes(
    `an integer${range}`,
    (value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most,
  );
}

/** Any number, both ends included. */
function number(least: number, most: number): Setting {
  const range = most === Number.MAX_VALUE ? `, ${least} or more` : ` from ${least} to ${most}`;
  return takes(`a number${range}`, (value) => typeof value === "number" && value >= least && value <= most);
}

function choice(...values: readonly (string | number | null)[]): Setting {
  const words = values.map((value) => JSON.stringify(value)).join(", ");
  const accepts = (value: unknown): boolean => values.some((one) => one === value);
  return takes(values.length === 1 ? words : `one of ${words}`, accepts);
}

function either(one: Setting, other: Setting): Setting {
  return takes(`${one.takes}, or ${other.takes}`, (value) => one.accepts(value) || other.accepts(value));
}

/** May not be left out. */
function needed(one: Setting): Setting {
  return { ...one, needed: true };
}

/** Settings of their own. */
function within(table: Readonly<Record<string, Setting>>): Setting {
  return { ...takes("an object of settings", isObject), table };
}

type Kind =
  | "flag"
  | "text"
  | "anyText"
  | "texts"
  | "bytes"
  | "call"
  | "object"
  | "device"
  | "signal"
  | "clock"
  | "environment";

/** The kinds of settings there are. */
export const setting: Readonly<Record<Kind, Setting>> & {
  /** What the words say, as a function finds it. */
  readonly as: typeof takes;
  readonly integer: typeof integer;
  readonly number: typeof number;
  readonly choice: typeof choice;
  readonly either: typeof either;
  readonly needed: typeof needed;
  readonly within: typeof within;
} = {
  as: takes,
  anyText,
  bytes,
  call,
  choice,
  clock,
  device,
  either,
  environment,
  flag,
  integer,
  needed,
  number,
  object,
  signal,
  text,
  texts,
  within,
};

/** What work on images that nobody serves takes, and most other work: see `OfflineWork`. */
export const workSettings: Readonly<Record<"environment" | "signal" | "progress", Setting>> = {
  environment: setting.environment,
  signal: setting.signal,
  progress: setting.call,
};

/**
 * The settings themselves, if they are what the table says; one that is `undefined` has not been given. Throws `EINVAL`: for a
 * name there is not, naming the one that was probably meant; for a value that is not taken; for one that is missing.
 * @param op what the caller does.
 */
export function checkSettings<Settings extends object>(
  table: Readonly<Record<string, Setting>>,
  settings: Settings,
  op: Operation = "open",
): Settings {
  check(table, settings, "", op);
  return settings;
}

function check(table: Readonly<Record<string, Setting>>, given: unknown, path: string, op: Operation): void {
  const names = Object.keys(table);
  if (!isObject(given)) {
    const what = path === "" ? "the options are" : `${path.slice(0, -1)} is`;
    throw refused(`${what} ${shown(given)}`, `Give an object with some of: ${names.join(", ")}.`, op);
  }
  // An instance of a class has methods besides; what it says is what counts.
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(table, name)) continue;
    const hint = `${didYouMean(name, names)}Options: ${names.join(", ")}.`;
    throw refused(`there is no option ${path}${name}`, hint, op);
  }
  for (const name of names) {
    const one = table[name] as Setting;
    const value = given[name];
    if (value === undefined) continue;
    if (!one.accepts(value)) throw refused(`${path}${name} is ${shown(value)}`, `Give ${one.takes}.`, op);
    if (one.table !== undefined) check(one.table, value, `${path}${name}.`, op);
  }
  // What is given is looked at first: a name that is misspelt is the reason why another one is missing.
  const missing = names.find((name) => given[name] === undefined && table[name]?.needed === true);
  if (missing !== undefined)
    throw refused(`${path}${missing} is missing`, `Give ${table[missing]?.takes}.`, op);
}

function refused(reason: string, hint: string, op: Operation): BlockIoError {
  return refuse(undefined, "EINVAL", reason, hint, op);
}

/** A value on one short line. */
function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}
