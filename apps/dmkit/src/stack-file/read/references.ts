/**
 * What a device stands on: `dm:NAME` or the bare name of another device of the file, a URI, or a path.
 *
 * A bare word that is the name of a device means the device; `./word` means the file.
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { BlockIoError, type UriScheme, builtinSchemes, parseSize, schemeOf } from "@dmkit/block-io";
import type { Problems } from "../yaml.ts";

/** As in `dm:disk`. */
export const DEVICE_SCHEME = "dm";

export interface ReferenceContext {
  readonly problems: Problems;
  /** Relative paths start here. */
  readonly folder: string;
  /** All devices of the file, whether they are right or not. */
  readonly names: ReadonlySet<string>;
  /** Words that were taken for paths and could be misspelt names, for {@link refuseMisspelt}. */
  readonly paths: BareWord[];
  /** URI schemes besides `dm`, `mem` and `null`. */
  readonly schemes: Readonly<Record<string, UriScheme>>;
}

/** A word without a slash that was taken for the path of a file. */
export interface BareWord {
  readonly word: string;
  readonly path: string;
  readonly at: number;
}

/** A word like the name of a device, where no such file is and none will be made, was meant for that device. */
export function refuseMisspelt(
  words: readonly BareWord[],
  names: ReadonlySet<string>,
  made: { has(path: string): boolean },
  problems: Problems,
): void {
  for (const { word, path, at } of words) {
    // One or two letters are like everything.
    if (word.length < 3 || made.has(path) || existsSync(path)) continue;
    const meant = problems.closest(word, names);
    if (meant === undefined) continue;
    problems.add(
      at,
      `there is no device "${word.slice(0, 60)}", and no such file`,
      `devices: ${listed(names)}; write ./ before a file that is not there yet`,
      meant,
    );
  }
}

/** The reference in the form plans have it; undefined for one that cannot be, with the reason among the problems. */
export function resolveReference(word: string, at: number, context: ReferenceContext): string | undefined {
  const { names, folder, problems } = context;
  if (/[\r\n]/.test(word)) {
    problems.add(at, "a line break in the name of a device", "a path, a URI, or the name of a device");
    return undefined;
  }
  const known = [DEVICE_SCHEME, ...Object.keys(builtinSchemes), ...Object.keys(context.schemes)];
  const scheme = schemeOf(word);
  // A device may be called `a:b`, but not take `mem:64M` for itself.
  const isUri = scheme !== undefined && known.includes(scheme);
  if (!isUri && names.has(word)) return `${DEVICE_SCHEME}:${word}`;
  if (scheme === undefined) {
    const path = resolve(folder, word);
    if (names.size > 0 && !word.includes("/")) context.paths.push({ word, path, at });
    return path;
  }
  if (scheme === DEVICE_SCHEME) {
    const name = word.slice(DEVICE_SCHEME.length + 1);
    if (names.has(name)) return `${DEVICE_SCHEME}:${name}`;
    problems.add(
      at,
      `there is no device "${name.slice(0, 60)}"`,
      `devices: ${listed(names)}`,
      problems.closest(name, names),
    );
    return undefined;
  }
  if (!isUri) {
    problems.add(
      at,
      `nobody knows how to open "${scheme}:"`,
      `schemes: ${known.join(", ")}; write ./ before a path that looks like one`,
      problems.closest(scheme, known),
    );
    return undefined;
  }
  try {
    return checkUri(word, scheme, context);
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    problems.add(at, `"${word.slice(0, 200)}": ${error.reason}`, error.hint);
    return undefined;
  }
}

/** Throws what the opener would throw. A relative path of a socket starts at the file's folder, as all paths do. */
function checkUri(uri: string, scheme: string, { folder, schemes }: ReferenceContext): string {
  if (Object.hasOwn(builtinSchemes, scheme)) {
    const size = uri.slice(uri.indexOf(":") + 1);
    const bytes = size === "" && scheme === "null" ? 512 : parseSize(size);
    if (bytes > 0 && bytes % 512 === 0) return uri;
    throw new BlockIoError(`${bytes} bytes are not a positive number of 512-byte sectors`, {
      code: "EINVAL",
      hint: "a size such as 64M",
    });
  }
  return schemes[scheme]?.absolute(uri, folder) ?? uri;
}

/** The name of the device a reference is to, if it is to one. */
export function deviceNamed(reference: string): string | undefined {
  return reference.startsWith(`${DEVICE_SCHEME}:`) ? reference.slice(DEVICE_SCHEME.length + 1) : undefined;
}

/** For messages: some names of many. */
export function listed(names: Iterable<string>): string {
  const all = [...names];
  if (all.length === 0) return "none";
  return all.length <= 12 ? all.join(", ") : `${all.slice(0, 12).join(", ")} … (${all.length})`;
}
