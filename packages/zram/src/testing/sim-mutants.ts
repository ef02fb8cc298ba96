/** The invariants of this package, each broken once; test/FAULTS.md has the table. */
import { type SimTarget, breaking } from "@dmkit/block-io/testing";
import { kinds } from "../core/page-table.ts";
import { zramWithSnapshot } from "./sim-targets.ts";

export const zramMutants: readonly SimTarget[] = [
  breaking(zramWithSnapshot, "drops-before-it-stores", { keepsOld: false }),
  breaking(zramWithSnapshot, "replaces-in-any-class", { replaces: () => true }),
  breaking(zramWithSnapshot, "frees-nothing", { frees: () => false }),
  breaking(zramWithSnapshot, "keeps-the-object-of-what-it-drops", { frees: (why) => why !== "dropped" }),
  breaking(zramWithSnapshot, "compacts-without-telling", { tellsMoves: false }),
  breaking(zramWithSnapshot, "ignores-the-limit", { fits: () => true }),
  breaking(zramWithSnapshot, "backing-blocks-are-not-taken", { takesBlocks: false }),
  breaking(zramWithSnapshot, "takes-any-page-for-one-of-the-first-algorithm", { saved: () => 0 }),
  breaking(zramWithSnapshot, "forgets-the-algorithm-of-what-it-moves", { backed: () => 0 }),
  breaking(zramWithSnapshot, "forgets-the-dictionary", { namesDictionary: () => undefined }),
  breaking(zramWithSnapshot, "says-the-older-version-of-more", { isExtended: () => false }),
  breaking(zramWithSnapshot, "miscounts-same-filled-pages", {
    counted: (kind, by) => (kind === kinds.same && by < 0 ? 0 : by),
  }),
];
