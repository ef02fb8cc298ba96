/** Marks blocks whose contents are gone in the metadata: as lost, or as never written. */
import type { BlockDevice } from "@dmkit/block-io";
import { LOST } from "../core/extent-map.ts";
import { writeMetadata } from "../device/v2/applier.ts";
import { metaBlocksOf, packBlock } from "../format/entries-v1.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { GROUP } from "../format/layout-v2.ts";
import { type Image, type ImageV1, type ImageV2, openImage } from "./image.ts";

export interface Gone {
  readonly first: number;
  readonly blocks: number;
}

/** Whether anything was changed. The journal must be in place. */
export async function quarantine(
  device: BlockDevice,
  gone: readonly Gone[],
  as: "unreadable" | "zero",
): Promise<boolean> {
  const image = await openImage(device, false);
  try {
    const touched = gone.filter((run) => mark(image, run, as));
    if (image.format === "v1") await writeEntries(device, image, touched);
    else await writeGroups(device, image, touched);
    if (touched.length > 0) await device.flush();
    return touched.length > 0;
  } finally {
    await image.codec.close();
  }
}

/** Whether the map says something else now, or the device does not yet say what the map does. */
function mark(image: Image, { first, blocks }: Gone, as: "unreadable" | "zero"): boolean {
  const { map } = image;
  const state = as === "zero" ? 0 : LOST;
  const unread =
    image.format === "v1"
      ? image.sealed?.has(first) === true
      : image.store.unreadable.has(Math.floor(first / GROUP));
  const changes = unread || map.states.subarray(first, first + blocks).some((old) => old !== state);
  if (as === "zero") map.drop(first, blocks);
  else map.lose(first, blocks);
  if (image.format === "v2") image.store.sums.fill(0, first, first + blocks);
  return changes;
}

async function writeEntries(device: BlockDevice, { map }: ImageV1, touched: readonly Gone[]): Promise<void> {
  const pages = new Set<number>();
  for (const { first, blocks } of touched) {
    const { first: from, last } = metaBlocksOf(first, blocks);
    for (let page = from; page <= last; page += 1) pages.add(page);
  }
  for (const page of pages) {
    const bytes = Buffer.alloc(BLOCK);
    packBlock(map.states, page, bytes);
    await device.write((1 + page) * BLOCK, bytes);
  }
}

async function writeGroups(
  device: BlockDevice,
  { map, store, superblock }: ImageV2,
  touched: readonly Gone[],
): Promise<void> {
  const groups = new Set<number>();
  for (const { first, blocks } of touched) {
    for (let group = Math.floor(first / GROUP); group * GROUP < first + blocks; group += 1) groups.add(group);
  }
  // Not into the view.
  const parts = { ...store.parts, lower: device };
  await writeMetadata({ parts, map, sums: store.sums }, superblock.applied, groups);
}
