/** The limits of a cache: those of the source, as far as the cache device can keep up. */
import type { Capabilities, Limits } from "@dmkit/block-io";
import type { CacheState } from "./state.ts";

const noWrites: Partial<Capabilities> = {
  readOnly: true,
  discard: "none",
  discardZeroes: false,
  writeZeroes: "none",
  fastZero: false,
};

export function limitsOf({ source, cache, readOnly }: CacheState): Limits {
  const { limits } = source;
  const logicalBlockSize =
    Math.max(limits.logicalBlockSize, cache.limits.logicalBlockSize) === 4096 ? 4096 : 512;
  const physicalBlockSize = Math.max(limits.physicalBlockSize, cache.limits.physicalBlockSize);
  return {
    logicalBlockSize,
    physicalBlockSize,
    optimalTransfer: Math.ceil(limits.optimalTransfer / physicalBlockSize) * physicalBlockSize,
    discardGranularity: Math.max(limits.discardGranularity, logicalBlockSize),
    capabilities: { ...limits.capabilities, fua: "native", ...(readOnly ? noWrites : {}) },
  };
}
