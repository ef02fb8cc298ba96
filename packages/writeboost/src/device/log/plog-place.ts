/**
 * Which part of a plog device is the plog, and where its name is: a copy of the identity record, first half. How large
 * the part is stands in the identity record of the cache, since a device may have grown.
 *
 * The name is in the last sector of that part, if no plog segment reaches that far. Else it is in the second half of
 * the first sector. That sector is never anything but zero, or the head of the first record of a plog segment, which
 * leaves its second half zero: with the name in it, whatever is written there brings the name along, and since a sector
 * is written whole or not at all, no crash and no flush that fails can lose it. Older versions left such a plog without.
 *
 * A name with no uuid of the plog says that the cache that had it was retired: nothing in it counts, whoever finds it.
 */
import { type BlockDevice, MemoryOverlay, encodeUnfinished, given, requireBlank } from "@dmkit/block-io";
import { MAX_ORDER, MIN_ORDER, plogSegmentSize } from "../../format/geometry.ts";
import {
  type Identity,
  type StoredIdentity,
  NO_UUID,
  decodeIdentity,
  encodeIdentity,
  uuidAt,
} from "../../format/identity.ts";

const SECTOR = 512;

/** Byte of a plog's first sector at which a name in it begins. */
export const START_NAME = 256;

/** Where the last sector of a plog of `bytes` bytes is; undefined where a plog segment reaches that far. */
export function plogNameOffset(bytes: number, order: number): number | undefined {
  const size = plogSegmentSize(order);
  const end = Math.floor(bytes / size) * size;
  return bytes - end >= SECTOR ? bytes - SECTOR : undefined;
}

/** The name that goes into a first sector, from byte {@link START_NAME} to its end. */
export function startName(identity: Identity): Buffer {
  return encodeIdentity(identity).subarray(0, SECTOR - START_NAME);
}

/** A first sector without a record. @param before what is in front of the name. */
export function emptyStart(name: Buffer, before: Buffer = Buffer.alloc(SECTOR)): Buffer {
  const sector = Buffer.from(before);
  name.copy(sector, START_NAME);
  return sector;
}

/** Cuts a name out of a first sector, whosever it is, so that what is left is what every plog segment has. */
export function takeStartName(sector: Buffer): Buffer | undefined {
  const name = Buffer.from(sector.subarray(START_NAME, SECTOR));
  if (typeof decodeStartName(name) !== "object") return undefined;
  sector.fill(0, START_NAME, SECTOR);
  return name;
}

function decodeStartName(name: Buffer): StoredIdentity {
  const sector = Buffer.alloc(SECTOR);
  name.copy(sector);
  return decodeIdentity(sector);
}

/** What is where the name should be in a plog of `bytes` bytes; undefined where that cannot be. */
async function namePlace(plog: BlockDevice, order: number, bytes: number): Promise<Buffer | undefined> {
  if (bytes > plog.size || bytes < SECTOR) return undefined;
  const end = plogNameOffset(bytes, order);
  const sector = Buffer.alloc(SECTOR);
  await plog.read(end ?? 0, sector);
  return end === undefined ? Buffer.concat([sector.subarray(START_NAME)], SECTOR) : sector;
}

/** The name in a plog of `bytes` bytes. */
export async function readPlogIdentity(
  plog: BlockDevice,
  order: number,
  bytes: number,
): Promise<Identity | undefined> {
  const sector = await namePlace(plog, order, bytes);
  const identity = sector && decodeIdentity(sector);
  return typeof identity === "object" ? identity : undefined;
}

/** Whether the name of a plog is there as it would be written. It is not written again then: see plog-owner.ts. */
export async function isNamed(plog: BlockDevice, identity: Identity): Promise<boolean> {
  return isSameName(await given(readPlogIdentity(plog, identity.order, identity.plogSize)), identity);
}

/** Writes the name of a plog, durably. A disk that loses power may spoil the sector that it writes. */
export function writePlogName(plog: BlockDevice, identity: Identity): Promise<void> {
  return writeName(plog, identity, undefined);
}

/**
 * Writes the name of a plog whose cache is retired, durably. Where it is in the first sector that says besides that nothing on
 * the device counts, for whoever knows nothing of plogs.
 */
export function writeRetired(plog: BlockDevice, identity: Identity): Promise<void> {
  return writeName(plog, identity, encodeUnfinished());
}

async function writeName(plog: BlockDevice, identity: Identity, before: Buffer | undefined): Promise<void> {
  const { order, plogSize } = identity;
  const end = plogNameOffset(plogSize, order);
  if (end === undefined) await plog.write(0, emptyStart(startName(identity), before));
  else await plog.write(end, encodeIdentity(identity).subarray(0, SECTOR));
  await plog.flush();
}

/** Whether it says all that a repair takes from it, but for what changes while a cache runs. */
function isSameName(name: Identity | undefined, identity: Identity): boolean {
  if (name === undefined) return false;
  const { clean, coveredId, lastId, recordedId, witness, backingSample } = name;
  const now = { ...identity, clean, coveredId, lastId, recordedId, witness, backingSample };
  return encodeIdentity(now).equals(encodeIdentity(name));
}

/** Whether a name says that the cache of the plog was retired. */
export function isRetired(name: Identity | undefined): boolean {
  return name?.plog === NO_UUID;
}

/**
 * Throws `EFORMAT` for a plog that holds anything, but for one whose cache was retired.
 * @param identity the record of the cache that is to have it. Where a name was being written (plog-owner.ts), whatever is in
 * the place of that name does not matter.
 */
export async function requireBlankPlog(
  plog: BlockDevice,
  force: boolean,
  identity?: StoredIdentity,
): Promise<void> {
  if (isRetired(await findPlogIdentity(plog))) return;
  const place = typeof identity === "object" ? placeBeingNamed(identity) : undefined;
  if (place === undefined || place + SECTOR > plog.size) return requireBlank(plog, { force });
  const without = new MemoryOverlay(plog);
  await without.writeZeroes(place, SECTOR);
  await requireBlank(without, { force });
}

/** The same for a cache that is to be made, and its plog if it is to have one. */
export async function requireBlankPair(
  cache: BlockDevice,
  plog: BlockDevice | undefined,
  force: boolean,
): Promise<void> {
  await requireBlank(cache, { force });
  if (plog !== undefined) await requireBlankPlog(plog, force);
}

/** Where the name of a plog is that this record says was being written; undefined where none was. */
export function placeBeingNamed({ plog, plogSize, order }: Identity): number | undefined {
  if (plog !== NO_UUID || plogSize === 0) return undefined;
  return plogNameOffset(plogSize, order) ?? 0;
}

/** The name on a device of which nothing is known, in either place. */
export async function findPlogIdentity(plog: BlockDevice): Promise<Identity | undefined> {
  for (let order = MIN_ORDER; order <= MAX_ORDER; order += 1) {
    const identity = await given(readPlogIdentity(plog, order, plog.size));
    if (identity?.order === order) return identity;
  }
  return undefined;
}

/**
 * Whether a plog must have a name, and there is none of this cache, not even a damaged one: a cache that names a
 * plog has written that name to it, durably, before it named it.
 */
export async function lacksName(plog: BlockDevice, identity: Identity, bytes: number): Promise<boolean> {
  if (bytes > plog.size) return true;
  if (!hasName(identity, bytes)) return false;
  const sector = await given(namePlace(plog, identity.order, bytes));
  return sector === undefined || uuidAt(sector) !== identity.cache;
}

/** Whether a plog that this record names has a name on it. Older versions gave none where there is no room at the end. */
export function hasName({ order, nameAtStart }: Identity, bytes: number): boolean {
  return nameAtStart || plogNameOffset(bytes, order) !== undefined;
}

/**
 * Bytes of the device that are the plog of the cache with this identity record: as recorded, and all of it where that
 * is not known, or where a cache that was closed in order, and needs no plog any more, is given another one.
 */
export async function plogBytes(plog: BlockDevice, identity: StoredIdentity): Promise<number> {
  if (typeof identity !== "object" || identity.plog === NO_UUID || identity.plogSize === 0) return plog.size;
  const { clean, plogSize } = identity;
  return clean && (await lacksName(plog, identity, plogSize)) ? plog.size : plogSize;
}
