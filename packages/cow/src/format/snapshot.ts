/**
 * What an identity says of a layer that is a snapshot: its name, and when it was made. Little-endian.
 *
 *      byte   0   8   when it was made, in milliseconds since 1970-01-01 UTC
 *             8   1   bytes of the name, 1 … 63
 *             9  63   the name in UTF-8, then zeroes
 */
import { MAX_NAME, getU8, isZero, nameProblem, setU64, setU8, tryU64 } from "@dmkit/block-io";

/** A moment of a stack that has a name: what the layer and those below it show. */
export interface Snapshot {
  readonly name: string;
  /** Milliseconds since 1970-01-01 UTC. */
  readonly made: number;
}

/** The last moment that has a date. */
export const LAST_MOMENT = 8_640_000_000_000_000;

/** Bytes that a snapshot takes in an identity. */
export const SNAPSHOT_BYTES: number = 9 + MAX_NAME;

/** What is wrong with the name of a snapshot, in words; undefined if nothing is. */
export function snapshotNameProblem(name: string): string | undefined {
  // Behind the last @ of dm:DEVICE@NAME is the name of a snapshot.
  return nameProblem(name) ?? (name.includes("@") ? "the name has an @ in it" : undefined);
}

/** @param snapshot its name is one that can be. */
export function putSnapshot(into: Buffer, at: number, { name, made }: Snapshot): void {
  setU64(into, at, made);
  setU8(into, at + 8, Buffer.byteLength(name));
  into.write(name, at + 9, "utf8");
}

/** What is wrong, in words, if it is no snapshot. */
export function getSnapshot(from: Buffer, at: number): Snapshot | string {
  const made = tryU64(from, at);
  const length = getU8(from, at + 8);
  // Also refuses NaN.
  if (!(made <= LAST_MOMENT)) return "the time of the snapshot is out of range";
  if (length > MAX_NAME || !isZero(from, at + 9 + length, at + SNAPSHOT_BYTES))
    return "the name of the snapshot is longer than there is room";
  const stored = from.subarray(at + 9, at + 9 + length);
  const name = stored.toString("utf8");
  if (!stored.equals(Buffer.from(name))) return "the name of the snapshot is no UTF-8";
  const problem = snapshotNameProblem(name);
  return problem === undefined ? { name, made } : `of the snapshot ${problem}`;
}
