/**
 * References to archives.
 *
 *     [archive:]STORE/DISK[@MOMENT][?PARAMETERS OF THE BUCKET]
 *
 * STORE is `s3://BUCKET[/PREFIX]` or a folder, which has no parameters: a `?` is part of its name. MOMENT is the id of a segment, or a time as ISO 8601 has it; without one
 * the newest is meant.
 */
import { type BlockIoError, refuse } from "@dmkit/block-io";
import { absoluteImageReference, isName } from "@dmkit/image";
import { isS3Uri, splitParameters } from "@dmkit/object-store";
import type { When } from "../device/history.ts";

/** A disk in a store, and a moment of it. */
export interface ArchiveReference {
  /** As `openStore` takes it. */
  readonly store: string;
  readonly disk: string;
  readonly when: When;
}

/** Throws `EPARSE` for what is no reference. */
export function parseArchiveReference(text: string): ArchiveReference {
  const [path, query] = splitParameters(text.replace(/^archive:/, ""));
  const slash = path.lastIndexOf("/");
  const [before, moment] = splitMoment(path);
  const disk = before.slice(slash + 1);
  const store = path.slice(0, slash);
  if (slash < 0 || /^s3:\/?$/i.test(store) || (isS3Uri(path) && !/^s3:\/\/[^/]/i.test(store))) {
    throw malformed(
      text,
      "names no disk in a store",
      "Write STORE/DISK, e.g. s3://bucket/vm1 or /backup/vm1.",
    );
  }
  if (!isName(disk)) {
    throw malformed(
      text,
      `names a disk ${JSON.stringify(disk)}`,
      "Names have a-z, 0-9 and, between these, . _ -",
    );
  }
  return {
    store: (store === "" ? "/" : store) + query,
    disk,
    when: moment === "" ? "newest" : parseWhen(moment.slice(1)),
  };
}

/** A disk where no moment can be meant. Throws `EPARSE`. */
export function parseDiskReference(text: string): ArchiveReference {
  const reference = parseArchiveReference(text);
  if (reference.when === "newest") return reference;
  throw malformed(text, "names a moment where a disk is meant", "Write STORE/DISK.");
}

/** A moment: the id of a segment, or a time with a date. Throws `EPARSE`. */
export function parseWhen(text: string): When {
  if (/^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text))) return { id: Number(text) };
  const time = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(time) && time >= 0) return { time };
  throw malformed(text, "is no moment", "Give the id of a segment, or a time such as 2026-01-31T12:00:00Z.");
}

/** The same reference with a moment in place of the one it has. */
export function atMoment(text: string, moment: string): string {
  const [path, query] = splitParameters(text.replace(/^archive:/, ""));
  const [disk] = splitMoment(path);
  return `${text.startsWith("archive:") ? "archive:" : ""}${disk}@${moment}${query}`;
}

/** The reference of a disk in a store, as {@link parseArchiveReference} gives that, with a moment. */
export function pinnedReference(store: string, disk: string, id: number): string {
  const [path, query] = splitParameters(store);
  return `archive:${path.replace(/\/$/, "")}/${disk}@${id}${query}`;
}

/** The reference with paths made absolute: a relative one begins in `folder`. Throws `EPARSE`. */
export function absoluteArchiveReference(text: string, folder: string): string {
  parseArchiveReference(text);
  const [path, query] = splitParameters(text.replace(/^archive:/, ""));
  const [disk, moment] = splitMoment(path);
  const absolute = absoluteImageReference(disk + query, folder).slice("image:".length);
  const [before, after] = splitParameters(absolute);
  return `archive:${before}${moment}${after}`;
}

/** What stands before the moment, and the moment with its `@`. */
function splitMoment(path: string): readonly [disk: string, moment: string] {
  const at = path.indexOf("@", path.lastIndexOf("/"));
  return at < 0 ? [path, ""] : [path.slice(0, at), path.slice(at)];
}

function malformed(text: string, reason: string, hint: string): BlockIoError {
  return refuse(undefined, "EPARSE", `${JSON.stringify(text)} ${reason}`, hint, "parse");
}
