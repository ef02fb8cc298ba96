/** What a cache can do, given what the devices below can. */
import { type BlockDevice, type Limits, withCapabilities } from "@dmkit/block-io";
import { BLOCK } from "./format/geometry.ts";

/** @param backing decides all of it: what goes past the log goes there. */
export function limitsOver(backing: BlockDevice): Limits {
  const below = backing.limits;
  return {
    logicalBlockSize: below.logicalBlockSize,
    physicalBlockSize: BLOCK,
    optimalTransfer: 128 * 1024,
    discardGranularity: Math.max(BLOCK, below.discardGranularity),
    capabilities: {
      readOnly: false,
      fua: "emulated",
      discard: below.capabilities.discard,
      discardZeroes: below.capabilities.discardZeroes && below.discardGranularity <= BLOCK,
      writeZeroes: below.capabilities.writeZeroes === "native" ? "native" : "emulated",
      fastZero: false,
      extents: false,
    },
  };
}

/** The same for a cache that is only read. */
export function readOnlyLimitsOver(backing: BlockDevice): Limits {
  return withCapabilities(limitsOver(backing), {
    readOnly: true,
    fua: "none",
    discard: "none",
    discardZeroes: false,
    writeZeroes: "none",
  });
}
