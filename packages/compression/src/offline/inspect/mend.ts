/**
 * Metadata of format 2 that is damaged, and is known all the same:
 *
 * - a sector in which one bit was flipped, if every payload it describes agrees;
 * - one all of whose blocks were changed by the last two records.
 */
import { type BlockDevice, type ImageProblem, SECTOR } from "@dmkit/block-io";
import type { StoredExtent } from "../../core/extent-map.ts";
import { Applier } from "../../device/v2/applier.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { decodeGroup, encodeGroup, mendGroup } from "../../format/metadata-v2.ts";
import { isWellFormed } from "../../open/v2/load.ts";
import { type ImageV2, ROLE, checks, readPayload } from "../image.ts";
import { type Finding, blocksAt } from "./findings.ts";

/**
 * Puts what is known right in the view and the store, and says what that was, with the fix for the device. To be called
 * before the journal is replayed.
 */
export async function mendMetadata(image: ImageV2): Promise<Finding[]> {
  const { unreadable, sealed } = image.store;
  const mended: Finding[] = [];
  for (const group of unreadable) {
    const bit = sealed.has(group) ? undefined : await mendBit(image, group);
    const finding = bit ?? (await rebuild(image, group));
    if (finding !== undefined) mended.push(finding);
  }
  return mended;
}

/** Puts a flipped bit of a group's metadata right, in the view and the store, if everything agrees with that. */
async function mendBit(image: ImageV2, group: number): Promise<Finding | undefined> {
  const { store, superblock, view, map } = image;
  const offset = superblock.layout.metaStart * BLOCK + group * SECTOR;
  const stored = await readSector(view, offset);
  const sector = mendGroup(stored, superblock.uuid, group);
  if (sector === undefined) return undefined;
  const first = group * GROUP;
  const record = decodeGroup(sector, superblock.uuid, group, map.states, store.sums);
  if (!(await agrees(image, group, sector, record))) {
    const blocks = Math.min(GROUP, map.blocks - first);
    map.lose(first, blocks);
    store.sums.fill(0, first, first + blocks);
    return undefined;
  }
  return put(image, group, sector, "one bit of it has changed", "put the bit right");
}

/** A group all of whose blocks were changed by the last two records is known from them. */
async function rebuild(image: ImageV2, group: number): Promise<Finding | undefined> {
  const { store, superblock, map, records } = image;
  const newest = records.at(-1);
  // Records that came later would have changed what these say.
  if (newest === undefined || newest.number < superblock.applied) return undefined;
  // A block of the device that is not given has others, too.
  if (store.sealed.has(group) && store.parts.lower.limits.logicalBlockSize > SECTOR) return undefined;
  const first = group * GROUP;
  const known = new Set<number>();
  const changes = records.flatMap((record) =>
    record.changes.filter((change) => Math.floor(change.first / GROUP) === group),
  );
  for (const change of changes) {
    for (let block = change.first; block < change.first + change.blocks; block += 1) known.add(block);
  }
  if (known.size < Math.min(GROUP, map.blocks - first)) return undefined;
  new Applier(store).updateMap(changes);
  const sector = Buffer.alloc(SECTOR);
  encodeGroup(sector, 0, superblock.uuid, group, newest.number, map.states, store.sums);
  return put(image, group, sector, "it is damaged", "write it again, from the journal");
}

async function put(
  image: ImageV2,
  group: number,
  sector: Buffer,
  text: string,
  repair: string,
): Promise<Finding> {
  const { store, view, superblock } = image;
  const offset = superblock.layout.metaStart * BLOCK + group * SECTOR;
  store.unreadable.delete(group);
  store.sealed.unseal(group);
  await patch(view, offset, sector);
  return {
    problem: { ...groupProblem(image, group), text, repair },
    fix: (device) => patch(device, offset, sector),
  };
}

/** Whether mended metadata is just what would have been written, and the payloads are those it describes. */
async function agrees(
  image: ImageV2,
  group: number,
  sector: Buffer,
  record: number | undefined,
): Promise<boolean> {
  const { store, superblock, map } = image;
  const first = group * GROUP;
  if (record === undefined || Number.isNaN(record) || !isWellFormed(map, first)) return false;
  const again = Buffer.alloc(SECTOR);
  encodeGroup(again, 0, superblock.uuid, group, record, map.states, store.sums);
  if (!again.equals(sector)) return false;
  const end = Math.min(first + GROUP, map.blocks);
  for (let block = first; block < end; ) {
    const extent = map.find(block);
    // What the journal is about to replace may be half replaced.
    if (extent.sectors > 0 && !extent.bad && !isPending(image, extent)) {
      const payload = await readPayload(image, extent);
      if (payload === undefined || !checks(image, extent, payload)) return false;
    }
    block = extent.head + extent.blocks;
  }
  return true;
}

function isPending({ pending }: ImageV2, { head, blocks }: StoredExtent): boolean {
  return pending.some(({ changes }) =>
    changes.some((change) => change.first < head + blocks && head < change.first + change.blocks),
  );
}

/** The place of a group's metadata, in the words of a finding. */
export function groupProblem({ superblock, map }: ImageV2, group: number): Omit<ImageProblem, "text"> {
  const first = group * GROUP;
  return {
    kind: "metadata",
    severity: "error",
    role: ROLE,
    location: `metadata of ${blocksAt(first, Math.min(GROUP, map.blocks - first))}`,
    offset: superblock.layout.metaStart * BLOCK + group * SECTOR,
    length: SECTOR,
  };
}

async function readSector(device: BlockDevice, offset: number): Promise<Buffer> {
  const { start, block } = await enclosing(device, offset, SECTOR, true);
  return block.subarray(offset - start, offset - start + SECTOR);
}

/** Writes whole sectors on a device whose blocks may be larger: what is around them stays. */
async function patch(device: BlockDevice, offset: number, bytes: Buffer): Promise<void> {
  const { start, block } = await enclosing(device, offset, bytes.length);
  bytes.copy(block, offset - start);
  await device.write(start, block);
}

async function enclosing(
  device: BlockDevice,
  offset: number,
  length: number,
  isRead = false,
): Promise<{ start: number; block: Buffer }> {
  const unit = device.limits.logicalBlockSize;
  const start = Math.floor(offset / unit) * unit;
  const block = Buffer.alloc(Math.ceil((offset + length) / unit) * unit - start);
  // What is overwritten as a whole need not be readable.
  if (isRead || block.length > length) await device.read(start, block);
  return { start, block };
}
