/** Faults that this design could have, put in. */
import { breaking } from "@dmkit/block-io/testing";
import { bitsOf, decodePage } from "../format/page.ts";
import { type TrackedTarget, damagedTarget, trackedTarget } from "./sim-targets.ts";

export const mutants: readonly TrackedTarget[] = [
  breaking(trackedTarget, "bit-after-data", { bitsFirst: false }),
  breaking(trackedTarget, "pages-never-flushed", { flushesPages: false }),
  breaking(trackedTarget, "epoch-not-durable", { recordsBegin: false }),
  breaking(trackedTarget, "superblock-not-flushed", { flushesRecord: false }),
  breaking(trackedTarget, "begins-beside-writes", { beginsQuietly: false }),
  breaking(trackedTarget, "merge-loses-bits", { merge: () => {} }),
  breaking(trackedTarget, "drop-before-merge-durable", { mergeSteps: ["record", "pages"] }),
  breaking(damagedTarget, "checksum-ignored", {
    decode: (sector, owner, page) => decodePage(sector, owner, page) ?? bitsOf(sector),
  }),
  breaking(damagedTarget, "lost-page-clear", { marksLost: false }),
];
