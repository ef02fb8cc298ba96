/** What checking finds: problems as data, and what puts them right. */
import type { ImageProblem, OfflineWork } from "@dmkit/block-io";

/** Stable names of what a check can find. */
export type ProblemKind =
  | "no-metadata"
  | "checksum-folded"
  | "superblock"
  | "needs-check"
  | "source"
  | "source-unreadable"
  | "clean-differs"
  | "clean-unreadable"
  | "dirty-unreadable"
  | "entries-unreadable"
  | "entries-damaged"
  | "entry-state"
  | "entry-outside"
  | "entry-set"
  | "duplicate"
  | "dirty-count";

/** Something a check found. */
export interface Problem extends ImageProblem {
  readonly kind: ProblemKind;
  readonly frame?: number | undefined;
  /** Number of the source's block: sector / block size. */
  readonly block?: number | undefined;
}

/** What a check found besides problems. */
export interface Summary {
  readonly version: 1 | 2;
  readonly clean: boolean;
  readonly frames: number;
  /** Valid frames in use. */
  readonly used: number;
  readonly dirty: number;
}

/** What puts a problem right. Superblocks are written whenever anything is. */
export interface Fix {
  /** Entry sectors to be made empty. */
  readonly sectors?: readonly number[];
  /** Frames whose entries are to be made empty. */
  readonly frames?: readonly number[];
}

/** A problem, and its fix if there is one that needs no guess. */
export interface Finding {
  readonly problem: Problem;
  readonly fix?: Fix | undefined;
}

/** What a check looks at besides the metadata. */
export type CheckOptions = Pick<OfflineWork, "signal" | "progress">;

/** A problem for which every repair would be a guess. */
export function cannotFix(
  kind: ProblemKind,
  rest: Partial<Problem> & Pick<Problem, "text"> & { readonly advice: string },
): Finding {
  const location = rest.frame === undefined ? "whole device" : `frame ${rest.frame}`;
  return { problem: { severity: "error", role: "cache", location, ...rest, kind } };
}
