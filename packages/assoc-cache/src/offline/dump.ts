/**
 * `dump` and `restore`: the metadata of a cache as plain data, and back, without loss. The data of the frames
 * stays where it is.
 *
 * Restoring:
 *
 *      erase both superblocks (or the historical configuration), flush; entries, flush; superblocks, flush
 *
 * A crash in the middle leaves no cache, never one with the entries of another; then restore again.
 *
 * Invariant: no frame is said to hold a block where the metadata on the device, as far as they are sound, say another one.
 * A frame is used again for other blocks, so an old entry would show, or write back, foreign data.
 */
import { isDeepStrictEqual } from "node:util";
import { type BlockDevice, BlockIoError, SECTOR, isOfPlace } from "@dmkit/block-io";
import { FrameTable, states } from "../core/frame-table.ts";
import { type DumpV1, type DumpV2, type DumpedEntry, whyUntrue, parseDump } from "./dump-shape.ts";
import { ENTRIES_PER_SECTOR, EntryCodec, entrySectorsFor, entryStates } from "../format/entries.ts";
import type { Superblock } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";
import { loadV1, type Stored, findMetadata, isInUseV1 } from "../open/load.ts";
import { readEntries } from "../open/entries.ts";
import { writeMetadataV1 } from "../open/create.ts";
import {
  beginRestore,
  currentSuperblock,
  readSuperblocks,
  writeSuperblocks,
} from "../device/metadata/superblocks.ts";

/** The metadata of a cache as plain data, of either version; JSON can carry it. */
export type Dump = DumpV1 | DumpV2;

/** Throws `EFORMAT` if there is no cache, or if entries are damaged or cannot be true. */
export async function dump(cache: BlockDevice): Promise<Dump> {
  const stored = await findMetadata(cache);
  return stored.version === 1 ? dumpV1(cache, stored) : dumpV2(cache, stored.superblock);
}

function dumpV1(cache: BlockDevice, { configuration, table }: Stored & { version: 1 }): DumpV1 {
  const { geometry, writeBack } = configuration;
  const frames = new FrameTable(geometry);
  loadV1(frames, table, cache, Number.MAX_SAFE_INTEGER);
  const entries: DumpedEntry[] = [];
  for (let frame = 0; frame < geometry.frames; frame += 1) {
    if (frames.stateOf(frame) === states.clean)
      entries.push({ frame, block: frames.blockOf(frame), state: "clean" });
  }
  return { version: 1, geometry, policy: writeBack ? "write-back" : "write-through", entries };
}

async function dumpV2(cache: BlockDevice, superblock: Superblock): Promise<DumpV2> {
  const entries: DumpedEntry[] = [];
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    if (problem !== undefined) {
      const reason = `the entry of frame ${frame} is damaged (${problem})`;
      throw refusal(cache, "EFORMAT", reason, "Repair it first.");
    }
    entries.push({ frame, block, state: state === entryStates.dirty ? "dirty" : "clean" });
  }
  return { version: 2, superblock, entries };
}

/**
 * Throws `EINVAL` if what is given is no dump, or cannot be true for this device; `EEXIST` if what is on it was used since;
 * then nothing was written.
 * @param force restore although it was used, without the clean entries: the source has what they are of; of historical
 * metadata, which have no others, with those that are there now as well. Dirty ones whose frames have got other blocks are
 * refused nevertheless.
 */
export async function restore(cache: BlockDevice, given: unknown, force = false): Promise<void> {
  const dumped = parseDump(given);
  const problem = typeof dumped === "string" ? dumped : whyUntrue(dumped, cache);
  if (typeof dumped === "string" || problem !== undefined) {
    throw refusal(
      cache,
      "EINVAL",
      `this cannot be restored: ${problem}`,
      "Restore an unchanged dump to its device.",
    );
  }
  const kept = await (dumped.version === 1
    ? entriesToKeepV1(cache, dumped, force)
    : entriesToKeep(cache, dumped, force));
  await beginRestore(cache, dumped.version);
  if (dumped.version === 1) {
    await writeMetadataV1(cache, dumped.geometry, dumped.policy === "write-back", kept);
    return;
  }
  const { superblock } = dumped;
  await cache.write(superblock.entryStart * SECTOR, encodeEntries(superblock, kept));
  await cache.flush();
  await writeSuperblocks(cache, superblock);
}

/** The entries of a dump that may be true still. Throws `EEXIST`, with `force` `EINVAL`; see {@link restore}. */
async function entriesToKeep(
  cache: BlockDevice,
  { superblock, entries }: DumpV2,
  force: boolean,
): Promise<readonly DumpedEntry[]> {
  const current = await readSuperblocks(cache).then(currentSuperblock, () => undefined);
  const { uuid, generation, clean } = superblock;
  // Each opening counts it up.
  const isOpened = current?.uuid === uuid && (current.generation !== generation || current.clean !== clean);
  const others = new Map(entries.map(({ frame, block }) => [frame, block]));
  const used = new Set<number>();
  // Sectors of another cache, or damaged ones, say nothing.
  for await (const { frame, block, problem } of readEntries(cache, superblock)) {
    if (problem === undefined && others.get(frame) !== block) used.add(frame);
  }
  if (!isOpened && used.size === 0) return entries;
  if (!force) throw usedSince(cache, "what is dirty in it");
  const dirty = entries.filter(({ state }) => state === "dirty");
  const lost = dirty.find(({ frame }) => used.has(frame));
  if (lost === undefined) return dirty;
  const reason = `this cannot be restored: frame ${lost.frame} has another block than ${lost.block} since`;
  throw refusal(cache, "EINVAL", reason, "What was dirty there was written back, or is lost.");
}

/** The same of historical metadata. The source has everything that they say, so what is left out costs reads only. */
async function entriesToKeepV1(
  cache: BlockDevice,
  dumped: DumpV1,
  force: boolean,
): Promise<readonly DumpedEntry[]> {
  const now = await dump(cache).catch((error: unknown) => {
    // Damaged, or none: that is what a restore is for.
    if (isOfPlace(error) || (error instanceof BlockIoError && error.code === "EFORMAT")) return undefined;
    throw error;
  });
  if (now === undefined ? !(await isInUseV1(cache)) : isDeepStrictEqual(now, dumped)) return dumped.entries;
  if (!force) throw usedSince(cache, "what lies there still");
  if (now?.version !== 1 || !isDeepStrictEqual(now.geometry, dumped.geometry)) return [];
  const blocks = new Map(now.entries.map(({ frame, block }) => [frame, block]));
  return dumped.entries.filter(({ frame, block }) => blocks.get(frame) === block);
}

function usedSince(cache: BlockDevice, restored: string): BlockIoError {
  const hint = `What is cached was exchanged since, so the dump's entries may be of other blocks. Give --force to restore ${restored}, or let a cache begin empty.`;
  return refusal(cache, "EEXIST", "the cache was used since the dump was made", hint);
}

function encodeEntries(superblock: Superblock, entries: readonly DumpedEntry[]): Buffer {
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const used = entrySectorsFor(superblock.geometry.frames);
  const bytes = Buffer.alloc(Math.ceil((used * SECTOR) / 4096) * 4096);
  for (const { frame, block, state } of entries) {
    const at = Math.floor(frame / ENTRIES_PER_SECTOR) * SECTOR;
    codec.put(bytes, at, frame % ENTRIES_PER_SECTOR, entryStates[state], block);
  }
  for (let sector = 0; sector < used; sector += 1) codec.seal(bytes, sector * SECTOR, sector);
  return bytes;
}

function refusal(
  cache: BlockDevice,
  code: "EINVAL" | "EFORMAT" | "EEXIST",
  reason: string,
  hint: string,
): BlockIoError {
  return new BlockIoError(reason, { code, device: cache.name, hint });
}
