/**
 * Writes the metadata and the superblock of an image that is made, or made anew, as a whole.
 *
 * Invariant: from the first write to the last there is no superblock that anybody would believe, and nothing that
 * would be taken for an empty device. So what was interrupted is refused, and done again.
 */
import { type BlockDevice, SECTOR } from "@dmkit/block-io";
import type { ExtentMap } from "../core/extent-map.ts";
import { packBlock } from "../format/entries-v1.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { encodeGroup } from "../format/metadata-v2.ts";
import { type SuperblockV1, encodeSuperblockV1 } from "../format/superblock-v1.ts";
import { type SuperblockV2, unfinishedSuperblock } from "../format/superblock-v2.ts";
import { writeSuperblock } from "../device/v2/superblocks.ts";

const CHUNK_BLOCKS = 256;

/** To be called before anything else is written. */
export async function beginImage(device: BlockDevice): Promise<void> {
  const blocks = Buffer.alloc(2 * BLOCK);
  for (const copy of [0, 1]) unfinishedSuperblock().copy(blocks, copy * BLOCK);
  await device.write(0, blocks);
  await device.flush();
}

/** Metadata, and when everything is stable the superblock. */
export async function finishV1(
  device: BlockDevice,
  superblock: SuperblockV1,
  states: ExtentMap["states"],
): Promise<void> {
  await writeBlocks(device, 1, superblock.metaBlocks, (page, into) => packBlock(states, page, into));
  await device.flush();
  await device.write(0, encodeSuperblockV1(superblock));
  await device.flush();
}

export interface MetadataV2 {
  readonly superblock: SuperblockV2;
  readonly states: ExtentMap["states"];
  readonly sums: Uint32Array;
  /** Numbers of the records that wrote the sectors; 0 where there is none. */
  readonly records?: ReadonlyMap<number, number>;
  /** Sectors that are written as they are. */
  readonly verbatim?: ReadonlyMap<number, Buffer>;
}

/** Metadata, and when everything is stable the superblocks. */
export async function finishV2(
  device: BlockDevice,
  { superblock, states, sums, records, verbatim }: MetadataV2,
): Promise<void> {
  const { metaStart, metaBlocks } = superblock.layout;
  await writeBlocks(device, metaStart, metaBlocks, (block, into) => {
    for (let at = 0; at < BLOCK; at += SECTOR) {
      const group = (block * BLOCK + at) / SECTOR;
      const given = verbatim?.get(group);
      if (given !== undefined) given.copy(into, at);
      else encodeGroup(into, at, superblock.uuid, group, records?.get(group) ?? 0, states, sums);
    }
  });
  await device.flush();
  await writeSuperblock(device, superblock);
}

async function writeBlocks(
  device: BlockDevice,
  start: number,
  count: number,
  fill: (block: number, into: Buffer) => void,
): Promise<void> {
  for (let first = 0; first < count; first += CHUNK_BLOCKS) {
    const blocks = Math.min(CHUNK_BLOCKS, count - first);
    const chunk = Buffer.alloc(blocks * BLOCK);
    for (let index = 0; index < blocks; index += 1) {
      fill(first + index, chunk.subarray(index * BLOCK, (index + 1) * BLOCK));
    }
    await device.write((start + first) * BLOCK, chunk);
  }
}
