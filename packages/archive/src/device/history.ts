/**
 * The log up to a moment: which checkpoint to begin at, and the segments from there on, in order and without a gap.
 *
 * A moment is a segment's id, or a time: then the disk has what was acknowledged up to then, and is as it was after the
 * last segment that was closed by that time.
 */
import { type Ahead, codeOf, inOrder, refuse } from "@dmkit/block-io";
import type { LogSegment } from "../format/log-object.ts";
import type { Checkpoint } from "../format/records.ts";
import type { Archive, LogObject, LogPlace } from "./archive.ts";

// Bytes that are fetched ahead, in 32 log objects at the most. Where flushes wait for the store objects are small, and it is
// their number that takes the time.
const AHEAD: Ahead<LogPlace> = {
  most: 16 << 20,
  weightOf: ({ size }) => Math.max(size, (16 << 20) / 32),
};

/** When: after a segment, by its id; at a time, in milliseconds since 1970; or as late as is known. */
export type When = { readonly id: number } | { readonly time: number } | "newest";

/** Where a moment begins. */
export interface History {
  readonly checkpoint: Checkpoint;
  /** Log objects behind it, up to the moment or further. */
  readonly objects: readonly LogPlace[];
  /** Whether what follows them was collected. */
  readonly isCut?: boolean;
  /** The last segment that the next checkpoint has: where the log ends before it, what is between them was collected. */
  readonly next?: number | undefined;
}

/** A segment with its place. */
export interface HistoricSegment extends LogSegment {
  readonly id: number;
  /** The log object, counted from 0. */
  readonly object: number;
}

/** `EINVAL` for a moment that there is not; `ENOENT` for one that was collected. */
export async function historyOf(archive: Archive, when: When): Promise<History> {
  const newest = await archive.newestEpoch();
  const until = newest?.number ?? 0;
  if (when === "newest") return archive.walk(until);
  const checkpoints = await archive.checkpoints();
  let next: number | undefined;
  for (const position of checkpoints.toReversed()) {
    const checkpoint = await archive.checkpoint(position);
    if (isReached(checkpoint, when))
      return { checkpoint, ...(await archive.walkBehind(position, until)), next };
    next = checkpoint.id;
  }
  throw refuse(
    archive.name,
    "EINVAL",
    "the disk did not exist at that time",
    "Give a later one; dmkit archive info tells when it began.",
  );
}

function isReached({ id, time }: Checkpoint, when: Exclude<When, "newest">): boolean {
  return "id" in when ? id <= when.id : time <= when.time;
}

/** The segments of a history up to the moment. `ENOENT` for what was collected, `EIO` for what is damaged or lost. */
export async function* segmentsOf(
  archive: Archive,
  { checkpoint, objects, isCut = false, next }: History,
  when: When,
): AsyncGenerator<HistoricSegment> {
  const last = when !== "newest" && "id" in when ? when.id : Number.POSITIVE_INFINITY;
  const latest = when !== "newest" && "time" in when ? when.time : Number.POSITIVE_INFINITY;
  let { id } = checkpoint;
  // What comes behind the moment need not be whole.
  if (id === last) return;
  let number = -1;
  for await (const object of inOrder(objects, AHEAD, (place) => objectOf(archive, place))) {
    number += 1;
    if (object.id !== id + 1) {
      const hint = "Restore the objects that are missing from a copy of the bucket.";
      throw refuse(
        archive.name,
        "EIO",
        `segments ${id + 1} to ${object.id - 1} are missing in the log`,
        hint,
        "read",
      );
    }
    for (const segment of object.contents) {
      if (segment.time > latest) return;
      id += 1;
      yield { ...segment, id, object: number };
      if (id === last) return;
    }
  }
  if (isCut || (next !== undefined && id < next)) throw collected(archive);
  if (last === Number.POSITIVE_INFINITY) return;
  const reason = `there is no segment ${last}: the last one in the archive is ${id}`;
  throw refuse(archive.name, "EINVAL", reason, `Give one up to ${id}.`);
}

async function objectOf(archive: Archive, place: LogPlace): Promise<LogObject> {
  try {
    return await archive.object(place);
  } catch (error) {
    if (codeOf(error) === "ENOENT") throw collected(archive, error);
    throw error;
  }
}

function collected(archive: Archive, cause?: unknown): Error {
  const error = refuse(
    archive.name,
    "ENOENT",
    "what that moment needs was collected",
    "Give a later one; dmkit archive keep saves a moment from the next collection. If it was the newest, run the command again.",
  );
  if (cause !== undefined) error.cause = cause;
  return error;
}
