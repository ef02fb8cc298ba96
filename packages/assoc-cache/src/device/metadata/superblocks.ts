/** Reads and writes the two copies of the superblock, on devices of 512- and of 4096-byte blocks. */
import {
  type BlockDevice,
  type BlockIoError,
  SECTOR,
  beginFormat,
  isOfPlace,
  zeroes,
  join,
} from "@dmkit/block-io";
import {
  type Superblock,
  decodeSuperblock,
  encodeRestoring,
  encodeSuperblock,
  hasMagic,
} from "../../format/superblock.ts";
import { encodeInUseV1 } from "../../format/v1.ts";

/** What one end of the device says. */
export interface Copy {
  readonly superblock: Superblock | undefined;
  /** Why it is not valid; undefined if it is. */
  readonly problem: string | undefined;
  /** It carries our magic, valid or not; or it cannot be read, and the other one is valid. */
  readonly ours: boolean;
}

/** Both copies; errors are those of the device. A copy that cannot be read is one that is not valid if the other is. */
export async function readSuperblocks(cache: BlockDevice): Promise<{ first: Copy; second: Copy }> {
  const first = await readCopy(cache, 0, 0);
  const { place, within } = secondPlace(cache, first.superblock);
  const second = await readCopy(cache, place, within);
  // Without a valid one nobody knows what is, or was, where nothing can be read.
  const unread = first.unread ?? second.unread;
  if (unread !== undefined && currentSuperblock({ first, second }) === undefined) throw unread;
  return { first, second };
}

async function readCopy(
  cache: BlockDevice,
  place: number,
  within: number,
): Promise<Copy & { readonly unread?: BlockIoError }> {
  const bytes = Buffer.alloc(cache.limits.logicalBlockSize);
  try {
    await cache.read(place, bytes);
  } catch (error) {
    if (!isOfPlace(error)) throw error;
    const problem = `it cannot be read: ${error.message}`;
    return { superblock: undefined, problem, ours: true, unread: error };
  }
  return copyFrom(bytes.subarray(within, within + SECTOR));
}

/** Whether the second copy is, or would be, in the last sector of the device as it is now. */
export function isSecondAtEnd(cache: BlockDevice, { first }: { readonly first: Copy }): boolean {
  const { place, within } = secondPlace(cache, first.superblock);
  return place + within + SECTOR === cache.size;
}

/**
 * The block that the second copy is in, and where in it: the last sector that the device had when it was formatted, if
 * that is known and still there; else its last one.
 */
function secondPlace(
  cache: BlockDevice,
  superblock: Superblock | undefined,
): { place: number; within: number } {
  const recorded = superblock === undefined ? cache.size : superblock.deviceSectors * SECTOR;
  const at = Math.min(recorded, cache.size) - SECTOR;
  const within = at % cache.limits.logicalBlockSize;
  return { place: at - within, within };
}

/** The copy that counts: valid, and of the later generation. */
export function currentSuperblock(copies: { first: Copy; second: Copy }): Superblock | undefined {
  const first = copies.first.superblock;
  const second = copies.second.superblock;
  if (first === undefined || second === undefined) return first ?? second;
  return second.generation > first.generation ? second : first;
}

/** Writes both copies, durably. */
export async function writeSuperblocks(cache: BlockDevice, superblock: Superblock): Promise<void> {
  const { first, second, place } = blocksOf(cache, superblock);
  await join([cache.write(0, first), cache.write(place, second)]);
  await cache.flush();
}

/** The same on a device that cannot be trusted: the second copy is left alone until the first one is stable. */
export async function writeSuperblocksInTurn(cache: BlockDevice, superblock: Superblock): Promise<void> {
  const { first, second, place } = blocksOf(cache, superblock);
  await cache.write(0, first);
  await cache.flush();
  await cache.write(place, second);
  await cache.flush();
}

/** Notes in both copies, durably, that the source went on without what is dirty. A cache without them has nothing dirty. */
export async function markLeft(cache: BlockDevice): Promise<void> {
  const current = currentSuperblock(await readSuperblocks(cache));
  if (current === undefined) return;
  await writeSuperblocksInTurn(cache, { ...current, left: true, generation: current.generation + 1 });
}

/** The blocks of both copies, and the byte where the second one begins. */
function blocksOf(
  cache: BlockDevice,
  superblock: Superblock,
): { first: Buffer; second: Buffer; place: number } {
  const block = cache.limits.logicalBlockSize;
  const bytes = encodeSuperblock(superblock);
  const first = Buffer.alloc(block);
  first.set(bytes, 0);
  const second = Buffer.alloc(block);
  const { place, within } = secondPlace(cache, superblock);
  second.set(bytes, within);
  return { first, second, place };
}

/** Where second copies may be: at the end, and where the end was when the device was formatted, if one is there. */
async function endsOf(cache: BlockDevice): Promise<number[]> {
  const { first, second } = await readSuperblocks(cache);
  const places = new Set([cache.size - cache.limits.logicalBlockSize]);
  if (second.ours) places.add(secondPlace(cache, first.superblock).place);
  return [...places];
}

/**
 * Makes both copies, and a historical configuration, invalid, durably: the device counts as blank until there is a
 * superblock again.
 */
export async function eraseSuperblocks(cache: BlockDevice): Promise<void> {
  const block = cache.limits.logicalBlockSize;
  const ends = await endsOf(cache);
  await join([beginFormat(cache), ...ends.map((place) => cache.write(place, zeroes(block)))]);
  await cache.flush();
}

/**
 * Makes all metadata invalid, durably, in a way that nobody takes for a blank device: its data are those of a dump that
 * is being restored. With historical metadata the first sector is a frame's, unless there is a superblock in it.
 */
export async function beginRestore(cache: BlockDevice, version: 1 | 2): Promise<void> {
  const block = cache.limits.logicalBlockSize;
  const bytes = Buffer.alloc(block);
  if (version === 2) {
    bytes.set(encodeRestoring(), 0);
    const ends = await endsOf(cache);
    await join([cache.write(0, bytes), ...ends.map((place) => cache.write(place, zeroes(block)))]);
  } else {
    const { first } = await readSuperblocks(cache);
    const erasing = first.ours ? [cache.write(0, zeroes(block))] : [];
    await join([...erasing, cache.write(cache.size - SECTOR, encodeInUseV1())]);
  }
  await cache.flush();
}

/** The same as {@link eraseSuperblocks} for a cache with historical metadata, which says that it is one. 512-byte blocks. */
export async function eraseSuperblocksV1(cache: BlockDevice): Promise<void> {
  await join([cache.write(0, zeroes(SECTOR)), cache.write(cache.size - SECTOR, encodeInUseV1())]);
  await cache.flush();
}

function copyFrom(bytes: Buffer): Copy {
  const decoded = decodeSuperblock(bytes);
  if (typeof decoded === "string") return { superblock: undefined, problem: decoded, ours: hasMagic(bytes) };
  return { superblock: decoded, problem: undefined, ours: true };
}
