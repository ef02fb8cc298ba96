/** The limits of a compressed device, whatever its format. */
import { type Limits, fullCapabilities, plainLimits } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";

export const compressionLimits: Limits = {
  ...plainLimits,
  logicalBlockSize: BLOCK,
  discardGranularity: BLOCK,
  capabilities: { ...fullCapabilities, fua: "emulated" },
};
