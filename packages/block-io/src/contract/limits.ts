/** What a device can do that hands requests on to others. */
import type { Ability, BlockDevice, Capabilities, Limits } from "./device.ts";

/**
 * The limits of a device over all of these: blocks as large as the largest, abilities that all of them have. A device
 * that does more itself, or gives less away, spreads its own over them.
 * @param joints bytes, on it or on one below, where a part of it begins. If one of them is inside of a discard granule,
 * whole granules of the one are not whole ones of the other, and a discard leaves some of what is in them.
 */
export function stackLimits(devices: readonly BlockDevice[], joints: readonly number[] = []): Limits {
  const limits = devices.map((device) => device.limits);
  const capabilities = limits.map((one) => one.capabilities);
  const largest = (value: (one: Limits) => number): number => Math.max(512, ...limits.map(value));
  const logicalBlockSize = largest((one) => one.logicalBlockSize) === 4096 ? 4096 : 512;
  const physicalBlockSize = Math.max(
    logicalBlockSize,
    largest((one) => one.physicalBlockSize),
  );
  const discardGranularity = Math.max(
    logicalBlockSize,
    largest((one) => one.discardGranularity),
  );
  const parts = [...joints, ...limits.map((one) => discardGranularity % one.discardGranularity)];
  return {
    logicalBlockSize,
    physicalBlockSize,
    optimalTransfer: Math.max(
      physicalBlockSize,
      largest((one) => one.optimalTransfer),
    ),
    discardGranularity,
    capabilities: {
      readOnly: capabilities.some((one) => one.readOnly),
      // It is passed on to where it is carried out.
      fua: "native",
      discard: least(capabilities, (one) => one.discard),
      discardZeroes:
        capabilities.every((one) => one.discardZeroes) && parts.every((at) => at % discardGranularity === 0),
      writeZeroes: least(capabilities, (one) => one.writeZeroes),
      fastZero: capabilities.every((one) => one.fastZero),
      extents: capabilities.some((one) => one.extents),
    },
  };
}

function least(capabilities: readonly Capabilities[], ability: (one: Capabilities) => Ability): Ability {
  const found = new Set(capabilities.map(ability));
  if (found.has("none")) return "none";
  return found.has("emulated") ? "emulated" : "native";
}
