/** A cache whose backing device goes on without it: with all it had, or without what could not be written back. */
import { type BlockDevice, beginFormat, given } from "@dmkit/block-io";
import { SLOTS_START, plogSegmentSize } from "../../format/geometry.ts";
import { IDENTITY_START, type Identity, NO_UUID, encodeIdentity } from "../../format/identity.ts";
import { plogBytes, plogNameOffset, readPlogIdentity, writeRetired } from "../../device/log/plog-place.ts";
import { HEADER_START, encodeLeft } from "../../format/superblock.ts";
import { readSuperblock } from "../superblock.ts";

const SECTOR = 512;

/**
 * Makes a cache a device that counts as blank, durably: what is in its slots is found no more. So its plog after it, unless
 * that has another name than the one the cache knows: while the cache is there, it tells whose the plog is. A plog that a
 * crash leaves without its cache says that it counts as blank (plog-owner.ts). The cache was closed in order, with nothing that
 * only it has. What a crash leaves after each write, some of its sectors included:
 *
 *      1  the record of the cache, without a plog      the cache; what is in the place of the plog's name does not matter
 *      2  on the plog: its cache is retired            the cache; the plog counts as blank
 *      3  sector 0 of the cache: nothing counts        a blank cache device, whatever is left of the rest; it stays there
 *      4  the rest of its first MiB, and of the plog's segments
 *      5  sector 0 of the plog: nothing counts         if it has not said so since 2; it stays there
 *      6  its name, where that has a sector of its own
 *
 * Neither of the sectors that say so is written again: one that a disk spoils when power fails would say nothing.
 */
export async function eraseCache(cache: BlockDevice, plog: BlockDevice | undefined): Promise<void> {
  const name = plog === undefined ? undefined : await retireName(cache, plog);
  const start = cache.limits.logicalBlockSize;
  await beginFormat(cache);
  await cache.writeZeroes(start, SLOTS_START - start);
  await cache.flush();
  if (plog === undefined || name === undefined) return;
  const { order, plogSegments, plogSize } = name;
  const until = plogSegments * plogSegmentSize(order);
  if (until > SECTOR) await plog.writeZeroes(SECTOR, until - SECTOR);
  await plog.flush();
  const end = plogNameOffset(plogSize, order);
  if (end === undefined) return;
  await beginFormat(plog);
  await plog.writeZeroes(end, SECTOR);
  await plog.flush();
}

/**
 * Says on the plog of a cache that its cache is retired, where it was in use and with the name last; the name that it had.
 * Undefined for one that is not its own.
 */
async function retireName(cache: BlockDevice, plog: BlockDevice): Promise<Identity | undefined> {
  const { identity } = await readSuperblock(cache);
  if (typeof identity !== "object") return undefined;
  const plogSize = await plogBytes(plog, identity);
  const found = await given(readPlogIdentity(plog, identity.order, plogSize));
  if (found?.cache !== identity.cache || found.plog !== identity.plog) return undefined;
  const name = { ...identity, plogSize };
  await cache.write(IDENTITY_START, encodeIdentity({ ...name, plog: NO_UUID, plogSegments: 0 }));
  await cache.flush();
  await writeRetired(plog, { ...name, plog: NO_UUID });
  return name;
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
