/** What table lines refer to: other named devices, paths, and memory that is gone when the table is closed. */
import { resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import {
  BlockIoError,
  type FilesBelow,
  type Segment,
  type TargetRegistry,
  absoluteTexts,
  fileKey,
  identityOf,
  parseTable,
  replaceReferences,
  schemeOf,
  withoutOptions,
} from "@dmkit/block-io";
import { absoluteUri } from "../devices.ts";
import { targets as allTargets } from "../targets.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._+@:=#-]{0,126}$/;

/** Throws `EINVAL` for what cannot be the name of a device. */
export function checkDeviceName(name: string): string {
  if (NAME.test(name)) return name;
  throw new BlockIoError(`${JSON.stringify(name)} cannot be the name of a device`, {
    code: "EINVAL",
    op: "parse",
    hint: "Take 1 to 127 letters, digits and . _ + @ : = # -, a letter or digit first.",
  });
}

/** A name a device can have, made of what is no such name. */
export function toDeviceName(text: string): string {
  const name = text
    .replaceAll(/[^A-Za-z0-9._+@:=#-]/gu, "_")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 127);
  return NAME.test(name) ? name : "default";
}

/** Names of the devices a table refers to as `dm:NAME`. */
export function deviceReferences(segments: readonly Segment[]): string[] {
  return [...referencesOf(segments)]
    .filter((reference) => schemeOf(reference) === "dm")
    .map((reference) => reference.slice(3));
}

/** What the lines of a table stand on, in order: paths, URIs, `dm:NAME`. */
export function lowerReferences(table: string, targets?: TargetRegistry): string[] {
  return table === "" ? [] : [...referencesOf(readTable(table, targets))];
}

/** Whether a table stands on a file, by whatever name. */
export function refersTo(table: string, path: string, targets: TargetRegistry): boolean {
  if (schemeOf(path) !== undefined) return false;
  const file = identityOf(path);
  return lowerReferences(table, targets).some((reference) => identityOf(reference) === file);
}

/** The text of a table with other names for the devices it refers to. */
export function renameReferences(table: string, rename: (name: string) => string): string {
  // A path in quotes may look like one.
  return table.replaceAll(/"(?:[^"\\]|\\.)*"|(?<=\s)dm:(\S+)/g, (all, name: string | undefined) =>
    name === undefined ? all : `dm:${rename(name)}`,
  );
}

/** A table whose relative paths start from `folder`. */
export function resolvePaths(
  segments: readonly Segment[],
  folder: string,
  targets?: TargetRegistry,
): readonly Segment[] {
  const absolute = (reference: string): string => {
    if (schemeOf(reference) === undefined) return resolve(folder, reference);
    // The path of a socket is one, too. What is wrong with a URI is told by who opens it.
    try {
      return absoluteUri(reference, folder, targets);
    } catch {
      return reference;
    }
  };
  return segments.map((segment) => ({
    ...segment,
    options: absoluteTexts(
      segment.target.options,
      replaceReferences(segment.target.options, segment.options, absolute),
      folder,
    ),
  }));
}

/** Why closing this table loses data, or undefined: what it keeps in memory. */
export function memoryOf(segments: readonly Segment[]): string | undefined {
  const disk = segments.find(({ target, options }) => target.inMemory?.(options));
  if (disk !== undefined) return disk.target.name;
  return [...referencesOf(segments)].find((reference) => schemeOf(reference) === "mem");
}

/** Whether a table has a line that finds what this one has on its devices: the same target over the same ones. */
export function hasLineOver(segments: readonly Segment[], line: Segment): boolean {
  const below = identitiesBelow(line);
  // What is in memory is another device every time.
  if (below.some((reference) => schemeOf(reference) === "mem")) return false;
  return segments.some((other) => sameLine(other, line, below));
}

/** Whether two lines are the same target over the same devices. @param below what the other one stands on. */
export function sameLine(one: Segment, other: Segment, below?: readonly string[]): boolean {
  return (
    one.target === other.target && isDeepStrictEqual(identitiesBelow(one), below ?? identitiesBelow(other))
  );
}

/**
 * A table whose lines overwrite nothing that lines before have made: words for that have counted for a line over the same
 * devices. What those have now may be all there is.
 */
export function madeBefore(segments: readonly Segment[], before: readonly Segment[]): readonly Segment[] {
  return segments.map((line) =>
    before.some((old) => sameLine(old, line))
      ? {
          ...line,
          options: withoutOptions(
            line.target,
            line.options as object,
            ({ overwrites }) => overwrites === true,
          ),
        }
      : line,
  );
}

function identitiesBelow(line: Segment): readonly string[] {
  return [...referencesOf([line])].map(identityOf).toSorted();
}

/** Reads a table. Errors: EPARSE, ENOENT. @param targets default: all the app knows. */
export function readTable(text: string, targets: TargetRegistry = allTargets): readonly Segment[] {
  return parseTable(text, targets);
}

/** The first path of a table behind which there is something else than there was. */
export function replacedIn(segments: readonly Segment[], before: FilesBelow): string | undefined {
  return [...referencesOf(segments)].find((reference) => {
    const was = schemeOf(reference) === undefined ? before.get(fileKey(reference)) : undefined;
    // A path behind which there is nothing is its own identity.
    return was !== undefined && ![was, reference].includes(identityOf(reference));
  });
}

/** What the files of a table are called, see {@link FilesBelow}. */
export function fileKeysOf(segments: readonly Segment[]): ReadonlySet<string> {
  const paths = [...referencesOf(segments)].filter((reference) => schemeOf(reference) === undefined);
  return new Set(paths.map(fileKey));
}

function referencesOf(segments: readonly Segment[]): Set<string> {
  const references = new Set<string>();
  for (const { target, options } of segments) {
    replaceReferences(target.options, options, (reference) => {
      references.add(reference);
      return undefined;
    });
  }
  return references;
}
