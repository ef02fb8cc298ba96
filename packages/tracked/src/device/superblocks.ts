/** Reads and writes the two copies of the superblock. */
import { type BlockDevice, type BlockIoError, isOfPlace } from "@dmkit/block-io";
import { SUPERBLOCK_BYTES, SUPERBLOCK_PLACES } from "../format/geometry.ts";
import { type Superblock, decodeSuperblock, encodeSuperblock, hasMagic } from "../format/superblock.ts";

/** What one copy says. */
export interface Copy {
  /** Bytes on the bitmap device. */
  readonly offset: number;
  readonly superblock: Superblock | undefined;
  /** Why it is not valid; undefined if it is. */
  readonly problem: string | undefined;
  /** It carries our magic, valid or not. */
  readonly ours: boolean;
  /** It cannot be read. */
  readonly unread?: BlockIoError;
}

/** Both copies, the first one first; of a device too small for one, nothing. Errors: those of the device. */
export async function readSuperblocks(bitmap: BlockDevice): Promise<Copy[]> {
  const places = SUPERBLOCK_PLACES.filter((offset) => offset + SUPERBLOCK_BYTES <= bitmap.size);
  return Promise.all(places.map((offset) => readCopy(bitmap, offset)));
}

async function readCopy(bitmap: BlockDevice, offset: number): Promise<Copy> {
  const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
  try {
    await bitmap.read(offset, bytes);
  } catch (error) {
    if (!isOfPlace(error)) throw error;
    const problem = `it cannot be read: ${error.message}`;
    return { offset, superblock: undefined, problem, ours: false, unread: error };
  }
  const decoded = decodeSuperblock(bytes);
  return typeof decoded === "string"
    ? { offset, superblock: undefined, problem: decoded, ours: hasMagic(bytes) }
    : { offset, superblock: decoded, problem: undefined, ours: true };
}

/** The one that counts: valid, and of the highest generation. */
export function currentSuperblock(copies: readonly Copy[]): Superblock | undefined {
  return copies
    .flatMap(({ superblock }) => superblock ?? [])
    .reduce<Superblock | undefined>(
      (best, one) => (best === undefined || one.generation > best.generation ? one : best),
      undefined,
    );
}

/** Where the copies are, the one that is not sound, or older, first: in this order they can be written. */
export function writeOrder(copies: readonly Copy[]): number[] {
  const age = ({ superblock }: Copy): number => superblock?.generation ?? -1;
  return copies.toSorted((a, b) => age(a) - age(b)).map(({ offset }) => offset);
}

/**
 * Writes both copies, durably, the second one when the first is stable: so one of them is whole at every moment, as long
 * as the last one of `order` is whole when this begins.
 * @param written told of each copy that is stable.
 */
export async function writeSuperblocks(
  bitmap: BlockDevice,
  superblock: Superblock,
  order: readonly number[] = SUPERBLOCK_PLACES,
  {
    written,
    flushes = true,
  }: { readonly written?: (offset: number) => void; readonly flushes?: boolean } = {},
): Promise<void> {
  const bytes = encodeSuperblock(superblock);
  for (const offset of order) {
    await bitmap.write(offset, bytes);
    if (flushes) await bitmap.flush();
    written?.(offset);
  }
}
