/** What the disk can do. */
import { type Limits, fullCapabilities, plainLimits, withCapabilities } from "@dmkit/block-io";
import { PAGE } from "../core/size-classes.ts";

export const zramLimits: Limits = {
  ...plainLimits,
  discardGranularity: PAGE,
  capabilities: fullCapabilities,
};

/** What its snapshots are on takes no other: nothing that is written could be kept. */
export const readOnlyLimits: Limits = withCapabilities(zramLimits, {
  readOnly: true,
  discard: "none",
  discardZeroes: false,
  writeZeroes: "none",
  fastZero: false,
});
