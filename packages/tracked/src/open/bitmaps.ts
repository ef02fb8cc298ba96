/** The bitmaps of a device that nobody serves, as they would be found by opening it. Nothing is written. */
import { type BlockDevice, type LongWork, refuse } from "@dmkit/block-io";
import { EpochTable } from "../core/epochs.ts";
import { readPages } from "../device/pages.ts";
import { currentSuperblock, readSuperblocks } from "../device/superblocks.ts";
import { pagesOf } from "../format/geometry.ts";
import { decodePage } from "../format/page.ts";
import type { EpochRecord, Superblock } from "../format/superblock.ts";

/** A page that is lost. */
export interface LostPage {
  readonly epoch: EpochRecord;
  readonly page: number;
}

export interface FoundBitmaps {
  readonly superblock: Superblock;
  /** What is lost is marked in it. */
  readonly table: EpochTable;
  readonly lost: readonly LostPage[];
}

/** The superblock that counts. Throws `EFORMAT` if there is none. */
export async function requireSuperblock(bitmap: BlockDevice): Promise<Superblock> {
  const copies = await readSuperblocks(bitmap);
  const superblock = currentSuperblock(copies);
  if (superblock !== undefined) return superblock;
  const problems = copies.map(({ problem }) => problem).join("; ");
  throw refuse(
    bitmap.name,
    "EFORMAT",
    `there are no bitmaps: ${problems}`,
    "Name the bitmap device. If it is the one, its superblock is lost: make full backups, and the bitmaps anew.",
  );
}

/** Errors: `EFORMAT`, the signal's reason, those of the device that are no matter of a place. */
export async function findBitmaps(
  bitmap: BlockDevice,
  {
    signal,
    progress,
  }: {
    readonly signal?: AbortSignal | undefined;
    readonly progress?: ((done: number, total: number) => void) | undefined;
  } = {},
): Promise<FoundBitmaps> {
  const superblock = await requireSuperblock(bitmap);
  const { uuid, geometry, epochs } = superblock;
  const table = new EpochTable(geometry);
  const lost: LostPage[] = [];
  const total = epochs.length * pagesOf(geometry);
  let done = 0;
  for (const recorded of epochs) {
    const epoch = table.add(recorded, true);
    const owner = { uuid, number: epoch.number };
    const work: Pick<LongWork, "signal"> = { signal };
    for await (const found of readPages(bitmap, geometry, epoch.slot, owner, decodePage, work)) {
      for (const { page, bits } of found) {
        table.load(epoch, page, bits);
        if (bits === undefined) lost.push({ epoch: recorded, page });
      }
      done += found.length;
      progress?.(done, total);
    }
  }
  return { superblock, table, lost };
}
