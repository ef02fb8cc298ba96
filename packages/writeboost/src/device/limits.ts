/** What a cache can do, given what the devices below can. */
import { type BlockDevice, type Limits, refuse, withCapabilities } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry.ts";

/** The devices below. */
interface Below {
  readonly backing: BlockDevice;
  readonly cache: BlockDevice;
}

/**
 * The backing device decides nearly all of it: what goes past the log goes there. But sectors in the log can be no
 * smaller than those of the cache device.
 */
export function limitsOver({ backing, cache }: Below): Limits {
  const below = backing.limits;
  return {
    logicalBlockSize: cache.limits.logicalBlockSize === 4096 ? 4096 : below.logicalBlockSize,
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

/** The same for a cache whose log is archived: what it promises has to pass the log. */
export function archivedLimitsOver(devices: Below): Limits {
  return withCapabilities(limitsOver(devices), {
    discard: "none",
    discardZeroes: false,
    writeZeroes: "emulated",
  });
}

/** The same for a cache that is only read. */
export function readOnlyLimitsOver(devices: Below): Limits {
  return withCapabilities(limitsOver(devices), {
    readOnly: true,
    fua: "emulated",
    discard: "none",
    discardZeroes: false,
    writeZeroes: "none",
  });
}

/** Throws `EINVAL` where blocks of the devices below do not divide what is to be mapped. */
export function requireWholeBlocks(size: number, cache: BlockDevice, { logicalBlockSize }: Limits): void {
  if (size % logicalBlockSize === 0) return;
  const whole = size - (size % logicalBlockSize);
  throw refuse(
    cache.name,
    "EINVAL",
    `${size} bytes are mapped, which are no whole blocks of ${logicalBlockSize} bytes as the devices below have them`,
    `Map ${whole} bytes (${whole / 512} sectors), or take a cache device of 512-byte blocks.`,
  );
}
