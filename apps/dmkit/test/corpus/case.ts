/** A damaged image, and everything that is expected of it. Plain data. */
import type { Base, Damage } from "./image.ts";

/**
 * What opening an image shows: `all` if everything that was flushed is there; the code of the error if it does not
 * open; or blocks of 4096 bytes that are not as they were flushed last: `EIO 3-5, older 7, rot 9`. Older contents are
 * those that the block once had. Rot is what it never had: only where the format's FORMAT.md says that nobody can
 * notice, and the case says why.
 */
export type View = string;

export interface Case {
  readonly name: string;
  readonly on: Base;
  readonly damage: readonly Damage[];
  /** The answer to `--type`. */
  readonly type?: string;
  /** `severity role kind`, sorted; with a count in front if there are several alike that are more than notes. */
  readonly found: readonly string[];
  /** Of those, what `--repair` puts right, and what it leaves; by default nothing, and everything. */
  readonly repaired?: readonly string[];
  readonly left?: readonly string[];
  /** Exit codes of `fsck`, of `fsck --repair` and of a second `fsck --repair`. */
  readonly exits: readonly [number, number, number];
  /** Code of the error that ends the check, where `exits` has an 8. */
  readonly error?: string;
  /** What opening shows as it is, and after the repair. */
  readonly shows: readonly [View, View];
  /** Why this is what has to be expected, where it is not obvious. */
  readonly why?: string;
}

/** Checked, and nothing is wrong. */
export const CLEAN = { found: [], exits: [0, 0, 0], shows: ["all", "all"] } as const satisfies Partial<Case>;
