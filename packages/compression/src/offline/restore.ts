/**
 * `restore`: writes metadata that `dump` gave. Everything is validated before anything is written; contents are
 * not looked at, so a check belongs behind it.
 */
import { type BlockDevice, BlockIoError, SECTOR } from "@dmkit/block-io";
import { ExtentMap } from "../core/extent-map.ts";
import { BLOCK, BLOCK_SECTORS, MAX_EXTENT } from "../format/geometry-v1.ts";
import { GROUP, type LayoutV2, isSound } from "../format/layout-v2.ts";
import type { SuperblockV1 } from "../format/superblock-v1.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import { algorithms, matchGeometry } from "../open/v1/load.ts";
import { type ExtentV1, type GroupV2, fillGroup } from "./dump.ts";
import { type Fields, fieldsOf, wrong } from "./fields.ts";
import { type MetadataV2, beginImage, finishV1, finishV2 } from "./writer.ts";

const U32 = 2 ** 32 - 1;
const LARGEST = Number.MAX_SAFE_INTEGER;

/** Throws `EINVAL`, nothing written, if the dump cannot be true for this device. */
export async function restore(device: BlockDevice, dump: unknown): Promise<void> {
  const fields = fieldsOf(dump, "dump");
  if (fields.text("type") !== "compression") throw wrong("dump.type", "it is not of a compressed device");
  if (fields.text("format") === "v1") {
    const { superblock, states } = readV1(device, fields);
    await beginImage(device);
    await finishV1(device, superblock, states);
  } else if (fields.text("format") === "v2") {
    const metadata = readV2(device, fields);
    await beginImage(device);
    await finishV2(device, metadata);
  } else throw wrong("dump.format", "it is neither v1 nor v2");
}

function readV1(device: BlockDevice, fields: Fields): { superblock: SuperblockV1; states: Uint8Array } {
  const given = fields.object("superblock");
  const superblock = {
    metaBlocks: given.integer("metaBlocks", 0, U32),
    dataBlocks: given.integer("dataBlocks", 0, LARGEST),
    algorithm: given.integer("algorithm", 0, algorithms.length - 1),
  };
  const { dataBlocks } = match(device, superblock);
  const map = new ExtentMap(dataBlocks);
  let next = 0;
  for (const extent of fields.list("extents")) {
    const { head, blocks, sectors } = readExtent(extent, next, dataBlocks);
    map.setExtent(head, blocks, sectors);
    next = head + blocks;
  }
  for (const run of fields.list("entries")) {
    const first = run.integer("first", 0, dataBlocks - 1);
    const values = run.integers("values", 0, 31);
    if (values.length > dataBlocks - first) throw wrong(run.where, "it reaches behind the last block");
    if (map.states.subarray(first, first + values.length).some((state) => state !== 0))
      throw wrong(run.where, "it overlaps an extent");
    map.states.set(values, first);
  }
  return { superblock, states: map.states };
}

function match(device: BlockDevice, superblock: SuperblockV1): { dataBlocks: number } {
  try {
    return matchGeometry(device, superblock).geometry;
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    throw wrong("dump.superblock", error.reason);
  }
}

function readExtent(fields: Fields, from: number, end: number): ExtentV1 {
  const head = fields.integer("head", from, end - 1);
  const blocks = fields.integer("blocks", 1, Math.min(MAX_EXTENT, end - head));
  return { head, blocks, sectors: fields.integer("sectors", 1, blocks * BLOCK_SECTORS) };
}

function readV2(device: BlockDevice, fields: Fields): MetadataV2 {
  const superblock = readSuperblockV2(device, fields.object("superblock"));
  const { dataBlocks, metaBlocks } = superblock.layout;
  const last = (metaBlocks * BLOCK) / SECTOR - 1;
  const map = new ExtentMap(dataBlocks);
  const sums = new Uint32Array(dataBlocks);
  const records = new Map<number, number>();
  const verbatim = new Map<number, Buffer>();
  for (const given of fields.list("groups")) {
    const { group, record, extents, lost } = readGroup(given, last, dataBlocks);
    if (records.has(group)) throw wrong(given.where, `group ${group} is there twice`);
    records.set(group, record);
    fillGroup(map, sums, group, extents, lost);
  }
  for (const given of fields.list("damaged")) {
    const group = given.integer("group", 0, last);
    const bytes = given.hex("bytes", SECTOR);
    if (records.has(group) || verbatim.has(group)) throw wrong(given.where, `group ${group} is there twice`);
    verbatim.set(group, bytes);
  }
  return { superblock, states: map.states, sums, records, verbatim };
}

function readSuperblockV2(device: BlockDevice, given: Fields): SuperblockV2 {
  const layout = Object.fromEntries(
    layoutKeys.map((key) => [key, given.object("layout").integer(key, 0, LARGEST)]),
  ) as unknown as LayoutV2;
  if (!isSound(layout)) throw wrong(`${given.where}.layout`, "the numbers do not belong together");
  const need = layout.totalBlocks * BLOCK;
  if (device.size < need) throw wrong(given.where, `the device has ${device.size} bytes, ${need} are needed`);
  const algorithm = given.text("algorithm");
  if (!/^[\x21-\x7e]{1,32}$/.test(algorithm))
    throw wrong(`${given.where}.algorithm`, "it must have 1 … 32 characters of ASCII");
  return {
    layout,
    uuid: given.hex("uuid", 16),
    generation: given.integer("generation", 1, LARGEST),
    applied: given.integer("applied", 0, LARGEST),
    closed: given.flag("closed"),
    features: 0,
    algorithm,
  };
}

const layoutKeys = [
  "totalBlocks",
  "journalStart",
  "journalBlocks",
  "metaStart",
  "metaBlocks",
  "dataStart",
  "dataBlocks",
] as const satisfies readonly (keyof LayoutV2)[];

function readGroup(given: Fields, last: number, dataBlocks: number): GroupV2 {
  const group = given.integer("group", 0, last);
  const record = given.integer("record", 0, LARGEST);
  const end = Math.min((group + 1) * GROUP, dataBlocks);
  const taken = new Set<number>();
  const take = (first: number, blocks: number, where: string): void => {
    for (let block = first; block < first + blocks; block += 1) {
      if (taken.has(block)) throw wrong(where, `block ${block} is there twice`);
      taken.add(block);
    }
  };
  const extents = given.list("extents").map((fields) => {
    const extent = readExtent(fields, group * GROUP, end);
    take(extent.head, extent.blocks, fields.where);
    return { ...extent, sum: fields.integer("sum", 0, U32) };
  });
  const lost = given.list("lost").map((fields) => {
    const first = fields.integer("first", group * GROUP, end - 1);
    const blocks = fields.integer("blocks", 1, end - first);
    take(first, blocks, fields.where);
    return { first, blocks };
  });
  return { group, record, extents, lost };
}
