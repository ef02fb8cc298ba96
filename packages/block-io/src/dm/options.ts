/**
 * Options: one table per target says what each is, its range, its default and its help. Validation of table
 * lines and of stack files, `--help` and the README are all made from (or checked against) that table.
 */
import { SECTOR } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";
import { parseSize } from "../bytes/size.ts";
import { didYouMean } from "../bytes/text.ts";
import { type Setting, setting } from "../contract/settings.ts";

interface Common {
  /** One line, for help and README. */
  readonly help: string;
  /** May be left out although there is no default. */
  readonly optional?: true;
  /** Counts when a device is opened for the first time, to make or overwrite something: no part of its table later. */
  readonly once?: true;
  /** With `once`: also what a device of this very target has. It does not count where a table takes the place of one. */
  readonly overwrites?: true;
}

/** A reference to a device below: a path, or SCHEME:…. */
export interface DeviceOption extends Common {
  readonly type: "device";
  /** Default `write`. A device that is only read may be shared. */
  readonly access?: "read" | "write";
}

/** Any text. */
export interface TextOption extends Common {
  readonly type: "text";
  readonly default?: string;
  /**
   * For a text that is, or has in it, a path: the same with the path made absolute, a relative one beginning in `folder`.
   * Throws `EPARSE` for a text it cannot read.
   */
  readonly absolute?: (text: string, folder: string) => string;
  /** For a text that is a reference, but may leave out its scheme: the scheme. */
  readonly scheme?: string;
}

/** A whole number; `unit` is for help only. */
export interface IntegerOption extends Common {
  readonly type: "integer";
  readonly min: number;
  readonly max: number;
  readonly unit?: string;
  readonly default?: number;
  /** The option of the same table that this one may not exceed. */
  readonly atMost?: string;
}

/** A number of sectors of 512 bytes: a bare number, or a size like `4K`. */
export interface SectorsOption extends Common {
  readonly type: "sectors";
  readonly min: number;
  readonly max: number;
  readonly default?: number;
}

/** A size in bytes: a bare number, or one with a unit. */
export interface SizeOption extends Common {
  readonly type: "size";
  readonly min: number;
  readonly max: number;
  readonly default?: number;
}

/** 0 or 1 in tables, true or false elsewhere. */
export interface FlagOption extends Common {
  readonly type: "flag";
  readonly default?: boolean;
}

/** One of some words. */
export interface ChoiceOption extends Common {
  readonly type: "choice";
  readonly values: readonly string[];
  readonly default?: string;
}

/** Several groups of options, e.g. the stripes of a striped device. */
export interface ListOption extends Common {
  readonly type: "list";
  readonly of: OptionTable;
  readonly min: number;
  readonly max: number;
}

/** What an option takes: type, range, default and help in one. */
export type OptionSpec =
  | DeviceOption
  | TextOption
  | IntegerOption
  | SectorsOption
  | SizeOption
  | FlagOption
  | ChoiceOption
  | ListOption;

/** What an option is where nothing is said; undefined where it is nothing then. */
export function defaultOf(spec: OptionSpec): string | number | boolean | undefined {
  return "default" in spec ? spec.default : undefined;
}

/** The options of a target, by name. */
export type OptionTable = Readonly<Record<string, OptionSpec>>;

/** The type of the value an option has once it is parsed. */
export type OptionValue<Spec> = Spec extends { type: "device" | "text" }
  ? string
  : Spec extends { type: "integer" | "sectors" | "size" }
    ? number
    : Spec extends { type: "flag" }
      ? boolean
      : Spec extends { type: "choice"; values: readonly (infer Value)[] }
        ? Value
        : Spec extends { type: "list"; of: infer Table }
          ? readonly OptionsOf<Table>[]
          : never;

/** The typed object a table of options describes. */
export type OptionsOf<Table> = {
  readonly [Key in keyof Table]: Table[Key] extends { optional: true }
    ? OptionValue<Table[Key]> | undefined
    : OptionValue<Table[Key]>;
};

/** What a program gives for an option of a target, where it opens the device itself: the value that parsing would have made. */
export function settingOf(spec: OptionSpec): Setting {
  switch (spec.type) {
    case "device":
    case "text":
      return setting.text;
    case "integer":
    case "sectors":
    case "size":
      return setting.integer(spec.min, spec.max);
    case "flag":
      return setting.flag;
    case "choice":
      return setting.choice(...spec.values);
    case "list":
      return setting.as("a list", Array.isArray);
  }
}

/** Options whose texts with a path in them are absolute; devices are left to who knows what they can be. */
export function absoluteTexts(table: OptionTable, options: unknown, folder: string): unknown {
  if (typeof options !== "object" || options === null) return options;
  const made: Record<string, unknown> = { ...options };
  for (const [name, spec] of Object.entries(table)) {
    const value = made[name];
    if (spec.type === "text" && typeof value === "string")
      made[name] = spec.absolute?.(value, folder) ?? value;
    else if (spec.type === "list" && Array.isArray(value))
      made[name] = value.map((group: unknown) => absoluteTexts(spec.of, group, folder));
  }
  return made;
}

/** Options with every reference replaced; `undefined` from `replace` leaves it as it is. */
export function replaceReferences(
  table: OptionTable,
  options: unknown,
  replace: (reference: string) => string | undefined,
): unknown {
  if (typeof options !== "object" || options === null) return options;
  const replaced: Record<string, unknown> = { ...options };
  for (const [name, spec] of Object.entries(table)) {
    const value = replaced[name];
    if (spec.type === "list" && Array.isArray(value)) {
      replaced[name] = value.map((group: unknown) => replaceReferences(spec.of, group, replace));
    } else if (typeof value !== "string") continue;
    else if (spec.type === "device") replaced[name] = replace(value) ?? value;
    else if (spec.type === "text" && spec.scheme !== undefined) {
      const prefix = `${spec.scheme}:`;
      const reference = value.startsWith(prefix) ? value : prefix + value;
      replaced[name] = replace(reference)?.slice(prefix.length) ?? value;
    }
  }
  return replaced;
}

/** The range of an option in words, for help and errors. */
export function describeRange(spec: OptionSpec): string {
  switch (spec.type) {
    case "device":
      return "path, URI or device name";
    case "text":
      return "text";
    case "integer":
      return `${spec.min} … ${spec.atMost ?? maximum(spec.max)}${spec.unit === undefined ? "" : ` ${spec.unit}`}`;
    case "sectors":
      return `${spec.min} … ${maximum(spec.max)} sectors`;
    case "size":
      return `${spec.min} … ${maximum(spec.max)} bytes`;
    case "flag":
      return "0, 1";
    case "choice":
      return spec.values.join(", ");
    case "list":
      return `${spec.min} … ${maximum(spec.max)} groups of: ${Object.keys(spec.of).join(", ")}`;
  }
}

function maximum(value: number): string {
  return String(Math.min(value, Number.MAX_SAFE_INTEGER));
}

/** One option from the text of a table word or a named value; throws `EPARSE` with the range. */
export function parseOption(name: string, spec: OptionSpec, value: unknown): unknown {
  const parsed = parseValue(spec, value, name);
  if (parsed !== undefined) return parsed;
  throw new BlockIoError(`${name}: ${show(value)} is not allowed`, {
    code: "EPARSE",
    op: "parse",
    hint: `${meantBy(spec, value)}${name} takes ${describeRange(spec)}.`,
  });
}

function meantBy(spec: OptionSpec, value: unknown): string {
  return spec.type === "choice" && typeof value === "string" ? didYouMean(value, spec.values) : "";
}

function show(value: unknown): string {
  return typeof value === "string" ? `"${value}"` : (JSON.stringify(value) ?? String(value));
}

function parseValue(spec: OptionSpec, value: unknown, name: string): unknown {
  switch (spec.type) {
    case "device":
    case "text":
      return typeof value === "string" && value.length > 0 ? value : undefined;
    case "integer":
      return inRange(spec, number(value, Number));
    case "sectors":
      return inRange(spec, number(value, sectors));
    case "size":
      return inRange(spec, number(value, parseSize));
    case "flag":
      if (value === true || value === 1 || value === "1" || value === "true") return true;
      if (value === false || value === 0 || value === "0" || value === "false") return false;
      return undefined;
    case "choice": {
      const word = typeof value === "string" ? value.toLowerCase() : undefined;
      return spec.values.find((allowed) => allowed.toLowerCase() === word);
    }
    case "list":
      if (!Array.isArray(value) || value.length < spec.min || value.length > spec.max) return undefined;
      return value.map((group: unknown, index) => parseOptions(spec.of, group, `${name}[${index}]`));
  }
}

function number(value: unknown, parse: (text: string) => number): number {
  if (typeof value === "number") return value;
  if (typeof value !== "string" || !/^\d/.test(value)) return Number.NaN;
  try {
    return parse(value);
  } catch {
    return Number.NaN;
  }
}

function sectors(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : parseSize(text) / SECTOR;
}

function inRange({ min, max }: { min: number; max: number }, value: number): number | undefined {
  return Number.isSafeInteger(value) && value >= min && value <= max ? value : undefined;
}

/**
 * A typed options object from untrusted named values (a stack file, a library caller). Defaults are filled
 * in; unknown names, missing ones and values out of range throw `EPARSE` with what is allowed.
 */
export function parseOptions<const Table extends OptionTable>(
  table: Table,
  values: unknown,
  where = "options",
): OptionsOf<Table> {
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw new BlockIoError(`${where}: ${show(values)} is not a set of options`, {
      code: "EPARSE",
      op: "parse",
      hint: `Give: ${Object.keys(table).join(", ")}.`,
    });
  }
  const given = new Map<string, unknown>(Object.entries(values));
  const result: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(table)) {
    const value = given.get(name);
    given.delete(name);
    if (value !== undefined) result[name] = parseOption(`${where}: ${name}`, spec, value);
    else if (defaultOf(spec) !== undefined) result[name] = defaultOf(spec);
    else if (!spec.optional) {
      throw new BlockIoError(`${where}: ${name} is missing`, {
        code: "EPARSE",
        op: "parse",
        hint: `${name} (${describeRange(spec)}): ${spec.help}`,
      });
    }
  }
  const [unknown] = given.keys();
  if (unknown !== undefined) {
    throw new BlockIoError(`${where}: there is no option "${unknown}"`, {
      code: "EPARSE",
      op: "parse",
      hint: `${didYouMean(unknown, Object.keys(table))}Known options: ${Object.keys(table).join(", ")}.`,
    });
  }
  requireOrder(table, result, `${where}: `);
  return result as OptionsOf<Table>;
}

/** Throws `EPARSE` if a value exceeds the one of another option that it may not. */
export function requireOrder(
  table: OptionTable,
  values: Readonly<Record<string, unknown>>,
  where: string,
): void {
  for (const [name, spec] of Object.entries(table)) {
    if (spec.type !== "integer" || spec.atMost === undefined) continue;
    const [value, most] = [values[name], values[spec.atMost]];
    if (typeof value !== "number" || typeof most !== "number" || value <= most) continue;
    throw new BlockIoError(`${where}${name} ${value} is above ${spec.atMost} ${most}`, {
      code: "EPARSE",
      op: "parse",
      hint: `Beside that ${name} takes ${spec.min} … ${most}, and ${spec.atMost} beside this ${value} or more.`,
    });
  }
}
