/**
 * What is wrong with bitmaps, and putting it right: a copy of the superblock is written from the other one, a page that is
 * lost is written with everything marked. That is what opening does as well, so nothing is guessed.
 */
import {
  type BlockDevice,
  type ImageProblem,
  type ImageRepair,
  type OfflineWork,
  SECTOR,
} from "@dmkit/block-io";
import { trackedRules } from "../core/rules.ts";
import { PageWriter } from "../device/page-writer.ts";
import { currentSuperblock, readSuperblocks, writeOrder, writeSuperblocks } from "../device/superblocks.ts";
import { PAGE_CHUNKS, SUPERBLOCK_BYTES, bitmapDeviceSize, chunksOf, slotStart } from "../format/geometry.ts";
import type { Superblock } from "../format/superblock.ts";
import { type FoundBitmaps, findBitmaps } from "../open/bitmaps.ts";
import { whyChanged } from "../open/open.ts";

/** Everything that can be verified. @param data the tracked device, if it is named. */
export async function* checkBitmaps(
  bitmap: BlockDevice,
  data: BlockDevice | undefined,
  work: OfflineWork,
): AsyncIterable<ImageProblem> {
  const copies = await readSuperblocks(bitmap);
  const superblock = currentSuperblock(copies);
  if (superblock === undefined) {
    yield {
      kind: "no-superblock",
      severity: "error",
      role: "bitmap",
      location: "superblock",
      text: `no copy of the superblock is sound: ${copies.map(({ problem }) => problem).join("; ")}`,
      advice:
        "Make full backups, and the bitmaps anew: dmkit format tracked, or the option reset of the table.",
    };
    return;
  }
  for (const { offset, superblock: copy, problem } of copies) {
    if (copy?.generation === superblock.generation) continue;
    yield {
      kind: "superblock-copy",
      severity: copy === undefined ? "warning" : "info",
      role: "bitmap",
      location: `superblock at byte ${offset}`,
      offset,
      length: SUPERBLOCK_BYTES,
      text: problem ?? "this copy is older than the other one: power failed between the two",
      repair: "it is written from the other copy",
    };
  }
  const need = bitmapDeviceSize(superblock.geometry);
  if (bitmap.size < need) {
    yield {
      kind: "too-small",
      severity: "error",
      role: "bitmap",
      location: "bitmap device",
      text: `it has ${bitmap.size} bytes, ${need} are needed`,
      advice: "A file that was cut short has lost bitmaps: make it longer again, and repair.",
    };
    return;
  }
  const found = await findBitmaps(bitmap, work);
  for (const { epoch, page } of found.lost) {
    const first = page * PAGE_CHUNKS;
    const { chunk } = superblock.geometry;
    const end = Math.min(chunksOf(superblock.geometry), first + PAGE_CHUNKS);
    yield {
      kind: "lost-page",
      severity: "warning",
      role: "bitmap",
      location: `epoch ${epoch.name}, page ${page}`,
      offset: slotStart(superblock.geometry, epoch.slot) + page * SECTOR,
      length: SECTOR,
      text: `the page is damaged: bytes ${first * chunk} … ${end * chunk - 1} of the device count as changed`,
      repair: "it is written with everything marked",
    };
  }
  if (data !== undefined) yield* checkData(superblock, data);
}

async function* checkData(superblock: Superblock, data: BlockDevice): AsyncIterable<ImageProblem> {
  const { size } = superblock.geometry;
  const at = { role: "device", location: "tracked device" } as const;
  if (data.size < size) {
    const text = `it has ${data.size} bytes, and ${size} are tracked`;
    yield {
      ...at,
      kind: "data-too-small",
      severity: "error",
      text,
      advice: "Check that it is the right device.",
    };
    return;
  }
  const changed = superblock.epochs.length === 0 ? undefined : await whyChanged(superblock, data);
  if (changed === undefined) return;
  const advice = "If it is the right device, open it: everything is marked in all epochs then.";
  yield { ...at, kind: "changed-data", severity: "warning", text: changed, advice };
}

/** Errors: EROFS, those of the device. */
export async function repairBitmaps(
  bitmap: BlockDevice,
  data: BlockDevice | undefined,
  work: OfflineWork,
): Promise<ImageRepair> {
  const repaired: ImageProblem[] = [];
  const left: ImageProblem[] = [];
  for await (const problem of checkBitmaps(bitmap, data, work)) {
    (problem.repair === undefined ? left : repaired).push(problem);
  }
  if (repaired.length > 0) await writeAnew(bitmap, await foundOrCopies(bitmap, work));
  return { repaired, left };
}

/** The bitmaps; only the superblock of a device that has no room for them. */
async function foundOrCopies(
  bitmap: BlockDevice,
  work: OfflineWork,
): Promise<Pick<FoundBitmaps, "superblock"> & Partial<FoundBitmaps>> {
  const superblock = currentSuperblock(await readSuperblocks(bitmap)) as Superblock;
  return bitmap.size < bitmapDeviceSize(superblock.geometry) ? { superblock } : findBitmaps(bitmap, work);
}

/** Pages first: a superblock that calls a bitmap more than has changed speaks of one that is written. */
async function writeAnew(
  bitmap: BlockDevice,
  { superblock, table }: Pick<FoundBitmaps, "superblock"> & Partial<FoundBitmaps>,
): Promise<void> {
  if (table !== undefined) await new PageWriter(bitmap, table, superblock.uuid, trackedRules).flush();
  const epochs = table?.epochs ?? superblock.epochs;
  const order = writeOrder(await readSuperblocks(bitmap));
  await writeSuperblocks(bitmap, { ...superblock, generation: superblock.generation + 1, epochs }, order);
}
