/**
 * Decisions that a backup hangs on: what has to be stable before what, and what is believed. A device gets them when it is
 * opened; the simulation opens others with one of them changed, and has to notice.
 */
import { type PageOwner, decodePage } from "../format/page.ts";
import type { Epoch, EpochTable } from "./epochs.ts";

/** `pages` of the target epoch are made stable; the `record` without the source is made stable. */
export type MergeStep = "pages" | "record";

export interface TrackedRules {
  /** A write is handed on only when its bits are stable. */
  readonly bitsFirst: boolean;
  /** Writes that do not touch marked chunks wait for this: the bits on stable storage. */
  readonly flushesPages: boolean;
  /** An epoch begins when no write is under way, and all that was answered is stable. */
  readonly beginsQuietly: boolean;
  /** An epoch has begun when the superblock says so. */
  readonly recordsBegin: boolean;
  /** Both copies of the superblock are stable before what they say counts. */
  readonly flushesRecord: boolean;
  merge(table: EpochTable, from: Epoch, into: Epoch): void;
  readonly mergeSteps: readonly MergeStep[];
  /** The bits of a page; undefined: it is lost. */
  readonly decode: (sector: Buffer, owner: PageOwner, page: number) => Buffer | undefined;
  /** What becomes of the chunks that a lost page speaks for. */
  readonly marksLost: boolean;
}

export const trackedRules: TrackedRules = Object.freeze<TrackedRules>({
  bitsFirst: true,
  flushesPages: true,
  beginsQuietly: true,
  recordsBegin: true,
  flushesRecord: true,
  merge: (table, from, into) => table.merge(from, into),
  mergeSteps: ["pages", "record"],
  decode: decodePage,
  marksLost: true,
});
