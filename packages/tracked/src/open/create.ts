/**
 * Makes a bitmap device ready. A crash before the end leaves a device that counts as blank, and is made ready again:
 *
 *      1  the first block says that formatting has begun; flush
 *      2  pages of the epochs, if there are any; flush
 *      3  second copy of the superblock; flush
 *      4  first copy; flush
 */
import { type BlockDevice, type Random, beginFormat, randomUuid, refuse } from "@dmkit/block-io";
import { writeSlot } from "../device/pages.ts";
import { writeSuperblocks } from "../device/superblocks.ts";
import {
  type Geometry,
  SUPERBLOCK_PLACES,
  bitmapDeviceSize,
  chunksOf,
  geometryProblem,
} from "../format/geometry.ts";
import type { EpochRecord, Superblock } from "../format/superblock.ts";

/** What new bitmaps begin with. */
export interface NewBitmaps {
  readonly geometry: Geometry;
  readonly random: Random;
  readonly epochs?: readonly EpochRecord[];
  /** Of the device; default: a new one. */
  readonly uuid?: string;
  readonly nextNumber?: number;
  /** The bits of a page of an epoch. Left out: none are set. */
  readonly bits?: (epoch: EpochRecord, page: number) => Uint8Array;
}

/** Throws `EINVAL` for bitmaps that cannot be, or not on this device. */
export function requireGeometry(bitmap: BlockDevice, geometry: Geometry): void {
  const problem = geometryProblem(geometry);
  if (problem !== undefined) throw refuse(bitmap.name, "EINVAL", problem, "Give another granularity.");
  const need = bitmapDeviceSize(geometry);
  if (bitmap.size >= need) return;
  throw refuse(
    bitmap.name,
    "EINVAL",
    `has ${bitmap.size} bytes; ${geometry.slots} epochs of ${chunksOf(geometry)} chunks need ${need}`,
    "Give a larger device, a coarser granularity, or fewer epochs; a file may be sparse.",
  );
}

/** Writes over whatever is on the device; returns what it is then. Errors: those of the device. */
export async function createBitmaps(
  bitmap: BlockDevice,
  { geometry, random, epochs = [], uuid = randomUuid(random), bits, nextNumber = 1 }: NewBitmaps,
): Promise<Superblock> {
  await beginFormat(bitmap);
  for (const epoch of epochs) {
    const owner = { uuid, number: epoch.number };
    await writeSlot(bitmap, geometry, epoch.slot, owner, bits && ((page) => bits(epoch, page)));
  }
  const superblock: Superblock = {
    uuid,
    generation: 1,
    clean: false,
    witness: undefined,
    geometry,
    nextNumber,
    epochs,
  };
  await writeSuperblocks(bitmap, superblock, SUPERBLOCK_PLACES.toReversed());
  return superblock;
}
