/**
 * Lengths that are taken from what lies below: `*` in the place of the length of a table's last line. All in sectors.
 */
import { type Stats, statSync } from "node:fs";
import {
  BlockIoError,
  type Environment,
  type LengthRule,
  SECTOR,
  type Segment,
  type TargetRegistry,
  asking,
  openFile,
  parsePath,
  parseSize,
  refuse,
  schemeOf,
  withoutLock,
} from "@dmkit/block-io";
import { openReference } from "../devices.ts";
import { readTable } from "./references.ts";

/** What stands in a table for a length that is not known yet. */
export const OPEN_LENGTH = "*";

const openLine = /^(\s*\d+\s+)\*(?=\s)/;

/** Whether the last line of a table has `*` for its length. */
export function hasOpenLength(table: string): boolean {
  return openLine.test(lastLine(table).line);
}

/** A table with a length in the place of the `*` of its last line; unchanged if it has none. */
export function withLength(table: string, sectors: number): string {
  return withLastLine(table, (line) =>
    line.replace(openLine, (_all, before: string) => `${before}${sectors}`),
  );
}

/** The other way round: `*` for the length of the last line. */
export function withOpenLength(table: string): string {
  return withLastLine(table, (line) => line.replace(/^(\s*\d+\s+)\d+/, `$1${OPEN_LENGTH}`));
}

function withLastLine(table: string, change: (line: string) => string): string {
  const { start, line } = lastLine(table);
  return table.slice(0, start) + change(line) + table.slice(start + line.length);
}

/** The last line that has words. */
function lastLine(table: string): { readonly start: number; readonly line: string } {
  let start = 0;
  let last = { start, line: "" };
  for (const line of table.split("\n")) {
    if (/^\s*[^\s#]/.test(line)) last = { start, line };
    start += line.length + 1;
  }
  return last;
}

/** Where a line takes its length from. Throws `EPARSE` where its target cannot tell. */
export function ruleOf({ target, options }: Segment): LengthRule {
  const rule = target.stack?.length?.(options);
  if (rule !== undefined) return rule;
  throw refuse(
    undefined,
    "EPARSE",
    `${target.name} needs a length: what lies below does not tell it`,
    `Write the number of sectors in the place of ${OPEN_LENGTH}.`,
    "parse",
  );
}

/** Throws `EINVAL` for a length of 0. */
export function requireLength(sectors: number, rule: LengthRule, device: string): number {
  if (Number.isSafeInteger(sectors) && sectors > 0) return sectors;
  const below = rule.parts.map(({ of }) => of).join(", ");
  throw refuse(
    device,
    "EINVAL",
    `nothing is left of ${below} for a device`,
    "Give a larger device, a smaller offset, or say how large this one is.",
  );
}

/** @param bytesOf the size of a path, URI or `dm:NAME`. */
export async function lengthOf(
  rule: LengthRule,
  bytesOf: (reference: string) => Promise<number>,
): Promise<number> {
  const rooms: number[] = [];
  for (const { of, offset } of rule.parts) rooms.push(roomOf(await bytesOf(of), offset, rule));
  return Math.min(...rooms) * rule.parts.length;
}

/** The same where all sizes are known already; undefined if one is not. */
export function knownLength(
  rule: LengthRule,
  bytesOf: (reference: string) => number | undefined,
): number | undefined {
  const rooms: number[] = [];
  for (const { of, offset } of rule.parts) {
    const bytes = sizeInName(of) ?? bytesOf(of);
    if (bytes === undefined) return undefined;
    rooms.push(roomOf(bytes, offset, rule));
  }
  return Math.min(...rooms) * rule.parts.length;
}

function roomOf(bytes: number, offset: number, { multiple, parts }: LengthRule): number {
  // All parts together are not longer than a device can be.
  const most = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR / parts.length);
  const room = Math.min(Math.floor(bytes / SECTOR) - offset, most);
  return Math.max(0, Math.floor(room / multiple) * multiple);
}

/** `mem:64M` says itself how large it is. */
function sizeInName(reference: string): number | undefined {
  const scheme = schemeOf(reference);
  if (scheme !== "mem" && scheme !== "null") return undefined;
  const text = reference.slice(reference.indexOf(":") + 1);
  return text === "" ? undefined : parseSize(text);
}

/** Reads a table whose last line may have an open length, which is 1 then. Errors: EPARSE, ENOENT. */
export function readOpenTable(table: string, targets: TargetRegistry): readonly Segment[] {
  return readTable(withLength(table, 1), targets);
}

/** Undefined where there is nothing. Errors: EACCES, ENOENT (a part of the path is no folder) and the like. */
export function statOf(path: string): Stats | undefined {
  return asking({ device: path, op: "open" }, () => statSync(path, { throwIfNoEntry: false }));
}

/** The path that a reference means all of; undefined for a partition, or a URI. */
function wholePath(reference: string): string | undefined {
  const { path, partition } = parsePath(reference);
  return schemeOf(reference) === undefined && partition === undefined ? path : undefined;
}

/** Bytes of a regular file that is there, or of one that would be made; undefined for all else. */
export function fileSize(
  reference: string,
  made: readonly { readonly path: string; readonly size: number }[] = [],
): number | undefined {
  const path = wholePath(reference);
  const found = path === undefined ? undefined : statOf(path);
  if (found !== undefined) return found.isFile() ? found.size : undefined;
  return made.find((one) => one.path === path)?.size;
}

/** Bytes of a path or URI, whoever uses it. Errors: those of opening. */
export async function bytesOf(reference: string, environment: Environment): Promise<number> {
  const known = fileSize(reference);
  if (known !== undefined) return known;
  const path = wholePath(reference);
  // Without a lock: the table that is being exchanged may have it.
  const opened =
    path === undefined
      ? await openReference(withoutLock(reference), "read", environment, "looks").catch((error: unknown) => {
          throw asGiven(error, reference);
        })
      : await openFile(path, { readOnly: true, lock: false, environment });
  try {
    return opened.size;
  } finally {
    await opened.close();
  }
}

/** The error names what somebody wrote, not what it was opened as. */
function asGiven(error: unknown, reference: string): unknown {
  if (!(error instanceof BlockIoError) || error.device !== withoutLock(reference)) return error;
  return refuse(reference, error.code, error.reason, error.hint, error.op);
}
