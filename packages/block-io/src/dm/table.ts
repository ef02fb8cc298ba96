/**
 * Device-mapper tables: one line a segment, `<start> <length> <target> <arguments…>`, in sectors.
 *
 * Invariant of a parsed table: segments are in order, the first starts at sector 0, each starts where the
 * one before it ends.
 */
import { SECTOR } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import { BlockIoError, refuse } from "../contract/errors.ts";
import type { TargetRegistry } from "./registry.ts";
import { TableArguments } from "./arguments.ts";
import { type SettingsTable, setting } from "../contract/settings.ts";
import type { Holder } from "../below/claims.ts";
import type { FilesBelow } from "../below/files.ts";
import type { DeviceSchemes } from "../below/schemes.ts";
import type { AnyTarget, OpenContext } from "./target.ts";

/** One line of a table. */
export interface Segment {
  /** First sector. */
  readonly start: number;
  /** Sectors. */
  readonly length: number;
  readonly target: AnyTarget;
  /** What the target's `parse` made of the arguments. */
  readonly options: unknown;
}

/** How a table is opened. */
export interface OpenTableOptions {
  /** Default: `table`. */
  readonly name?: string;
  readonly environment: Environment;
  /** Open every device below read-only. Default false. */
  readonly readOnly?: boolean;
  /** Openers for URI schemes besides `mem:` and `null:`. */
  readonly schemes?: DeviceSchemes;
  /** Who uses the devices below, for others who ask for them. Default: `table NAME`. */
  readonly holder?: Holder;
  /** What references mean, whatever they may have come to mean: see `TableDevice.pins`. */
  readonly pins?: ReadonlyMap<string, string>;
  /** Told how far a target has come that takes long to open: see {@link OpenContext}. */
  readonly progress?: OpenContext["progress"];
  /** What its files have to be: see `TableDevice.files`. */
  readonly files?: FilesBelow | undefined;
}

/** What each takes. */
export const openTableSettings: SettingsTable<OpenTableOptions> = {
  name: setting.anyText,
  environment: setting.needed(setting.environment),
  readOnly: setting.flag,
  schemes: setting.object,
  holder: setting.object,
  pins: setting.object,
  progress: setting.call,
  files: setting.object,
};

// The largest device a safe integer of bytes can address.
const MAX_SECTORS = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR);

/** Reads a table. `#` starts a comment. Throws `EPARSE` with the line. */
export function parseTable(text: string, registry: TargetRegistry): readonly Segment[] {
  const segments: Segment[] = [];
  let end = 0;
  for (const [index, line] of text.split("\n").entries()) {
    const words = splitWords(line, index + 1);
    if (words.length === 0) continue;
    const segment = atLine(index + 1, () => parseLine(words, registry));
    atLine(index + 1, () => checkPlace(segment, end));
    segments.push(segment);
    end = segment.start + segment.length;
  }
  if (segments.length === 0)
    throw problem("the table has no lines", `Write lines of: <start> <length> <target> …`);
  return segments;
}

/** The table's text, one line a segment; parses back to the same segments. */
export function printTable(segments: readonly Segment[]): string {
  return segments.map((segment) => printSegment(segment, segment.target.print(segment.options))).join("\n");
}

/** A line of a table with the target's arguments given. */
export function printSegment({ start, length, target }: Segment, args: readonly string[]): string {
  return [start, length, target.name, ...args.map(quoteTableWord)].join(" ");
}

/** Sectors of the whole table. */
export function tableLength(segments: readonly Segment[]): number {
  const last = segments.at(-1);
  return last === undefined ? 0 : last.start + last.length;
}

function parseLine(words: readonly string[], registry: TargetRegistry): Segment {
  const [start, length, name, ...rest] = words;
  if (start === undefined || length === undefined || name === undefined) {
    throw problem(
      "a line needs a start, a length and a target",
      "Write: <start> <length> <target> <arguments…>",
    );
  }
  const target = registry.get(name);
  const args = new TableArguments(rest);
  try {
    const options = target.parse(args);
    args.end();
    return {
      start: sectorNumber("start", start),
      length: sectorNumber("length", length),
      target,
      options,
    };
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    throw problem(
      `${target.name}: ${error.reason}`,
      error.hint ?? `Usage: <start> <length> ${target.name} ${target.synopsis}`,
    );
  }
}

function checkPlace({ start, length }: Segment, end: number): void {
  if (length === 0) throw problem("the length is 0 sectors", "Give the number of 512-byte sectors.");
  if (length > MAX_SECTORS - start) {
    throw problem(
      `${length} sectors from sector ${start} on end beyond what can be addressed`,
      `The last line may end at sector ${MAX_SECTORS}.`,
    );
  }
  if (start === end) return;
  const what = start < end ? "overlaps the line before it" : "leaves a gap after the line before it";
  throw problem(
    end === 0 ? `the first line starts at sector ${start}` : `the line starts at sector ${start} and ${what}`,
    `Start it at sector ${end}.`,
  );
}

function sectorNumber(name: string, word: string): number {
  const value = /^\d+$/.test(word) ? Number(word) : Number.NaN;
  if (value <= MAX_SECTORS) return value;
  if (word === "*" && name === "length")
    throw problem(
      "the length is *, which only the last line of a table can have",
      "Give the number of sectors.",
    );
  throw problem(
    `${name} "${word}" is not a number of sectors`,
    `Sectors are whole numbers, 0 … ${MAX_SECTORS}; a sector has 512 bytes.`,
  );
}

function atLine<T>(line: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    throw new BlockIoError(`table line ${line}: ${error.reason}`, {
      code: error.code,
      op: "parse",
      cause: error,
      hint: error.hint,
    });
  }
}

function problem(reason: string, hint: string | undefined): BlockIoError {
  return refuse(undefined, "EPARSE", reason, hint, "parse");
}

/** Words separated by white space; double quotes keep spaces, a backslash keeps the next character. */
function splitWords(line: string, number: number): string[] {
  const words: string[] = [];
  const pattern = /"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"#]\S*)|(#.*)|(\S)/g;
  for (const [, quoted, bare, comment] of line.matchAll(pattern)) {
    if (comment !== undefined) break;
    if (quoted !== undefined) words.push(quoted.replaceAll(/\\(.)/g, "$1"));
    else if (bare !== undefined) words.push(bare);
    else throw problem(`table line ${number}: a quote is not closed`, 'Write names with spaces as "name".');
  }
  return words;
}

/** A word as a table line has it. */
export function quoteTableWord(word: string): string {
  return /^[^\s"#]\S*$/.test(word) ? word : `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}
