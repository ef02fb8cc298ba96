/** The two copies of the superblock: read, written one after the other, made. */
import {
  type BlockDevice,
  type BlockIoError,
  type Random,
  SECTOR,
  beginFormat,
  isOfPlace,
  randomUuid,
  readWhatIsGiven,
  refuse,
  uuidBytes,
  worstOf,
} from "@dmkit/block-io";
import { listBackends } from "@dmkit/compressor";
import { BLOCK } from "../../format/geometry-v1.ts";
import { type LayoutV2, isSound } from "../../format/layout-v2.ts";
import { encodeGroup } from "../../format/metadata-v2.ts";
import {
  type Decoded,
  type SuperblockV2,
  decodeSuperblockV2,
  encodeSuperblockV2,
} from "../../format/superblock-v2.ts";
import type { StoreParts } from "./store.ts";

const CHUNK = 1024 * 1024;

/** Both copies, as they are; undefined where the device does not give one. */
export async function readCopies(lower: BlockDevice): Promise<(Buffer | undefined)[]> {
  const blocks = Buffer.alloc(2 * BLOCK);
  const missing = await readWhatIsGiven(lower, 0, blocks);
  return [0, BLOCK].map((at) => (missing.has(at / SECTOR) ? undefined : blocks.subarray(at, at + BLOCK)));
}

/** Whether the device below gives anything of them: what it does not give is a matter of the place then. */
export async function isGivenAtAll(lower: BlockDevice): Promise<boolean> {
  const blocks = Buffer.alloc(2 * BLOCK);
  return (await readWhatIsGiven(lower, 0, blocks)).size < blocks.length / SECTOR;
}

/** Both copies: what each of them is. */
export async function readSuperblockCopies(lower: BlockDevice): Promise<Decoded[]> {
  const copies = await readCopies(lower);
  return copies.map((copy) => (copy === undefined ? { kind: "unreadable" } : decodeSuperblockV2(copy)));
}

/** Of all copies the newest sound one; it is closed if both say so. */
export function newestOf(copies: readonly Decoded[]): SuperblockV2 | undefined {
  const sound = copies.flatMap((copy) => (copy.kind === "sound" ? [copy.superblock] : []));
  const [first, second] = sound;
  if (first === undefined || second === undefined) return first && { ...first, closed: false };
  const newest = second.generation > first.generation ? second : first;
  const areAlike = first.generation === second.generation;
  return { ...newest, closed: areAlike && first.closed && second.closed };
}

/** The newer of the sound copies; undefined if neither looks like one. Throws `EFORMAT`, `EIO` if neither can be read. */
export async function readSuperblock(lower: BlockDevice): Promise<SuperblockV2 | undefined> {
  const copies = await readSuperblockCopies(lower);
  const newest = newestOf(copies);
  if (newest === undefined) {
    if (copies.some(({ kind }) => kind === "version"))
      throw unreadable(lower, "a later program made this device", "Use that one.");
    if (copies.some(({ kind }) => kind === "damaged"))
      throw unreadable(lower, "both copies of the superblock are damaged", "Restore block 0 from a backup.");
    if (copies.some(({ kind }) => kind === "unreadable")) {
      const reason =
        "a copy of the superblock cannot be read, and the other one is none: nobody knows what this is";
      const hint = "Copy the device to one that is whole, and restore its first two blocks from a backup.";
      throw refuse(lower.name, "EIO", reason, hint);
    }
    return undefined;
  }
  if (!isSound(newest.layout)) throw unreadable(lower, "the superblock makes no sense", "Restore a backup.");
  const need = newest.layout.totalBlocks * BLOCK;
  if (lower.size < need) {
    throw unreadable(lower, `the device has ${lower.size} bytes, ${need} are needed`, "It was cut short.");
  }
  return newest;
}

/** What is wrong with a superblock that is sound, but names an algorithm nobody knows. */
export function unknownAlgorithm({
  algorithm,
}: SuperblockV2): { readonly reason: string; readonly hint: string } | undefined {
  const known = listBackends();
  if (known.includes(algorithm)) return undefined;
  return {
    reason: `the superblock names the algorithm ${JSON.stringify(algorithm)}, which is not known`,
    hint: `Known are: ${known.join(", ")}. Use the program that made the device, or restore the first two blocks from a backup.`,
  };
}

/** Throws `EFORMAT` for an algorithm that nobody knows. */
export function requireAlgorithm(lower: BlockDevice, superblock: SuperblockV2): void {
  const unknown = unknownAlgorithm(superblock);
  if (unknown !== undefined) throw unreadable(lower, unknown.reason, unknown.hint);
}

function unreadable(lower: BlockDevice, reason: string, hint: string): BlockIoError {
  return refuse(lower.name, "EFORMAT", reason, hint);
}

/** One copy after the other, each stable before the next: there is always a sound one. */
export async function writeSuperblock(lower: BlockDevice, superblock: SuperblockV2): Promise<void> {
  for (const copy of [0, 1]) {
    await writeCopy(lower, superblock, copy);
    await lower.flush();
  }
}

/** @param copy 0 or 1. */
export async function writeCopy(lower: BlockDevice, superblock: SuperblockV2, copy: number): Promise<void> {
  const block = Buffer.alloc(BLOCK);
  encodeSuperblockV2(superblock).copy(block);
  await lower.write(copy * BLOCK, block.subarray(0, lower.limits.logicalBlockSize));
}

type Kept = Pick<StoreParts, "lower" | "superblock" | "logger">;

/** Says in both copies that it is not closed any more; the caller makes that stable. One that takes it is enough. */
export async function openSuperblock({ lower, superblock }: Kept): Promise<void> {
  const newer = { ...superblock, closed: false, generation: superblock.generation + 1 };
  const written = await Promise.allSettled([0, 1].map((copy) => writeCopy(lower, newer, copy)));
  const failed = worstOf(written);
  if (
    failed === undefined ||
    (isOfPlace(failed.error) && written.some(({ status }) => status === "fulfilled"))
  )
    return;
  throw failed.error;
}

/**
 * After a clean close nothing has to be replayed: makes everything in place stable, then says so, in both copies. One
 * that the device does not take is told, and the other one serves.
 * @param closed all is in place; else the last record has what is not.
 */
export async function closeSuperblock(
  { lower, superblock, logger }: Kept,
  applied: number,
  closed: boolean,
): Promise<void> {
  if (closed && applied === superblock.applied && newestOf(await readSuperblockCopies(lower))?.closed) return;
  await lower.flush();
  // Beyond what {@link openSuperblock} has written.
  const newer = { ...superblock, applied, closed, generation: superblock.generation + 2 };
  let refused: BlockIoError | undefined;
  for (const copy of [0, 1]) {
    try {
      await writeCopy(lower, newer, copy);
    } catch (error) {
      if (refused !== undefined || !isOfPlace(error)) throw error;
      refused = error;
      logger.log("warn", "a copy of the superblock cannot be written; the other one serves", {
        copy,
        error: error.message,
      });
    }
    await lower.flush();
  }
}

/** That of a device with nothing in its journal. */
export function newSuperblock(layout: LayoutV2, algorithm: string, random: Random): SuperblockV2 {
  const uuid = uuidBytes(randomUuid(random));
  return { layout, uuid, generation: 1, applied: 0, closed: true, features: 0, algorithm };
}

/** Makes an empty device, whatever was there. Until it is ready there is no superblock, and the device counts as blank. */
export async function formatV2(
  lower: BlockDevice,
  layout: LayoutV2,
  algorithm: string,
  random: Random,
): Promise<SuperblockV2> {
  // The second copy first: the one that is left, if any, belongs to metadata that is whole.
  await lower.write(BLOCK, Buffer.alloc(BLOCK));
  await beginFormat(lower);
  const superblock = newSuperblock(layout, algorithm, random);
  const { uuid } = superblock;
  const states = new Uint8Array(0);
  const sums = new Uint32Array(0);
  const { metaStart, metaBlocks } = layout;
  for (let at = 0; at < metaBlocks * BLOCK; at += CHUNK) {
    const chunk = Buffer.alloc(Math.min(CHUNK, metaBlocks * BLOCK - at));
    for (let within = 0; within < chunk.length; within += SECTOR) {
      encodeGroup(chunk, within, uuid, (at + within) / SECTOR, 0, states, sums);
    }
    await lower.write(metaStart * BLOCK + at, chunk);
  }
  await lower.flush();
  await writeSuperblock(lower, superblock);
  return superblock;
}
