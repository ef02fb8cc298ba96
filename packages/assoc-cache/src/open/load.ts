/**
 * Loads a cache from its device. After a clean shutdown everything is believed; after any other only dirty
 * entries of version 2, and nothing of version 1. What might be dirty and cannot be read is not passed over, because the
 * source alone would show old data: of entries that the device does not give, or gives with a wrong checksum, the sets are
 * unknown; where a sector that is as it was written says what cannot be, the cache is not opened.
 */
import { type CacheRules, cacheRules } from "../core/rules.ts";
import { type BlockDevice, FORCE_WORD, SECTOR, readGiven, refuse } from "@dmkit/block-io";
import { type FrameTable, NONE, facts, states } from "../core/frame-table.ts";
import { ENTRIES_PER_SECTOR, entryStates } from "../format/entries.ts";
import type { Geometry } from "../format/geometry.ts";
import type { Superblock } from "../format/superblock.ts";
import {
  type ChecksumMatch,
  type ConfigurationV1,
  checksumMatchV1,
  encodeInUseV1,
  hasMarkV1,
  sectorInTableV1,
  tableSectorsV1,
} from "../format/v1.ts";
import { currentSuperblock, isSecondAtEnd, readSuperblocks } from "../device/metadata/superblocks.ts";
import type { CacheState } from "../device/state.ts";
import { whyChanged } from "../device/metadata/witness.ts";
import { dropEntries, isOfSector, readEntries } from "./entries.ts";

/** What was found on a cache device. */
export type Stored =
  | { readonly version: 2; readonly superblock: Superblock }
  | ({ readonly version: 1 } & StoredV1);

/** Historical metadata. `checksum`: whether the original would take it too. */
export interface StoredV1 {
  readonly configuration: ConfigurationV1;
  readonly table: Buffer;
  readonly checksum: ChecksumMatch;
}

/** Looks for metadata of either version; throws `EFORMAT` if there is none that is valid. */
export async function findMetadata(cache: BlockDevice, rules: CacheRules = cacheRules): Promise<Stored> {
  const copies = await readSuperblocks(cache);
  // Of a device that was made larger the last sector is not the second copy's.
  const old = copies.second.ours && isSecondAtEnd(cache, copies) ? "version 2" : await readV1(cache, rules);
  if (typeof old !== "string") return { version: 1, ...old };
  const superblock = currentSuperblock(copies);
  if (superblock === undefined) {
    const { first, second } = copies;
    const problem = first.ours ? first.problem : second.ours ? second.problem : `no superblock, and ${old}`;
    throw refuse(
      cache.name,
      "EFORMAT",
      `the device carries no valid cache: ${problem}`,
      "Check the order of source and cache. If the device was made larger or smaller, give it its former size. A new cache is made with persistence 0.",
    );
  }
  if (superblock.deviceSectors > cache.size / SECTOR) {
    throw refuse(
      cache.name,
      "EFORMAT",
      `the cache was made for a device of ${superblock.deviceSectors} sectors, this one has ${cache.size / SECTOR}: it was cut short`,
      "Give the device its former size; what was there has to be there.",
    );
  }
  return { version: 2, superblock };
}

/** `cache`: metadata, valid or not. `left`: historical ones of a cache that was not closed, so nothing in it counts. */
export type Trace = "cache" | "left" | "nothing";

/** Whether a device has been a cache of ours. Errors: those of the device. */
export async function traceOf(cache: BlockDevice, rules: CacheRules = cacheRules): Promise<Trace> {
  const { first, second } = await readSuperblocks(cache);
  if (first.ours || second.ours || typeof (await readV1(cache, rules)) !== "string") return "cache";
  if (cache.limits.logicalBlockSize !== SECTOR) return "nothing";
  const last = Buffer.alloc(SECTOR);
  await cache.read(cache.size - SECTOR, last);
  return hasMarkV1(last) ? "left" : "nothing";
}

/** Whether historical metadata are known to be of a cache that was opened and not closed. */
export async function isInUseV1(cache: BlockDevice): Promise<boolean> {
  if (cache.limits.logicalBlockSize !== SECTOR) return false;
  const last = await readGiven(cache, cache.size - SECTOR, SECTOR);
  return last?.equals(encodeInUseV1()) === true;
}

/**
 * Whether the source looks like the one the cache belongs to; throws `EINVAL` if not. Less of it may be mapped than before
 * where the cache was closed in order: what it has of the rest is looked at when it is loaded (grow.ts).
 * @param grow_source it may have become larger. @param force it may have become shorter, if nothing is dirty.
 */
export function checkPairing(
  superblock: Superblock,
  source: BlockDevice,
  size: number,
  uuid: string,
  { grow_source: grows, force }: { readonly grow_source: boolean; readonly force: boolean },
): void {
  const { sourceSectors, clean, dirty } = superblock;
  const wanted = size / SECTOR;
  const whole = `"0 ${sourceSectors} cache …" in a table, "size: ${sourceSectors * SECTOR}" in a stack file`;
  if (isCutShort(superblock, source)) {
    const isNeeded = !clean || dirty > 0;
    if (isNeeded || !force) {
      const otherwise = isNeeded
        ? `with that length (${whole}), and write back what is dirty: dmkit message NAME clean. Then it can become shorter`
        : `as before. If it was made shorter on purpose, open it without what is cached: give ${FORCE_WORD}`;
      throw refuse(
        source.name,
        "EINVAL",
        `the cache belongs to a source of ${sourceSectors} sectors, this one has ${source.size / SECTOR}`,
        `Give the right source. If this is it, make it as long as it was (a file: truncate -s ${sourceSectors * SECTOR} FILE), and open it ${otherwise}.`,
      );
    }
  } else if (sourceSectors < wanted ? !grows : sourceSectors > wanted && (grows || !clean)) {
    const larger =
      sourceSectors < wanted ? " To use all of it, say that it was made larger: grow_source 1." : "";
    throw refuse(
      source.name,
      "EINVAL",
      `the cache belongs to a source of ${sourceSectors} sectors, not ${wanted}`,
      `Give the right source. If that is it, and only its size has changed, give the length the cache was made with: ${whole}.${larger}`,
    );
  }
  if (uuid !== "" && uuid !== superblock.sourceUuid) {
    throw refuse(
      source.name,
      "EINVAL",
      `the cache belongs to source ${superblock.sourceUuid || "without a UUID"}, not ${uuid}`,
      "Give the right source, or leave source_uuid out.",
    );
  }
}

/** Whether the source is shorter than what the cache was closed over: its witness cannot be taken. */
function isCutShort({ sourceSectors }: Superblock, source: BlockDevice): boolean {
  return source.size / SECTOR < sourceSectors;
}

/** Throws `EINVAL` where a block of the cache is no number of blocks of both devices. */
export function checkBlockSize(
  { blockSectors }: Geometry,
  { source, cache }: { readonly source: BlockDevice; readonly cache: BlockDevice },
): void {
  for (const { name, limits } of [source, cache]) {
    if ((blockSectors * SECTOR) % limits.logicalBlockSize === 0) continue;
    throw refuse(
      name,
      "EINVAL",
      `blocks of ${blockSectors} sectors on a device of ${limits.logicalBlockSize}-byte blocks`,
      "Give a block size of at least 8 sectors.",
    );
  }
}

/** Why what is clean in the cache need not be what the source has; undefined if it is, as far as anybody knows. */
export async function whyStale(superblock: Superblock, source: BlockDevice): Promise<string | undefined> {
  if (superblock.left)
    return "the table of the cache was exchanged by force, and the source went on without what is dirty in it: that is older than what was written since";
  if (isCutShort(superblock, source)) return "the source is shorter than it was";
  return whyChanged(superblock, source, superblock.sourceSectors * SECTOR);
}

/**
 * Fills the table from the entries, which the caller makes stable before it relies on them. What is damaged is passed over if nothing can be dirty, and made empty
 * before the cache is marked as in use: after a crash it would look as if it might be. @param trustClean believe
 * clean entries. Throws `EFORMAT`.
 */
export async function loadV2(
  { frames: table, unknown }: Pick<CacheState, "frames" | "unknown">,
  cache: BlockDevice,
  superblock: Superblock,
  trustClean: boolean,
): Promise<void> {
  const nothingDirty = superblock.clean && superblock.dirty === 0;
  const cleanOnes: number[] = [];
  const unknownFrom: number[] = [];
  const unwanted = { sectors: new Set<number>(), frames: [] as number[] };
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    const dirty = state === entryStates.dirty;
    if (problem !== undefined) {
      // An entry that cannot be true is no loss if it is not dirty.
      if (state === entryStates.clean) continue;
      if (!nothingDirty && isOfSector(problem)) {
        unknownFrom.push(frame);
        continue;
      }
      if (!nothingDirty) throw damaged(cache, `the entry of frame ${frame} is damaged (${problem})`);
      if (isOfSector(problem)) unwanted.sectors.add(frame / ENTRIES_PER_SECTOR);
      else unwanted.frames.push(frame);
      continue;
    }
    if (!dirty && !trustClean) continue;
    const other = table.find(block);
    if (other !== NONE) {
      if (dirty || table.isDirty(other))
        throw damaged(cache, `block ${block} is in frames ${other} and ${frame}`);
      continue;
    }
    table.bind(frame, block);
    if (dirty) {
      table.addFacts(frame, facts.claim | facts.held | facts.sure);
      table.setState(frame, states.dirty);
    } else cleanOnes.push(frame);
  }
  // Neither order of use nor anything else is known of them: the frames used first are to go first.
  for (const frame of cleanOnes) table.setState(frame, states.clean);
  for (const first of unknownFrom) unknown.add(first, ENTRIES_PER_SECTOR);
  await dropEntries(cache, superblock, unwanted);
}

/** Fills the table from a historical one that was found valid; throws `EFORMAT` if it cannot be true. */
export function loadV1(table: FrameTable, stored: Buffer, cache: BlockDevice, sourceSectors: number): void {
  const { frames, blockSectors, ways } = table.geometry;
  for (let frame = 0; frame < frames; frame += 1) {
    const sector = sectorInTableV1(stored, frame);
    if (sector === 0) continue;
    const block = sector / blockSectors;
    const fits = sector < sourceSectors && Number.isInteger(block);
    if (!fits || table.sets.of(block) !== Math.floor(frame / ways) || table.find(block) !== NONE) {
      throw damaged(cache, `frame ${frame} cannot hold source sector ${sector}`);
    }
    table.bind(frame, block);
    table.setState(frame, states.clean);
  }
}

/** The historical configuration and table, or in words why there are none. */
async function readV1(cache: BlockDevice, rules: CacheRules): Promise<StoredV1 | string> {
  if (cache.limits.logicalBlockSize !== SECTOR)
    return "a device of 4096-byte blocks holds no historical metadata";
  const bytes = Buffer.alloc(SECTOR);
  await cache.read(cache.size - SECTOR, bytes);
  const configuration = rules.configurationOf(bytes, cache.size / SECTOR);
  if (typeof configuration === "string") return `no historical configuration: ${configuration}`;
  const table = Buffer.alloc(tableSectorsV1(configuration.geometry.frames) * SECTOR);
  await cache.read(cache.size - SECTOR - table.length, table);
  const checksum = checksumMatchV1(configuration.checksum, table);
  if (checksum === undefined) return "the checksum of the historical table is wrong";
  return { configuration, table, checksum };
}

function damaged(cache: BlockDevice, reason: string): Error {
  return refuse(cache.name, "EFORMAT", reason, "Check the cache device with fsck and repair it.");
}
