/** A cache whose backing device goes on without it: with all it had, or without what could not be written back. */
import { type BlockDevice, given } from "@dmkit/block-io";
import { BLOCK, SLOTS_START, plogSegmentSize } from "../../format/geometry.ts";
import { IDENTITY_START, encodeIdentity } from "../../format/identity.ts";
import { plogBytes, plogNameOffset, readPlogIdentity } from "../../device/log/plog-place.ts";
import { HEADER_START, encodeLeft } from "../../format/superblock.ts";
import { readSuperblock } from "../superblock.ts";
import { eraseHeader } from "./format-cache.ts";

const SECTOR = 512;

/**
 * Makes a cache a device that counts as blank, durably: what is in its slots is found no more. So its plog after it, unless
 * that has another name than the one the cache knows: while the cache is there, it tells whose the plog is.
 */
export async function eraseCache(cache: BlockDevice, plog: BlockDevice | undefined): Promise<void> {
  const erasePlog = plog === undefined ? undefined : await plogEraser(cache, plog);
  await eraseHeader(cache);
  await cache.writeZeroes(BLOCK, SLOTS_START - BLOCK);
  await cache.flush();
  await erasePlog?.();
}

/** What makes the plog of a cache blank, where it was in use and with the name last. Undefined for one that is not its own. */
async function plogEraser(cache: BlockDevice, plog: BlockDevice): Promise<(() => Promise<void>) | undefined> {
  const { identity } = await readSuperblock(cache);
  if (typeof identity !== "object") return undefined;
  const { order, plogSegments } = identity;
  const bytes = await plogBytes(plog, identity);
  const name = await given(readPlogIdentity(plog, order, bytes));
  if (name?.cache !== identity.cache || name.plog !== identity.plog) return undefined;
  return async () => {
    const end = plogNameOffset(bytes, order);
    const [from, until] = [end === undefined ? SECTOR : 0, plogSegments * plogSegmentSize(order)];
    if (until > from) await plog.writeZeroes(from, until - from);
    await plog.flush();
    await plog.writeZeroes(end ?? 0, SECTOR);
    await plog.flush();
  };
}

/** Marks a cache as left behind, durably: it is not opened again before it is repaired. All it has stays. */
export async function leaveCache(cache: BlockDevice): Promise<void> {
  const { header, identity } = await readSuperblock(cache);
  // Without an order it is refused anyway.
  const order =
    typeof identity === "object" ? identity.order : header.kind === "writeboost" ? header.order : undefined;
  if (header.kind !== "writeboost" || order === undefined) return;
  // By the record alone a cache is opened whose header cannot be read: so it says the same, and first.
  if (typeof identity === "object" && identity.version !== 1) {
    await cache.write(IDENTITY_START, encodeIdentity(identity, true));
    await cache.flush();
  }
  await cache.write(HEADER_START, encodeLeft(order));
  await cache.flush();
}
