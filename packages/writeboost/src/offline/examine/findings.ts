/** What may be wrong with an image, and what repair does about it. */
import type { BlockDevice, ImageProblem } from "@dmkit/block-io";
import type { Identity } from "../../format/identity.ts";

/** The devices of an image; a backing device or plog that is not given makes findings less complete. */
export interface Image {
  readonly cache: BlockDevice;
  readonly backing?: BlockDevice | undefined;
  readonly plog?: BlockDevice | undefined;
}

/** What repair.ts does about a finding; in the order it does it. */
export type Fix =
  /** Sector 0 is written again. */
  | { readonly step: "header"; readonly order: number }
  | { readonly step: "identity"; readonly identity: Identity }
  /** Clean segments `from` … `to` become empty ones. */
  | { readonly step: "empty"; readonly from: number; readonly to: number }
  /** All slots outside of the log are zeroed. */
  | { readonly step: "invalidate" }
  /** What follows in the plog goes to the cache device, and the plog is zeroed. */
  | { readonly step: "plog" }
  /** The superblock record and its copy become `id`. */
  | { readonly step: "record"; readonly id: number };

/** What may be wrong with an image; README.md says of each what repair does with it. */
export type ProblemKind =
  | "superblock"
  | "geometry"
  | "damage"
  | "rot"
  | "torn"
  | "metadata"
  | "unreadable"
  | "stale"
  | "record"
  | "record-copy"
  | "split"
  | "identity"
  | "backing"
  | "plog-missing"
  | "plog-foreign"
  | "plog-size"
  | "plog-ahead"
  | "plog-gap"
  | "plog-leftover";

/** A finding of {@link check}, as {@link ImageProblem} with the kinds of this format. */
export interface Problem extends ImageProblem {
  readonly kind: ProblemKind;
  readonly role: "cache" | "backing" | "plog";
}

export interface Finding {
  readonly problem: Problem;
  /** There iff the problem says what repair does. */
  readonly fix?: Fix | undefined;
}
