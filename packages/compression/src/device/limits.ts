/** The limits of a compressed device, whatever its format. */
import { type Limits, plainLimits } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";

export const compressionLimits: Limits = {
  ...plainLimits,
  logicalBlockSize: BLOCK,
  discardGranularity: BLOCK,
  capabilities: {
    readOnly: false,
    fua: "emulated",
    discard: "native",
    discardZeroes: true,
    writeZeroes: "native",
    fastZero: true,
    extents: true,
  },
};
