/** The limits of a cache: those of the source, as far as the cache device can keep up. */
import { type Capabilities, type Limits, stackLimits } from "@dmkit/block-io";
import type { CacheState } from "./state.ts";

const noWrites: Partial<Capabilities> = {
  readOnly: true,
  discard: "none",
  discardZeroes: false,
  writeZeroes: "none",
  fastZero: false,
};

export function limitsOf({ source, cache, readOnly }: CacheState): Limits {
  const { discardGranularity, capabilities } = source.limits;
  const stacked = stackLimits([source, cache]);
  return {
    ...stacked,
    discardGranularity: Math.max(discardGranularity, stacked.logicalBlockSize),
    capabilities: { ...capabilities, fua: "native", ...(readOnly ? noWrites : {}) },
  };
}
