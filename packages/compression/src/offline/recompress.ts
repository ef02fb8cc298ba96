/**
 * `recompress`: the contents of an image in another format, or compressed in another way, on another device.
 *
 * Until it is complete the new image has no superblock: an interrupted conversion is refused by everybody, and is
 * started again from the beginning. The old image is only read, its journal included: what a repair of it would bring
 * back is brought over, without the repair.
 */
import {
  type BlockDevice,
  type BlockIoError,
  type Logger,
  type OfflineWork,
  type OptionsOf,
  SECTOR,
  type OptionSpec,
  isZero,
  inParallel,
  join,
  refuse,
  checkSettings,
  setting,
  settingOf,
  workSettings,
} from "@dmkit/block-io";
import { type Codec, openCodec } from "../device/codec.ts";
import { ExtentMap, type StoredExtent } from "../core/extent-map.ts";
import { type BlockState, pieces } from "../core/plan.ts";
import { BLOCK, MAX_EXTENT } from "../format/geometry-v1.ts";
import { GROUP } from "../format/layout-v2.ts";
import { payloadSum } from "../format/metadata-v2.ts";
import type { SuperblockV1 } from "../format/superblock-v1.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import { planV1 } from "../open/v1/open.ts";
import { PARALLEL, wholeBlocks } from "../device/v2/applier.ts";
import { newSuperblock } from "../device/v2/superblocks.ts";
import { planV2 } from "../open/v2/open.ts";
import { type Image, openImage, readContents, recall } from "./image.ts";
import { mendMetadata } from "./inspect/mend.ts";
import { beginImage, finishV1, finishV2 } from "./writer.ts";

/** What can be chosen for the new image: types, ranges, defaults, help. */
export const recompressOptions = {
  format: { type: "choice", values: ["v2", "v1"], default: "v2", help: "format of the new image" },
  algorithm: {
    type: "text",
    optional: true,
    help: "lz4, lzo, deflate, zstd, none; default: as before",
  },
  level: { type: "integer", min: 0, max: 100, optional: true, help: "level, within the algorithm's range" },
  max_extent: {
    type: "size",
    min: 4096,
    max: 131_072,
    default: 131_072,
    help: "bytes compressed together, at most: a multiple of 4096",
  },
  journal: {
    type: "size",
    min: 0,
    max: 1_099_511_627_776,
    default: 0,
    help: "v2: bytes of the journal; 0: 1/64 of the device, 4 MiB … 64 MiB",
  },
  size: {
    type: "size",
    min: 4096,
    max: 9_007_199_254_740_991,
    optional: true,
    help: "bytes of contents to take over, where the new device is smaller; behind them nothing may be stored",
  },
} as const;

/** How the new image is made, as {@link recompressOptions} says it. */
export type RecompressOptions = OptionsOf<typeof recompressOptions>;

const recompressSettings = Object.fromEntries(
  Object.entries<OptionSpec>(recompressOptions).map(([name, spec]) => [
    name,
    spec.optional === true ? settingOf(spec) : setting.needed(settingOf(spec)),
  ]),
);

/** What was done; bytes. */
export interface Recompressed {
  readonly contents: number;
  readonly payload: number;
  /** Blocks whose contents were gone, and that no repair would have brought back: they are marked so in the new image. */
  readonly lost: number;
}

interface Target {
  readonly superblock: SuperblockV1 | SuperblockV2;
  readonly map: ExtentMap;
  readonly sums: Uint32Array;
  readonly dataOffset: number;
  readonly codec: Codec;
  readonly maxExtent: number;
}

/**
 * Overwrites `to`, whatever is on it.
 *
 * Errors: `EFORMAT` if `from` is no compressed device; `EINVAL` if `to` is too small, or the same device; `ENOENT`,
 * `ENOTSUP`, `EINVAL` of the algorithm; those of the devices; the signal's reason.
 */
export async function recompress(
  from: BlockDevice,
  to: BlockDevice,
  options: RecompressOptions,
  work: OfflineWork,
): Promise<Recompressed> {
  checkSettings(recompressSettings, options);
  checkSettings(workSettings, work);
  if (from === to) throw unfit(to, "it cannot be recompressed in place", "Give another device.");
  if (options.max_extent % BLOCK !== 0) {
    throw unfit(to, `max_extent is ${options.max_extent}`, `It must be a multiple of ${BLOCK}.`);
  }
  const image = await openImage(from, true, false, mendMetadata);
  try {
    const target = await plan(image, to, options, work);
    try {
      return await convert(image, to, target, work);
    } finally {
      await target.codec.close();
    }
  } finally {
    await image.codec.close();
  }
}

/** Checks everything that can be checked before anything is written. */
async function plan(
  image: Image,
  to: BlockDevice,
  options: RecompressOptions,
  { environment }: OfflineWork,
): Promise<Target> {
  const algorithm = options.algorithm ?? image.algorithm;
  let superblock: SuperblockV1 | SuperblockV2;
  let [dataBlocks, dataStart] = [0, 0];
  if (options.format === "v1") {
    superblock = planV1(to, algorithm, to.name);
    [dataBlocks, dataStart] = [superblock.dataBlocks, 1 + superblock.metaBlocks];
  } else {
    const layout = planV2(to, options.journal);
    superblock = newSuperblock(layout, algorithm, environment.random);
    ({ dataBlocks, dataStart } = layout);
  }
  checkRoom(image, to, dataBlocks, options);
  const codec = await openCodec(algorithm, to.name, false, undefined, options.level);
  return {
    superblock,
    map: new ExtentMap(dataBlocks),
    sums: new Uint32Array(options.format === "v1" ? 0 : dataBlocks),
    dataOffset: dataStart * BLOCK,
    codec,
    maxExtent: Math.min(MAX_EXTENT, options.max_extent / BLOCK),
  };
}

function checkRoom({ map }: Image, to: BlockDevice, dataBlocks: number, options: RecompressOptions): void {
  const { size } = options;
  const wanted = Math.min(map.blocks, Math.ceil((size ?? map.blocks * BLOCK) / BLOCK));
  if (dataBlocks < wanted) {
    throw unfit(
      to,
      `it has room for ${dataBlocks} blocks, ${wanted} are needed`,
      `Give a device that is larger by ${missing(to, dataBlocks, wanted, options)} bytes; or the size that is in use, if that is less.`,
    );
  }
  for (let block = wanted; block < map.blocks; block += 1) {
    if (!map.isHole(block)) {
      throw unfit(to, `block ${block} lies behind the size given, and is stored`, "Give a larger size.");
    }
  }
}

/** Bytes that a device lacks: with them come more metadata and, unless it is given, a larger journal. */
function missing(
  { size }: BlockDevice,
  dataBlocks: number,
  wanted: number,
  { format, journal }: RecompressOptions,
): number {
  let more = (wanted - dataBlocks) * BLOCK;
  const room = (): number => planV2({ size: size + more }, journal).dataBlocks;
  if (format !== "v1") for (let has = room(); has < wanted; has = room()) more += (wanted - has) * BLOCK;
  return more;
}

async function convert(
  image: Image,
  to: BlockDevice,
  target: Target,
  { signal, progress, environment }: OfflineWork,
): Promise<Recompressed> {
  const blocks = Math.min(image.map.blocks, target.map.blocks);
  const groups = Array.from({ length: Math.ceil(blocks / GROUP) }, (_, group) => group);
  const done = { contents: 0, payload: 0, lost: 0 };
  let groupsDone = 0;
  await beginImage(to);
  await inParallel(groups, PARALLEL, async (group) => {
    signal?.throwIfAborted();
    const first = group * GROUP;
    const count = Math.min(GROUP, blocks - first);
    const source = await readBlocks(image, first, count, environment.logger);
    for (const run of runsOf(source.lost)) environment.logger.log("warn", "contents are gone", { ...run });
    const result = await storeGroup(to, target, first, count, source);
    done.contents += result.contents;
    done.payload += result.payload;
    done.lost += source.lost.size;
    progress?.((groupsDone += 1), groups.length);
  });
  signal?.throwIfAborted();
  await to.flush();
  const { superblock, map, sums } = target;
  if ("uuid" in superblock) await finishV2(to, { superblock, states: map.states, sums });
  else await finishV1(to, superblock, map.states);
  return done;
}

interface Source {
  readonly contents: Buffer;
  /** Blocks of which nothing is known, in order. */
  readonly lost: ReadonlySet<number>;
}

async function readBlocks(image: Image, first: number, count: number, logger: Logger): Promise<Source> {
  const contents = Buffer.alloc(count * BLOCK);
  const lost = new Set<number>();
  const end = first + count;
  for (let block = first; block < end; ) {
    const extent = image.map.find(block);
    const stop = extent.bad ? block + 1 : Math.min(end, extent.head + extent.blocks);
    if (extent.bad) lost.add(block);
    else if (extent.sectors > 0) {
      const whole = Buffer.allocUnsafe(extent.blocks * BLOCK);
      if (await found(image, extent, whole, logger)) {
        whole.copy(
          contents,
          (block - first) * BLOCK,
          (block - extent.head) * BLOCK,
          (stop - extent.head) * BLOCK,
        );
      } else for (let gone = block; gone < stop; gone += 1) lost.add(gone);
    }
    block = stop;
  }
  return { contents, lost };
}

/** Reads an extent from its place, or else from the journal; whether either has it. */
async function found(image: Image, extent: StoredExtent, into: Buffer, logger: Logger): Promise<boolean> {
  const flaw = await readContents(image, extent, into);
  if (flaw === undefined) return true;
  if ((await recall(image, extent, into)) === undefined) return false;
  const { head: first, blocks } = extent;
  logger.log("warn", "a payload is damaged, the journal has it", { first, blocks, flaw });
  return true;
}

/** Blocks that follow each other, of some in order. */
function runsOf(blocks: Iterable<number>): { first: number; blocks: number }[] {
  const runs: { first: number; blocks: number }[] = [];
  for (const block of blocks) {
    const last = runs.at(-1);
    if (last !== undefined && last.first + last.blocks === block) last.blocks += 1;
    else runs.push({ first: block, blocks: 1 });
  }
  return runs;
}

async function storeGroup(
  to: BlockDevice,
  { map, sums, codec, superblock, maxExtent, dataOffset }: Target,
  first: number,
  count: number,
  { contents, lost }: Source,
): Promise<{ contents: number; payload: number }> {
  const stateOf = (block: number): BlockState => {
    if (lost.has(block)) return "lost";
    const at = (block - first) * BLOCK;
    return isZero(contents, at, at + BLOCK) ? "untouched" : "new";
  };
  const done = { contents: 0, payload: 0 };
  const storing = pieces(first, first + count, stateOf, maxExtent).map(async (piece) => {
    if (piece.kind === "lose") return map.lose(piece.first, piece.blocks);
    const at = (piece.first - first) * BLOCK;
    const data = contents.subarray(at, at + piece.blocks * BLOCK);
    const payload = await codec.encode(data);
    await to.write(dataOffset + piece.first * BLOCK, wholeBlocks(to, payload));
    map.setExtent(piece.first, piece.blocks, payload.length / SECTOR);
    if ("uuid" in superblock) sums[piece.first] = payloadSum(superblock.uuid, piece.first, payload);
    done.contents += data.length;
    done.payload += payload.length;
  });
  await join(storing);
  return done;
}

function unfit(device: BlockDevice, reason: string, hint: string): BlockIoError {
  return refuse(device.name, "EINVAL", reason, hint);
}
