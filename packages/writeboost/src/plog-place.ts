/**
 * Which part of a plog device is the plog, and where its name is: a copy of the identity record in the last sector
 * of that part, if no plog segment reaches that far. How large the part is stands in the identity record of the
 * cache, since a device may have grown.
 */
import type { BlockDevice } from "@dmkit/block-io";
import { plogSegmentSize } from "./format/geometry.ts";
import { type Identity, NO_UUID, decodeIdentity, uuidAt } from "./format/identity.ts";

/** Where the name is in a plog of `bytes` bytes. */
export function plogNameOffset(bytes: number, order: number): number | undefined {
  const size = plogSegmentSize(order);
  const end = Math.floor(bytes / size) * size;
  return bytes - end >= 512 ? bytes - 512 : undefined;
}

/** The name in a plog of `bytes` bytes. */
export async function readPlogIdentity(
  plog: BlockDevice,
  order: number,
  bytes: number,
): Promise<Identity | undefined> {
  const offset = plogNameOffset(bytes, order);
  if (offset === undefined || bytes > plog.size) return undefined;
  const sector = Buffer.alloc(512);
  await plog.read(offset, sector);
  const identity = decodeIdentity(sector);
  return typeof identity === "object" ? identity : undefined;
}

/**
 * Whether a plog has room for a name, and there is none of this cache, not even a damaged one: a cache that names a
 * plog has written that name to it, durably, before it named it.
 */
export async function lacksName(
  plog: BlockDevice,
  { order, cache }: Identity,
  bytes: number,
): Promise<boolean> {
  const offset = plogNameOffset(bytes, order);
  if (bytes > plog.size) return true;
  if (offset === undefined) return false;
  const sector = Buffer.alloc(512);
  await plog.read(offset, sector);
  return uuidAt(sector) !== cache;
}

/**
 * Bytes of the device that are the plog of the cache with this identity record: as recorded, and all of it where that
 * is not known, or where a cache that was closed in order, and needs no plog any more, is given another one.
 */
export async function plogBytes(
  plog: BlockDevice,
  identity: Identity | "blank" | "foreign",
): Promise<number> {
  if (typeof identity !== "object" || identity.plog === NO_UUID || identity.plogSize === 0) return plog.size;
  const { clean, plogSize } = identity;
  return clean && (await lacksName(plog, identity, plogSize)) ? plog.size : plogSize;
}
