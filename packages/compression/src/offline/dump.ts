/**
 * `dump`: metadata as plain data. What the journal has is not looked at: it stays on the device.
 *
 * Everything that is as the encoder would have written it comes as extents; what is not (damaged sectors, entries
 * that make no sense) comes as it is, so that nothing is lost.
 */
import { type BlockDevice, type OfflineWork, SECTOR, readWhatIsGiven } from "@dmkit/block-io";
import { ExtentMap, LOST, type StoredExtent } from "../core/extent-map.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { GROUP, type LayoutV2 } from "../format/layout-v2.ts";
import { decodeGroup, encodeGroup } from "../format/metadata-v2.ts";
import { decodeSuperblockV1, isSuperblockV1 } from "../format/superblock-v1.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import { isWellFormed } from "../open/v2/load.ts";
import { readSuperblock } from "../device/v2/superblocks.ts";
import { loadEntries, matchGeometry } from "../open/v1/load.ts";
import { foreign, readStart } from "./image.ts";

export interface ExtentV1 {
  readonly head: number;
  readonly blocks: number;
  readonly sectors: number;
}

export interface DumpV1 {
  readonly type: "compression";
  readonly format: "v1";
  readonly superblock: {
    readonly metaBlocks: number;
    readonly dataBlocks: number;
    readonly algorithm: number;
  };
  readonly extents: readonly ExtentV1[];
  /** Entries that are neither zero nor part of an extent as the original writes them. */
  readonly entries: readonly { readonly first: number; readonly values: readonly number[] }[];
}

export interface GroupV2 {
  readonly group: number;
  /** Number of the journal record that wrote it. */
  readonly record: number;
  readonly extents: readonly (ExtentV1 & { readonly sum: number })[];
  readonly lost: readonly { readonly first: number; readonly blocks: number }[];
}

export interface DumpV2 {
  readonly type: "compression";
  readonly format: "v2";
  readonly superblock: {
    readonly uuid: string;
    readonly generation: number;
    readonly applied: number;
    readonly closed: boolean;
    readonly algorithm: string;
    readonly layout: LayoutV2;
  };
  /** Those that are not as they were when the device was made. */
  readonly groups: readonly GroupV2[];
  /** Sectors that are damaged, as they are: 512 bytes each, in hexadecimal. */
  readonly damaged: readonly { readonly group: number; readonly bytes: string }[];
}

const CHUNK_BLOCKS = 256;

/** Throws `EFORMAT` if it is no such device. */
export async function dump(device: BlockDevice, work: OfflineWork): Promise<DumpV1 | DumpV2> {
  const first = await readStart(device);
  if (isSuperblockV1(first)) return dumpV1(device, first);
  const superblock = device.size < 2 * BLOCK ? undefined : await readSuperblock(device);
  if (superblock === undefined) throw foreign(device);
  return dumpV2(device, superblock, work);
}

async function dumpV1(device: BlockDevice, first: Buffer): Promise<DumpV1> {
  const { metaBlocks, dataBlocks, algorithm } = decodeSuperblockV1(first);
  const { geometry } = matchGeometry(device, { metaBlocks, dataBlocks, algorithm });
  const map = new ExtentMap(geometry.dataBlocks);
  await loadEntries(device, map, metaBlocks);
  const extents: ExtentV1[] = [];
  const entries: { first: number; values: number[] }[] = [];
  for (let block = 0; block < map.blocks; ) {
    const extent = map.find(block);
    if (extent.head === block && isCanonical(map, extent)) {
      extents.push({ head: block, blocks: extent.blocks, sectors: extent.sectors });
      block += extent.blocks;
      continue;
    }
    const value = map.states[block] as number;
    const last = entries.at(-1);
    if (value !== 0) {
      if (last !== undefined && last.first + last.values.length === block) last.values.push(value);
      else entries.push({ first: block, values: [value] });
    }
    block += 1;
  }
  const superblock = { metaBlocks, dataBlocks, algorithm };
  return { type: "compression", format: "v1", superblock, extents, entries };
}

/** Whether an extent has a payload, and its states are those that describe it. */
function isCanonical(map: ExtentMap, { head, blocks, sectors, bad }: StoredExtent): boolean {
  if (bad || sectors === 0) return false;
  const again = new ExtentMap(blocks);
  again.setExtent(0, blocks, sectors);
  return again.states.every((state, index) => state === map.states[head + index]);
}

async function dumpV2(
  device: BlockDevice,
  superblock: SuperblockV2,
  { signal, progress }: OfflineWork,
): Promise<DumpV2> {
  const { uuid, generation, applied, closed, algorithm, layout } = superblock;
  const map = new ExtentMap(layout.dataBlocks);
  const sums = new Uint32Array(layout.dataBlocks);
  const groups: GroupV2[] = [];
  const damaged: { group: number; bytes: string }[] = [];
  for (let at = 0; at < layout.metaBlocks; at += CHUNK_BLOCKS) {
    signal?.throwIfAborted();
    const chunk = Buffer.alloc(Math.min(CHUNK_BLOCKS, layout.metaBlocks - at) * BLOCK);
    // What is not given comes as zeroes: damaged.
    await readWhatIsGiven(device, (layout.metaStart + at) * BLOCK, chunk);
    for (let within = 0; within < chunk.length; within += SECTOR) {
      const group = (at * BLOCK + within) / SECTOR;
      const sector = chunk.subarray(within, within + SECTOR);
      const described = describeGroup(sector, uuid, group, map, sums);
      if (described === undefined) damaged.push({ group, bytes: sector.toString("hex") });
      else if (described.record > 0 || described.extents.length > 0 || described.lost.length > 0)
        groups.push(described);
    }
    progress?.(at, layout.metaBlocks);
  }
  return {
    type: "compression",
    format: "v2",
    superblock: { uuid: uuid.toString("hex"), generation, applied, closed, algorithm, layout },
    groups,
    damaged,
  };
}

/** Undefined if the sector is not what {@link encodeGroup} makes of its own description. */
function describeGroup(
  sector: Buffer,
  uuid: Buffer,
  group: number,
  map: ExtentMap,
  sums: Uint32Array,
): GroupV2 | undefined {
  const record = decodeGroup(sector, uuid, group, map.states, sums);
  if (record === undefined || Number.isNaN(record) || !isWellFormed(map, group * GROUP)) return undefined;
  const extents: (ExtentV1 & { sum: number })[] = [];
  const lost: { first: number; blocks: number }[] = [];
  const end = Math.min((group + 1) * GROUP, map.blocks);
  for (let block = group * GROUP; block < end; ) {
    const start = block;
    while (block < end && map.states[block] === LOST) block += 1;
    if (block > start) {
      lost.push({ first: start, blocks: block - start });
      continue;
    }
    const { blocks, sectors } = map.find(block);
    if (sectors > 0) extents.push({ head: block, blocks, sectors, sum: sums[block] as number });
    block += blocks;
  }
  fillGroup(map, sums, group, extents, lost);
  const again = Buffer.alloc(SECTOR);
  encodeGroup(again, 0, uuid, group, record, map.states, sums);
  return again.equals(sector) ? { group, record, extents, lost } : undefined;
}

/** The states and checksums of a group, from its description. */
export function fillGroup(
  map: ExtentMap,
  sums: Uint32Array,
  group: number,
  extents: GroupV2["extents"],
  lost: GroupV2["lost"],
): void {
  const first = group * GROUP;
  const blocks = Math.max(0, Math.min(GROUP, map.blocks - first));
  map.drop(first, blocks);
  sums.fill(0, first, first + blocks);
  for (const { head, blocks: count, sectors, sum } of extents) {
    map.setExtent(head, count, sectors);
    sums[head] = sum;
  }
  for (const run of lost) map.lose(run.first, run.blocks);
}
