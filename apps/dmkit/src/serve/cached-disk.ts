/**
 * A disk behind a write cache without a table: the one there is by default, and `--cache FAST SLOW`.
 *
 * Invariant: what is there is not written over, and no file is made beside one that may hold what it would lack, but by an
 * explicit word: a new cache beside an old disk is a cache that has lost what it held, or the first one.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  BlockIoError,
  type Environment,
  type TargetRegistry,
  codeOf,
  makeFolders,
  openFile,
  parseOptions,
  newPath,
  parsePath,
  printTable,
  schemeOf,
  shellQuote,
  withoutLock,
} from "@dmkit/block-io";
import { withNewFiles } from "../destination.ts";
import { withOpenLength } from "../manager/lengths.ts";
import { defaultDisk } from "../targets.ts";

interface Part {
  /** The option of the target. */
  readonly option: string;
  /** A path or a URI. */
  readonly reference: string;
  /** Bytes of the file where it is missing and may be made. */
  readonly size: number | undefined;
}

export interface Pair {
  readonly disk: Part;
  readonly cache: Part;
  /** Whether a cache may be made where only that is missing. */
  readonly mayMakeCache: boolean;
  /** The folder that is made for them. */
  readonly folder: string | undefined;
}

/** What of {@link WhatToServe} decides about it. */
export interface PairOptions {
  readonly readOnly: boolean;
  readonly preallocate: boolean;
  readonly lock?: boolean | undefined;
  readonly createSize?: number | undefined;
  readonly cache?: string | undefined;
  readonly cacheSize?: number | undefined;
  readonly data: string;
}

// A cache that is made beside a disk that is made has a tenth of it, and what its format needs at the least.
const SHARE = 10;
const LEAST = 64 * 2 ** 20;
const MIB = 2 ** 20;

/** @param image the only one, or undefined for the default disk. Undefined: it goes without a cache. */
export function pairOf(image: string | undefined, what: PairOptions): Pair | undefined {
  const { createSize, cache, cacheSize, data } = what;
  const [disk = "", other = ""] = Object.keys(defaultDisk.files).toSorted((one) =>
    one === defaultDisk.disk ? -1 : 1,
  );
  if (image === undefined) {
    const part = (option: string, size?: number): Part => {
      const { file = "", size: usual } = defaultDisk.files[option] ?? {};
      return { option, reference: join(data, file), size: size ?? usual };
    };
    return { disk: part(disk, createSize), cache: part(other), mayMakeCache: false, folder: data };
  }
  if (cache === undefined) return undefined;
  const share =
    createSize === undefined ? undefined : Math.max(LEAST, Math.ceil(createSize / SHARE / MIB) * MIB);
  return {
    disk: { option: disk, reference: image, size: createSize },
    cache: { option: other, reference: cache, size: cacheSize ?? share },
    mayMakeCache: cacheSize !== undefined,
    folder: undefined,
  };
}

/** Makes the files that are missing and may be made. Resolves with their paths. Errors: `ENOENT`, those of making them. */
export async function makePair(
  { disk, cache, mayMakeCache, folder }: Pair,
  { readOnly, preallocate, lock = true }: PairOptions,
  environment: Environment,
): Promise<readonly string[]> {
  if (readOnly) return [];
  if (folder !== undefined) makeFolder(folder);
  const parts = [disk, cache];
  const missing = parts.filter(({ reference }) => isMissing(reference));
  const [only, second] = missing;
  if (second === undefined && only === disk) throw half(disk, cache);
  if (second === undefined && only === cache && !mayMakeCache)
    throw folder === undefined ? noCache(cache) : half(cache, disk);
  const made = missing.filter(({ size }) => size !== undefined);
  // Who opens it tells what is missing; nothing is made beside that.
  if (made.length < missing.length) return [];
  const paths = Object.fromEntries(made.map(({ option, reference }) => [option, newPath(reference).path]));
  await withNewFiles(paths, environment, async (names) => {
    for (const { option, size = 0 } of made)
      await (await openFile(names[option] ?? "", { createSize: size, lock, environment })).close();
  });
  for (const { reference } of preallocate ? parts.filter((one) => schemeOf(one.reference) === undefined) : [])
    await (await openFile(parsePath(reference).path, { preallocate: true, lock, environment })).close();
  return Object.values(paths);
}

/** As long as the disk is. */
export function pairTable(
  { disk, cache }: Pair,
  { lock = true }: PairOptions,
  targets: TargetRegistry,
): string {
  const target = targets.get(defaultDisk.target);
  const named = Object.fromEntries(
    [disk, cache].map(({ option, reference }) => [option, lock ? reference : withoutLock(reference)]),
  );
  const options = parseOptions(target.options, { ...target.stack?.defaults?.(named), ...named }, target.name);
  return withOpenLength(printTable([{ start: 0, length: 1, target, options }]));
}

function isMissing(reference: string): boolean {
  return schemeOf(reference) === undefined && !existsSync(parsePath(reference).path);
}

function noCache({ reference }: Part): BlockIoError {
  return new BlockIoError("is missing, and the disk it is to cache is there", {
    code: "ENOENT",
    device: reference,
    op: "open",
    hint: `Nothing was made. If the disk had no cache before, or that one was written back, make one, e.g. with: --cache-size 1G. If ${shellQuote(reference)} is lost, so is what it held.`,
  });
}

/** A new file beside an old one would be a cache that has lost what it held, or a disk that has lost everything. */
function half({ reference: path }: Part, { reference: there }: Part): BlockIoError {
  return new BlockIoError(`is missing, and ${there}, which goes with it, is there`, {
    code: "ENOENT",
    device: path,
    op: "open",
    hint: `Nothing was made. Put it back; or, if it is lost and a new disk is to be made, move ${there} away first.`,
  });
}

function makeFolder(path: string): void {
  try {
    makeFolders(path, 0o700);
  } catch (error) {
    const code = codeOf(error);
    throw new BlockIoError(
      code === "EEXIST" ? "is no folder" : `the folder cannot be made: ${(error as Error).message}`,
      {
        code,
        device: path,
        op: "open",
        cause: error,
        hint: "Give a folder for the default disk that is there or can be made: --data FOLDER",
      },
    );
  }
}
