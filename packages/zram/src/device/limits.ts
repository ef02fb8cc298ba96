/** What the disk can do. */
import { type Limits, plainLimits, withCapabilities } from "@dmkit/block-io";
import { PAGE } from "../core/size-classes.ts";

export const zramLimits: Limits = {
  ...plainLimits,
  discardGranularity: PAGE,
  capabilities: {
    readOnly: false,
    // RAM is as stable as this device gets.
    fua: "native",
    discard: "native",
    discardZeroes: true,
    writeZeroes: "native",
    fastZero: true,
    extents: true,
  },
};

/** What its snapshots are on takes no other: nothing that is written could be kept. */
export const readOnlyLimits: Limits = withCapabilities(zramLimits, {
  readOnly: true,
  discard: "none",
  discardZeroes: false,
  writeZeroes: "none",
  fastZero: false,
});
