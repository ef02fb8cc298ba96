/** `check`: a device that nobody is serving, either format. Nothing is written; problems are data. */
import { type BlockDevice, BlockIoError, silentLogger } from "@dmkit/block-io";
import { type Codec, openCodec, payloadBytes } from "./codec.ts";
import { ExtentMap, LOST, type StoredExtent } from "./core/extent-map.ts";
import { isRaw } from "./core/plan.ts";
import { newCounters } from "./counters.ts";
import { BLOCK, BLOCK_SECTORS, geometryV1 } from "./format/geometry-v1.ts";
import { changeKinds } from "./format/journal-v2.ts";
import { payloadSum } from "./format/metadata-v2.ts";
import { decodeSuperblockV1, isSuperblockV1 } from "./format/superblock-v1.ts";
import { algorithms, loadEntries } from "./v1/open.ts";
import { Journal } from "./v2/journal.ts";
import { loadStore } from "./v2/open.ts";
import { readSuperblock, readSuperblockCopies } from "./v2/superblocks.ts";

/** `error`: data is lost. `warning`: nothing is lost, but look at it. */
export type Severity = "error" | "warning";

export interface Problem {
  readonly kind: "superblock-copy" | "metadata" | "lost" | "extent" | "journal";
  readonly severity: Severity;
  /** First data block concerned, and how many; undefined if it is none. */
  readonly block?: number;
  readonly blocks?: number;
  readonly text: string;
  /** What can be done about it. */
  readonly repair: string;
}

/** What is on a device; counted by {@link check}. */
export interface Report {
  format: "v1" | "v2";
  algorithm: string;
  dataBlocks: number;
  /** Blocks that are not stored. */
  holes: number;
  /** Extents, by how they are stored. */
  raw: number;
  compressed: number;
  /** Blocks by sectors of payload attributed to them, 0 … 8. */
  histogram: number[];
}

/** An empty report, to be filled in. */
export function newReport(): Report {
  return {
    format: "v2",
    algorithm: "",
    dataBlocks: 0,
    holes: 0,
    raw: 0,
    compressed: 0,
    histogram: Array.from({ length: BLOCK_SECTORS + 1 }, () => 0),
  };
}

/** All problems. Reads every payload. Throws `EFORMAT` if it is no such device, and the errors of the device. */
export async function* check(lower: BlockDevice, report: Report = newReport()): AsyncIterable<Problem> {
  const first = Buffer.alloc(BLOCK);
  await lower.read(0, first);
  if (isSuperblockV1(first)) yield* checkV1(lower, first, report);
  else yield* checkV2(lower, report);
}

async function* checkV1(lower: BlockDevice, first: Buffer, report: Report): AsyncIterable<Problem> {
  const superblock = decodeSuperblockV1(first);
  const geometry = geometryV1(Math.floor(lower.size / BLOCK));
  const algorithm = algorithms[superblock.algorithm];
  const wrong =
    geometry.metaBlocks !== superblock.metaBlocks || geometry.dataBlocks !== superblock.dataBlocks;
  if (wrong || algorithm === undefined) {
    throw new BlockIoError("the superblock does not fit the device", {
      code: "EFORMAT",
      device: lower.name,
      op: "open",
      hint: "Was the device copied to another size?",
    });
  }
  Object.assign(report, { format: "v1", algorithm, dataBlocks: geometry.dataBlocks });
  const map = new ExtentMap(geometry.dataBlocks);
  await loadEntries(lower, map, geometry.metaBlocks);
  const dataOffset = (1 + geometry.metaBlocks) * BLOCK;
  const codec = await openCodec(algorithm, lower.name, true, 1);
  try {
    yield* checkExtents(lower, map, dataOffset, codec, () => true, report);
  } finally {
    await codec.close();
  }
}

async function* checkV2(lower: BlockDevice, report: Report): AsyncIterable<Problem> {
  const superblock = await readSuperblock(lower);
  if (superblock === undefined) {
    throw new BlockIoError("there is no superblock", { code: "EFORMAT", device: lower.name, op: "open" });
  }
  const { uuid, algorithm, layout } = superblock;
  Object.assign(report, { format: "v2", algorithm, dataBlocks: layout.dataBlocks });
  for (const [copy, { kind }] of (await readSuperblockCopies(lower)).entries()) {
    if (kind === "sound") continue;
    const text = `copy ${copy} of the superblock is ${kind}`;
    const repair = "Open the device and close it: both copies are written.";
    yield { kind: "superblock-copy", severity: "warning", text, repair };
  }
  const codec = await openCodec(algorithm, lower.name, true, 1);
  try {
    const parts = { lower, codec, superblock, logger: silentLogger, counters: newCounters() };
    const store = await loadStore(parts);
    // What is in the journal counts, although it is not in place.
    const pending = new Set<number>();
    for (const { number, changes } of await new Journal(lower, superblock).pending()) {
      const text = `record ${number} of the journal may not be in place yet`;
      yield { kind: "journal", severity: "warning", text, repair: "Open the device and close it." };
      for (const { kind, first, blocks } of changes) {
        if (kind === changeKinds.drop) continue;
        for (let block = first; block < first + blocks; block += 1) pending.add(block);
      }
    }
    const matches = (extent: StoredExtent, payload: Buffer): boolean =>
      payloadSum(uuid, extent.head, payload) === store.sums[extent.head];
    for await (const problem of checkExtents(lower, store.map, store.dataOffset, codec, matches, report)) {
      if (problem.block === undefined || !pending.has(problem.block)) yield problem;
    }
  } finally {
    await codec.close();
  }
}

async function* checkExtents(
  lower: BlockDevice,
  map: ExtentMap,
  dataOffset: number,
  codec: Codec,
  matches: (extent: StoredExtent, payload: Buffer) => boolean,
  report: Report,
): AsyncIterable<Problem> {
  const unit = lower.limits.logicalBlockSize;
  for (let block = 0; block < map.blocks; ) {
    const extent = map.find(block);
    const start = block;
    block = Math.max(block + 1, extent.head + extent.blocks);
    const { head, blocks, sectors, bad } = extent;
    if (bad) {
      const lost = map.states[start] === LOST;
      yield {
        kind: lost ? "lost" : "metadata",
        severity: "error",
        block: start,
        blocks: block - start,
        text: lost ? "the contents are known to be lost" : "the metadata makes no sense",
        repair: "Overwrite the blocks, from a backup if there is one.",
      };
      continue;
    }
    count(map, extent, report);
    if (sectors === 0) continue;
    const length = payloadBytes(sectors);
    const payload = Buffer.alloc(Math.ceil(length / unit) * unit);
    await lower.read(dataOffset + head * BLOCK, payload);
    const exact = payload.subarray(0, length);
    const damage = matches(extent, exact)
      ? await codec.decode(exact, Buffer.alloc(blocks * BLOCK))
      : "checksum";
    if (damage === undefined) continue;
    yield {
      kind: "extent",
      severity: "error",
      block: head,
      blocks,
      text: `the payload at byte ${dataOffset + head * BLOCK} is damaged (${damage})`,
      repair: "Overwrite the blocks, from a backup if there is one.",
    };
  }
}

function count(map: ExtentMap, extent: StoredExtent, report: Report): void {
  if (extent.sectors === 0) report.holes += extent.blocks;
  else if (isRaw(extent)) report.raw += 1;
  else report.compressed += 1;
  for (let index = 0; index < extent.blocks; index += 1) {
    const own = (map.states[extent.head + index] as number) & LOST;
    report.histogram[own] = (report.histogram[own] ?? 0) + 1;
  }
}
