/** Options of a target by name: the target's own table of options says what each may be. */
import {
  BlockIoError,
  type OptionSpec,
  type OptionTable,
  type TextOption,
  defaultOf,
  describeRange,
  parseOption,
  requireOrder,
  toBlockIoError,
} from "@dmkit/block-io";
import { show } from "../problem.ts";
import { check, newFileSchema, unknownKey } from "./schema.ts";
import { type MapValue, type Problems, type Value, plainOf } from "../yaml.ts";

/** How a reference to a device is read; undefined if it is none, with the reason among the problems. */
export interface DeviceReader {
  /** Relative paths start here. */
  readonly folder: string;
  /** A path, URI or name. */
  reference(word: string, at: number): string | undefined;
  /** A file that may have to be made; its path. */
  file(
    file: { file: string; create: number | undefined; preallocate: boolean },
    at: number,
  ): string | undefined;
}

export interface ReadSettings {
  /** Keys that are no options but may stand among them. */
  readonly alsoKnown?: readonly string[] | undefined;
  /** In the place of the table's own defaults. */
  readonly defaults?: Readonly<Record<string, unknown>> | undefined;
}

/** The values in force, defaults filled in; undefined if anything is wrong, with all of it among the problems. */
export function readOptions(
  what: string,
  table: OptionTable,
  given: MapValue,
  devices: DeviceReader,
  problems: Problems,
  { alsoKnown = [], defaults = {} }: ReadSettings = {},
): Record<string, unknown> | undefined {
  const before = problems.list.length;
  const known = [...alsoKnown, ...Object.keys(table)];
  for (const [name, { keyAt }] of given.entries) {
    if (Object.hasOwn(table, name)) continue;
    problems.add(
      keyAt,
      unknownKey(name, what),
      `options: ${known.join(", ") || "none"}`,
      problems.closest(name, known),
    );
  }
  const options: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(table)) {
    const entry = given.entries.get(name);
    if (entry !== undefined) {
      options[name] = readOption(name, spec, entry.value, devices, problems);
    } else if (Object.hasOwn(defaults, name)) {
      options[name] = defaults[name];
    } else if (defaultOf(spec) !== undefined) {
      options[name] = defaultOf(spec);
    } else if (spec.type === "list" && spec.min === 0) {
      options[name] = [];
    } else if (spec.optional === true) {
      options[name] = undefined;
    } else {
      problems.add(given.at, `${what} needs ${name}`, `${describeRange(spec)}: ${spec.help}`);
    }
  }
  if (problems.list.length > before) return undefined;
  try {
    requireOrder(table, options, "");
    return options;
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    problems.add(given.at, reason, hint);
    return undefined;
  }
}

function readOption(
  name: string,
  spec: OptionSpec,
  value: Value,
  devices: DeviceReader,
  problems: Problems,
): unknown {
  if (spec.type === "list") {
    if (value.kind !== "list" || value.items.length < spec.min || value.items.length > spec.max) {
      const count = value.kind === "list" ? `${value.items.length} of them` : show(plainOf(value));
      problems.add(value.at, `${name}: ${count} is not allowed`, `a list of ${describeRange(spec)}`);
      return undefined;
    }
    return value.items.map((item, index) => readGroup(`${name}[${index}]`, spec.of, item, devices, problems));
  }
  if (spec.type === "device" && value.kind === "map") {
    const file = check(newFileSchema, value, problems);
    return file === undefined ? undefined : devices.file(file, value.at);
  }
  try {
    const parsed = parseOption(name, spec, asWritten(spec, plainOf(value)));
    if (spec.type === "text") return absoluteText(name, spec, parsed as string, value, devices, problems);
    return spec.type === "device" ? devices.reference(parsed as string, value.at) : parsed;
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    const meant =
      spec.type === "choice" && value.kind === "scalar"
        ? problems.closest(String(value.value), spec.values)
        : undefined;
    const found =
      value.kind === "scalar" && value.value === null
        ? "there is no value"
        : `${show(plainOf(value))} is not allowed`;
    problems.add(value.at, `${name}: ${found}`, describeRange(spec), meant);
    return undefined;
  }
}

function absoluteText(
  name: string,
  spec: TextOption,
  text: string,
  { at }: Value,
  { folder }: DeviceReader,
  problems: Problems,
): string | undefined {
  try {
    return spec.absolute?.(text, folder) ?? text;
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    problems.add(at, `${name}: ${error.reason}`, error.hint);
    return undefined;
  }
}

/** A word that YAML takes for a number may be a text or a choice all the same: `aliased_block_size: 4096`. */
function asWritten({ type }: OptionSpec, value: unknown): unknown {
  const isWord = type === "device" || type === "text" || type === "choice";
  return isWord && typeof value === "number" ? String(value) : value;
}

function readGroup(
  what: string,
  table: OptionTable,
  value: Value,
  devices: DeviceReader,
  problems: Problems,
): Record<string, unknown> | undefined {
  if (value.kind === "map") return readOptions(what, table, value, devices, problems);
  problems.add(
    value.at,
    `${what}: ${show(plainOf(value))} is not allowed`,
    `a mapping of: ${Object.keys(table).join(", ")}`,
  );
  return undefined;
}
