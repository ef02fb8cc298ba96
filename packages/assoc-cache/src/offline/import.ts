/**
 * `importV1`: turns a cache with historical metadata into one of version 2, in place.
 *
 * Of the old cache only the *list* of cached blocks is used; their data is fetched from the source. All of them
 * were clean when the list was written, so the source has it; and the frames cannot be believed, because nothing
 * marks historical metadata as out of date after a crash.
 *
 *      1  the last sector: the configuration becomes a superblock, closed cleanly, nothing dirty; flush
 *      2  the first superblock, data into the frames; flush
 *      3  the entries; flush
 *      4  both superblocks, with the witness of the source
 *
 * Until 1, which is one sector, the device is a sound cache of version 1, and nothing of it has been touched. From
 * then on it is a sound one of version 2: entries that are not written yet are damaged, which is passed over
 * where nothing can be dirty, and those that are written have stable data.
 */
import {
  type BlockDevice,
  type OfflineWork,
  SECTOR,
  type SettingsTable,
  randomUuid,
  realEnvironment,
  requireRoom,
  zeroes,
  join,
  refuse,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { FrameTable, NONE, states } from "../core/frame-table.ts";
import { runsOf } from "../core/runs.ts";
import type { Geometry } from "../format/geometry.ts";
import { layoutOf } from "../format/layout.ts";
import { type Superblock, encodeSuperblock } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";
import { sectorInTableV1 } from "../format/v1.ts";
import { writeEntries } from "../open/create.ts";
import { type Stored, findMetadata } from "../open/load.ts";
import { sourceWitness } from "../device/metadata/witness.ts";

import { readSuperblocks, writeSuperblocks } from "../device/metadata/superblocks.ts";

/** Progress is in blocks. */
export interface ImportOptions extends Partial<OfflineWork> {
  /** Bytes of the source that are cached, as the length of the table says. Default: all of it. */
  readonly size?: number | undefined;
  /** UUID of the source, to be stored with the cache. */
  readonly sourceUuid?: string | undefined;
}

const importSettings: SettingsTable<ImportOptions> = {
  ...workSettings,
  size: setting.integer(0, Number.MAX_SAFE_INTEGER),
  sourceUuid: setting.anyText,
};

/** What became of the blocks of the old cache. */
export interface Imported {
  /** In the new cache. */
  readonly blocks: number;
  /** Not there any more: no room in their set, or not of this source. */
  readonly left: number;
  /** Frames of the new cache: half as many, or fewer, where the new metadata needs the room. */
  readonly frames: number;
}

/** Bytes copied with one request; requests at a time. */
const COPY_BYTES = 1024 * 1024;
const COPIES = 8;

/**
 * Undefined if it is of version 2 already. Errors: EFORMAT (no cache), EINVAL (no room, UUID), those of the devices.
 * Told to stop it rejects with the signal's reason; after step 1 the cache then has fewer blocks.
 */
export async function importV1(
  cache: BlockDevice,
  source: BlockDevice,
  options: ImportOptions = {},
): Promise<Imported | undefined> {
  const {
    environment = realEnvironment,
    size = source.size,
    sourceUuid = "",
    signal,
    progress,
  } = checkSettings(importSettings, options);
  signal?.throwIfAborted();
  const stored = await findMetadata(cache);
  if (stored.version === 2) return undefined;
  const uuid = sourceUuid.toLowerCase();
  if (uuidFromText(uuid) === undefined) {
    throw refuse(cache.name, "EINVAL", `"${uuid}" is not a UUID`, "Write 8-4-4-4-12 hexadecimal digits.");
  }
  const { geometry, dataStart, entryStart } = roomFor(stored.configuration.geometry, cache);
  if ((geometry.blockSectors * SECTOR) % source.limits.logicalBlockSize !== 0) {
    throw refuse(
      source.name,
      "EINVAL",
      "the blocks of the cache are smaller than those of the source",
      "Make a new cache.",
    );
  }
  requireRoom(source, 0, size);
  if (size % SECTOR !== 0 || size === 0) {
    throw refuse(source.name, "EINVAL", `${size} bytes of it cannot be cached`, "Give a multiple of 512.");
  }
  const table = new FrameTable(geometry);
  const left = place(table, stored, size);
  const superblock: Superblock = {
    clean: true,
    needsCheck: false,
    uuid: randomUuid(environment.random),
    sourceUuid: uuid,
    generation: await nextGeneration(cache),
    sourceSectors: size / SECTOR,
    geometry,
    policy: stored.configuration.writeBack ? "write-back" : "write-through",
    entryStart,
    dataStart,
    deviceSectors: cache.size / SECTOR,
    dirty: 0,
    fingerprint: undefined,
    witness: undefined,
  };
  await cache.write(cache.size - SECTOR, encodeSuperblock(superblock));
  await cache.flush();
  await cache.write(0, Buffer.concat([encodeSuperblock(superblock), zeroes((entryStart - 1) * SECTOR)]));
  const filled = await fill(table, superblock, cache, source, { signal, progress });
  await cache.flush();
  await writeEntries(cache, superblock, (frame) =>
    table.stateOf(frame) === states.clean ? table.blockOf(frame) : NONE,
  );
  await cache.flush();
  const witness = await sourceWitness(source, size);
  await writeSuperblocks(cache, { ...superblock, witness, generation: superblock.generation + 1 });
  signal?.throwIfAborted();
  return { blocks: filled, left, frames: geometry.frames };
}

/** As many frames as fit, up to what there were. */
function roomFor(
  old: Geometry,
  cache: BlockDevice,
): { geometry: Geometry; dataStart: number; entryStart: number } {
  for (let { frames } = old; frames >= 1; frames /= 2) {
    const geometry = { ...old, frames, ways: Math.min(old.ways, frames) };
    const layout = layoutOf(geometry);
    if (layout.requiredSectors <= cache.size / SECTOR) return { geometry, ...layout };
  }
  throw refuse(
    cache.name,
    "EINVAL",
    "the device is too small for a cache of version 2",
    "Give a larger device.",
  );
}

/** The generation that makes a superblock count, whatever the first frame, which lies there now, may look like. */
async function nextGeneration(cache: BlockDevice): Promise<number> {
  const { first } = await readSuperblocks(cache);
  return (first.superblock?.generation ?? 0) + 1;
}

/** Gives each block of the old cache a frame of its set, as long as there are any; returns those without. */
function place(
  table: FrameTable,
  { configuration, table: old }: Stored & { version: 1 },
  size: number,
): number {
  const { frames, blockSectors } = configuration.geometry;
  let left = 0;
  for (let at = 0; at < frames; at += 1) {
    const sector = sectorInTableV1(old, at);
    if (sector === 0) continue;
    const block = sector / blockSectors;
    const known = Number.isInteger(block) && sector < size / SECTOR;
    if (known && table.find(block) !== NONE) continue;
    const frame = known ? table.freeFrame(block) : NONE;
    if (frame === NONE) left += 1;
    else table.bind(frame, block);
  }
  return left;
}

/** Fetches the blocks in the order of the source; returns how many. Stops early if it is told to. */
async function fill(
  table: FrameTable,
  { dataStart, geometry, sourceSectors }: Superblock,
  cache: BlockDevice,
  source: BlockDevice,
  { signal, progress }: Pick<OfflineWork, "signal" | "progress">,
): Promise<number> {
  const blockBytes = geometry.blockSectors * SECTOR;
  const blocks = boundBlocks(table);
  const fetch = async (block: number, frame: number, count: number): Promise<void> => {
    const bytes = Buffer.alloc(count * blockBytes);
    const length = Math.min(bytes.length, sourceSectors * SECTOR - block * blockBytes);
    await source.read(block * blockBytes, bytes.subarray(0, length));
    await cache.write(dataStart * SECTOR + frame * blockBytes, bytes);
    for (let at = frame; at < frame + count; at += 1) table.setState(at, states.clean);
  };
  let done = 0;
  let running: Promise<void>[] = [];
  for (let start = 0; start < blocks.length; ) {
    if (signal?.aborted) break;
    const first = blocks[start] as number;
    let count = 1;
    while (blocks[start + count] === first + count) count += 1;
    const frames = Array.from({ length: count }, (_, index) => table.find(first + index));
    for (const run of runsOf(first, frames, Math.max(1, COPY_BYTES / blockBytes))) {
      running.push(fetch(run.block, run.frame, run.count));
      if (running.length < COPIES) continue;
      await join(running);
      running = [];
    }
    start += count;
    done = start;
    progress?.(done, blocks.length);
  }
  await join(running);
  return done;
}

/** The blocks in the table, in order. */
function boundBlocks(table: FrameTable): Float64Array {
  const blocks: number[] = [];
  for (let frame = 0; frame < table.geometry.frames; frame += 1) {
    if (table.stateOf(frame) !== states.free) blocks.push(table.blockOf(frame));
  }
  return Float64Array.from(blocks).sort();
}
