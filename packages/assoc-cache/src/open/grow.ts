/**
 * A source of which another length is mapped than before.
 *
 * Larger: nothing changes for its blocks but for the one in which it ended: of that the cache may
 * have the beginning only, and a frame is valid as a whole or not at all.
 *
 * The frame is completed while the superblock still has the old length, for which what lies behind it in the frame means
 * nothing. So a crash before the new superblock leaves the old cache, and one behind it the new one.
 *
 * Less: what is clean of the rest is forgotten. That is also the way back for a table that was made larger and then could
 * not be put in place, since another line of it failed.
 */
import { type BlockDevice, SECTOR, beginFormat, readGiven, readWhatIsGiven, refuse } from "@dmkit/block-io";
import { NONE, states } from "../core/frame-table.ts";
import { currentSuperblock, readSuperblocks, writeSuperblocks } from "../device/metadata/superblocks.ts";
import type { CacheState } from "../device/state.ts";
import type { Geometry } from "../format/geometry.ts";
import { layoutOf } from "../format/layout.ts";
import type { Superblock } from "../format/superblock.ts";
import { type NewCache, createV2 } from "./create.ts";

/**
 * Makes the block in which the source ended whole, durably, or forgets it where it is clean. Throws `EIO` where nobody knows
 * what of it is in the cache, and what the devices throw.
 * @param end bytes the source had.
 */
export async function completeLast(state: CacheState, end: number): Promise<void> {
  const { blockBytes, frames, unknown, source, cache } = state;
  const within = end % blockBytes;
  if (within === 0) return;
  if (unknown.size > 0) {
    const reason =
      "the source cannot count as larger while the cache device does not give what it has of its end";
    throw refuse(
      state.name,
      "EIO",
      reason,
      "Open it with the former length, and write back what can be (clean).",
    );
  }
  const block = Math.floor(end / blockBytes);
  const frame = frames.find(block);
  if (frame === NONE) return;
  if (!frames.isDirty(frame)) return frames.release(frame);
  const rest = Buffer.alloc(state.bytesOf(block) - within);
  await source.read(end, rest);
  await cache.write(state.frameOffset(frame) + within, rest);
  await cache.flush();
}

/**
 * Forgets what is cached of blocks that are not mapped any more as a whole. Nothing is written. Throws `EBUSY` where that may
 * be all there is.
 * @param before sectors the source had.
 */
export function forgetBehind({ name, frames, unknown, size, blockBytes }: CacheState, before: number): void {
  const first = Math.floor(size / blockBytes);
  const behind: number[] = [];
  for (let frame = 0; frame < frames.geometry.frames; frame += 1)
    if (frames.stateOf(frame) !== states.free && frames.blockOf(frame) >= first) behind.push(frame);
  if (unknown.size > 0 || behind.some((frame) => frames.isDirty(frame))) {
    throw refuse(
      name,
      "EBUSY",
      `what is dirty may lie behind sector ${size / SECTOR}, where the source would end`,
      `Open it with the length it had ("0 ${before} cache …"), and write back what is dirty: dmkit message NAME clean. Then close it.`,
    );
  }
  for (const frame of behind) frames.release(frame);
}

/**
 * Makes a larger cache in the place of one that was closed with nothing dirty. Where that fails, of what is new on the device
 * perhaps, the former one is put back as it was; or one of its geometry, empty, if that cannot be; throws the first error.
 */
export async function createLarger(
  cache: BlockDevice,
  wanted: NewCache,
  before: Geometry,
): Promise<Superblock> {
  const putBack = await keep(cache, layoutOf(wanted.geometry).dataStart * SECTOR);
  try {
    return await createV2(cache, wanted);
  } catch (error) {
    const isBack = await putBack().catch(() => false);
    if (!isBack) await createV2(cache, { ...wanted, geometry: before }).catch(() => {});
    throw error;
  }
}

/**
 * Keeps what making another cache writes over: its superblocks, and what lies before byte `end`, which has frames of the former
 * one behind its entries. The result puts it back, the superblocks last, and is false where that cannot be: what was not given
 * is something else now.
 */
async function keep(cache: BlockDevice, end: number): Promise<() => Promise<boolean>> {
  const unit = cache.limits.logicalBlockSize;
  const superblock = currentSuperblock(await readSuperblocks(cache));
  const bytes = Buffer.alloc(end);
  const missing = await readWhatIsGiven(cache, 0, bytes);
  const last = await readGiven(cache, cache.size - unit, unit);
  return async () => {
    if (superblock === undefined) return false;
    await beginFormat(cache);
    const now = Buffer.alloc(end);
    const lost = await readWhatIsGiven(cache, 0, now);
    for (let at = superblock.entryStart * SECTOR; at < end; at += unit) {
      const piece = bytes.subarray(at, at + unit);
      const isLost = lost.has(at / SECTOR);
      if (missing.has(at / SECTOR)) {
        if (!isLost) return false;
        // What was not written over may lie where nothing can be written.
      } else if (isLost || !now.subarray(at, at + unit).equals(piece)) await cache.write(at, piece);
    }
    // The second copy of the new one. What is neither given nor taken there is none.
    if (last !== undefined) await putLast(cache, last);
    await cache.flush();
    await writeSuperblocks(cache, superblock);
    return true;
  };
}

async function putLast(cache: BlockDevice, block: Buffer): Promise<void> {
  const at = cache.size - block.length;
  const now = await readGiven(cache, at, block.length);
  if (now === undefined || !now.equals(block)) await cache.write(at, block);
}
