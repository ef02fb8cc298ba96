/**
 * Telling a device which of its bytes a cache does not need any more. It is advice: nothing but room depends on it, and a
 * device that fails it shows that by other requests.
 */
import type { BlockDevice } from "../contract/device.ts";
import { type BlockIoError, refuse } from "../contract/errors.ts";

/** Discards a range that nothing refers to any more. Never rejects. */
export async function giveBack(device: BlockDevice, offset: number, length: number): Promise<void> {
  await device.discard(offset, length).catch(() => {});
}

/**
 * Why a device that is to be given back ranges of `length` bytes would not notice (`ENOTSUP`); undefined if it does.
 * @param what the option that asks for it.
 */
export function whyNotGivenBack(device: BlockDevice, length: number, what: string): BlockIoError | undefined {
  const { capabilities, discardGranularity } = device.limits;
  const takesNone = capabilities.discard === "none";
  if (!takesNone && discardGranularity <= length) return undefined;
  const reason = takesNone
    ? `${what}: the device takes no discards`
    : `${what}: the device discards ${discardGranularity} bytes at least, and what becomes free are ${length}`;
  return refuse(
    device.name,
    "ENOTSUP",
    reason,
    `Leave ${what} at 0, or put the cache on another device.`,
    "message",
  );
}
