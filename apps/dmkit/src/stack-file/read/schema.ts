/**
 * The fixed parts of a stack file: which keys there are, and what each may be. What depends on a target (its options)
 * or on other parts of the file (names, references) is checked elsewhere.
 *
 * An issue's message has up to three lines: what is wrong, what is allowed, which word was probably meant.
 */
import { BlockIoError, type LogLevel, closest, describeRange, parseOption, parseSize } from "@dmkit/block-io";
import { MOST_CONNECTIONS } from "@dmkit/nbd";
import * as v from "valibot";
import { accessWords, wordOf } from "../../serve/listen/access.ts";
import { type TlsValues, tlsWords } from "../../serve/listen/tls.ts";
import { show } from "../problem.ts";
import { type Problems, type Value, locate, plainOf } from "../yaml.ts";

type Schema<Output> = v.GenericSchema<unknown, Output>;

/** Undefined for a key that is not there. */
type Shape<Output> = { readonly [Key in keyof Output]: Schema<Output[Key]> };

/** The value as the schema reads it; undefined if it does not fit, with the reasons among the problems. */
export function check<Output>(schema: Schema<Output>, value: Value, problems: Problems): Output | undefined {
  const result = v.safeParse(schema, plainOf(value));
  if (result.success) return result.output;
  for (const { message, path = [] } of result.issues) {
    const keys = path.map(({ key }) => key);
    const isKey = path.at(-1)?.origin === "key";
    const [what = "", allowed, meant] = message.split("\n");
    const named =
      isKey || keys.length === 0 || what.includes("is missing") ? what : `${String(keys.at(-1))}: ${what}`;
    problems.add(isKey ? locateKey(value, keys) : locate(value, keys), named, allowed || undefined, meant);
  }
  return undefined;
}

function locateKey(value: Value, keys: readonly unknown[]): number {
  let here: Value | undefined = value;
  for (const key of keys.slice(0, -1)) {
    here = here?.kind === "map" ? here.entries.get(String(key))?.value : undefined;
  }
  const entry = here?.kind === "map" ? here.entries.get(String(keys.at(-1))) : undefined;
  return entry?.keyAt ?? locate(value, keys);
}

/** A value that `read` understands; it throws or answers undefined for any other. */
function scalar<Output>(allowed: string, read: (value: unknown) => Output | undefined): Schema<Output> {
  return v.pipe(
    v.unknown(),
    v.rawTransform<unknown, Output>(({ dataset, addIssue, NEVER }) => {
      const output = attempt(read, dataset.value);
      if (output !== undefined) return output;
      addIssue({ message: `${show(dataset.value)} is not allowed\n${allowed}` });
      return NEVER;
    }),
  );
}

function attempt<Output>(read: (value: unknown) => Output | undefined, value: unknown): Output | undefined {
  try {
    return read(value);
  } catch (error) {
    if (error instanceof BlockIoError) return undefined;
    throw error;
  }
}

/** A mapping with these keys and no other. @param what it is, for messages. */
function mapping<Output>(what: string, shape: Shape<Output>): Schema<Output> {
  const names = Object.keys(shape);
  return v.pipe(
    v.custom<object>(
      (value) => typeof value === "object" && value !== null && !Array.isArray(value),
      ({ input }) => `${show(input)} is not ${what}\na mapping of: ${names.join(", ")}`,
    ),
    v.looseObject(
      shape as unknown as v.ObjectEntries,
      ({ path }) => `${String(path?.at(-1)?.key)} is missing`,
    ),
    // Runs whether the values are right or not, so that all problems are found at once.
    v.rawCheck(({ dataset, addIssue }) => {
      const input = dataset.value as object;
      for (const key of Object.keys(input)) {
        if (names.includes(key)) continue;
        const message = [unknownKey(key, what), `keys: ${names.join(", ")}`, closest(key, names) ?? ""];
        addIssue({
          message: message.join("\n").trimEnd(),
          path: [{ type: "unknown", origin: "key", input, key, value: undefined }],
        });
      }
    }),
  ) as unknown as Schema<Output>;
}

export function unknownKey(key: string, what: string): string {
  return `${what} has no "${key.slice(0, 60)}"`;
}

function optional<Output>(schema: Schema<Output>): Schema<Output | undefined> {
  return v.optional(schema);
}

function withDefault<Output>(schema: Schema<Output>, value: Output): Schema<Output> {
  return v.optional(schema, () => value) as Schema<Output>;
}

/** Anything, to be looked at elsewhere. */
const other: Schema<unknown> = v.optional(v.unknown());

function text(what: string): Schema<string> {
  return scalar(what, wordOf);
}

const flag: Schema<boolean> = scalar("true or false", (value) =>
  typeof value === "boolean" ? value : undefined,
);

function integer(min: number, max: number, unit: string): Schema<number> {
  return scalar(`${min} … ${max} ${unit}`, (value) =>
    typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max
      ? value
      : undefined,
  );
}

function choice<const Choice extends string>(choices: readonly Choice[]): Schema<Choice> {
  return scalar(choices.join(", "), (value) => choices.find((one) => one === value));
}

/** Bytes, whole sectors, more than 0. */
const sizes = `a size such as 64M or 10G: 512 … ${Number.MAX_SAFE_INTEGER - 511} bytes, in multiples of 512`;
const size: Schema<number> = scalar(sizes, (value) => {
  const bytes = typeof value === "number" ? value : parseSize(wordOf(value) ?? "");
  return Number.isSafeInteger(bytes) && bytes > 0 && bytes % 512 === 0 ? bytes : undefined;
});

/** The whole file. */
export interface FileShape {
  readonly devices: unknown;
  readonly exports: unknown;
  readonly listen: unknown;
  readonly metrics: unknown;
  readonly files: unknown;
  readonly control: string | undefined;
  readonly pidfile: string | undefined;
  readonly log: LogLevel | undefined;
  readonly "shutdown-timeout": number | undefined;
}

export const fileSchema: Schema<FileShape> = mapping<FileShape>("a stack file", {
  devices: other,
  exports: other,
  listen: other,
  metrics: other,
  files: other,
  control: optional(text("a path")),
  pidfile: optional(text("a path")),
  log: optional(choice(["debug", "info", "warn", "error"])),
  "shutdown-timeout": optional(integer(0, 3600, "seconds")),
});

/** What every way to write a device has. */
export interface DeviceShape {
  readonly target: string | undefined;
  readonly size: number | undefined;
  readonly "read-only": boolean;
}

export const deviceSchema: Schema<DeviceShape> = mapping<DeviceShape>("a device", {
  target: optional(text("a target")),
  size: optional(size),
  "read-only": withDefault(flag, false),
});

/** A file that may have to be made. */
export interface NewFileShape {
  readonly file: string;
  readonly create: number | undefined;
  readonly preallocate: boolean;
}

export const newFileSchema: Schema<NewFileShape> = mapping<NewFileShape>("a file", {
  file: text("a path"),
  create: optional(size),
  preallocate: withDefault(flag, false),
});

export interface FileDeviceShape extends NewFileShape {
  readonly size: number | undefined;
  readonly "read-only": boolean;
}

export const fileDeviceSchema: Schema<FileDeviceShape> = mapping<FileDeviceShape>("a file as a device", {
  file: text("a path or URI"),
  create: optional(size),
  preallocate: withDefault(flag, false),
  size: optional(size),
  "read-only": withDefault(flag, false),
});

export interface TableDeviceShape {
  readonly table: unknown;
  readonly "read-only": boolean;
}

export const tableDeviceSchema: Schema<TableDeviceShape> = mapping<TableDeviceShape>(
  "a device with a table",
  {
    table: other,
    "read-only": withDefault(flag, false),
  },
);

/** Lists, or one word, as the command line has them. */
const whoShape = Object.fromEntries(
  (["allow", "identities", "writers"] as const).map((word) => {
    const { takes, read } = accessWords[word];
    return [word, optional(scalar(takes, read))];
  }),
) as Shape<WhoShape>;

interface WhoShape {
  readonly allow?: readonly string[] | undefined;
  readonly identities?: readonly string[] | undefined;
  readonly writers?: readonly string[] | undefined;
}

export interface ExportShape extends WhoShape {
  readonly hidden: boolean | undefined;
  readonly device: string | undefined;
  readonly description: string | undefined;
  readonly "read-only": boolean;
  readonly strict: boolean;
  readonly "max-connections": number | undefined;
}

export const exportSchema: Schema<ExportShape> = mapping<ExportShape>("an export", {
  device: optional(text("the name of a device")),
  description: optional(text("text")),
  "read-only": withDefault(flag, false),
  strict: withDefault(flag, false),
  "max-connections": optional(integer(1, MOST_CONNECTIONS, "clients at a time")),
  ...whoShape,
  hidden: optional(flag),
});

/** The words of TLS, as the command line has them. */
const tlsShape = Object.fromEntries(
  Object.entries(tlsWords).map(([word, spec]) => [
    word,
    optional(
      spec.type === "flag" ? flag : scalar(describeRange(spec), (value) => parseOption(word, spec, value)),
    ),
  ]),
);

export interface ListenerShape extends TlsValues, WhoShape {
  readonly unix: string | undefined;
  readonly host: string | undefined;
  readonly port: number | undefined;
  readonly "allow-remote": boolean | undefined;
  readonly mode: number | undefined;
  readonly group: string | undefined;
}

const placeShape = {
  unix: optional(text("the path of a socket")),
  host: optional(text("an address")),
  port: optional(integer(0, 65_535, "(0 picks a free one)")),
  "allow-remote": optional(flag),
  mode: optional(scalar(accessWords.mode.takes, accessWords.mode.read)),
  group: optional(scalar(accessWords.group.takes, accessWords.group.read)),
};

export const listenerSchema: Schema<ListenerShape> = mapping<ListenerShape>("a place to listen", {
  ...placeShape,
  ...whoShape,
  ...tlsShape,
});

/** Without TLS, and for all who can reach it. */
export type MetricsShape = Omit<ListenerShape, keyof WhoShape | keyof TlsValues> & { readonly page: boolean };

export const metricsSchema: Schema<MetricsShape> = mapping<MetricsShape>("a place of metrics", {
  ...placeShape,
  page: withDefault(flag, false),
});
