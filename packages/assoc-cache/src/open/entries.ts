/** Reads the entries of a version 2 cache and says, entry by entry, what is there. */
import { type BlockDevice, BlockIoError, SECTOR, isGiven, readWhatIsGiven } from "@dmkit/block-io";
import { Sets } from "../core/sets.ts";
import {
  ENTRIES_PER_SECTOR,
  EntryCodec,
  type EntryState,
  entrySectorsFor,
  entryStates,
} from "../format/entries.ts";
import type { Superblock } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";

/** What is wrong with an entry, or with a whole sector of them. */
export type EntryProblem = "unreadable" | "checksum" | "state" | "outside" | "set";

/** Whether it is about all entries of a sector. */
export function isOfSector(problem: EntryProblem): boolean {
  return problem === "unreadable" || problem === "checksum";
}

export interface Entry {
  /** For a sector that cannot be read, or has a wrong checksum, or shares its block with one: its first frame. */
  readonly frame: number;
  readonly state: EntryState;
  readonly block: number;
  readonly problem: EntryProblem | undefined;
}

const CHUNK_SECTORS = 2048;

/**
 * All entries that are not empty, and all problems, in order. Duplicates are for the caller to find. Sectors that are
 * written together, because the device has larger blocks, are damaged together.
 */
export async function* readEntries(cache: BlockDevice, superblock: Superblock): AsyncGenerator<Entry> {
  const { frames, blockSectors, ways } = superblock.geometry;
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const sets = new Sets(superblock.geometry);
  const blocks = Math.ceil(superblock.sourceSectors / blockSectors);
  const grain = cache.limits.logicalBlockSize / SECTOR;
  const sectors = Math.ceil(entrySectorsFor(frames) / grain) * grain;
  const bytes = Buffer.alloc(Math.min(CHUNK_SECTORS, sectors) * SECTOR);
  let unreadable: ReadonlySet<number> = new Set();
  const isDamaged = (sector: number): boolean => {
    const first = Math.floor(sector / grain) * grain;
    const others = Math.min(grain, entrySectorsFor(frames) - first);
    return Array.from({ length: others }, (_, at) => first + at).some(
      (other) => !codec.intact(bytes, (other % CHUNK_SECTORS) * SECTOR, other),
    );
  };
  for (let sector = 0; sector < entrySectorsFor(frames); sector += 1) {
    const within = sector % CHUNK_SECTORS;
    if (within === 0) {
      const count = Math.min(CHUNK_SECTORS, sectors - sector);
      const offset = (superblock.entryStart + sector) * SECTOR;
      unreadable = await readWhatIsGiven(cache, offset, bytes.subarray(0, count * SECTOR));
    }
    const at = within * SECTOR;
    const first = sector * ENTRIES_PER_SECTOR;
    const isUnreadable = unreadable.has(within);
    if (isUnreadable || isDamaged(sector)) {
      const problem = isUnreadable ? "unreadable" : "checksum";
      yield { frame: first, state: entryStates.empty, block: 0, problem };
      continue;
    }
    for (let slot = 0; slot < ENTRIES_PER_SECTOR && first + slot < frames; slot += 1) {
      const frame = first + slot;
      const state = codec.state(bytes, at, slot);
      if (state === entryStates.empty) continue;
      const block = codec.block(bytes, at, slot);
      if (state === undefined) yield { frame, state: entryStates.empty, block, problem: "state" };
      else if (block >= blocks) yield { frame, state, block, problem: "outside" };
      else if (sets.of(block) !== Math.floor(frame / ways)) yield { frame, state, block, problem: "set" };
      else yield { frame, state, block, problem: undefined };
    }
  }
}

/** Dirty blocks of a cache that is not open; undefined if damage leaves that open. */
export async function countDirty(cache: BlockDevice, superblock: Superblock): Promise<number | undefined> {
  if (superblock.clean && superblock.dirty === 0) return 0;
  let dirty = 0;
  for await (const { state, problem } of readEntries(cache, superblock)) {
    if (problem === "state" || (problem !== undefined && isOfSector(problem))) return undefined;
    if (state === entryStates.dirty) dirty += 1;
  }
  return dirty;
}

/** Entries to be made empty. */
export interface Unwanted {
  /** Entry sectors as a whole. */
  readonly sectors: ReadonlySet<number>;
  /** Single frames, in sectors that are sound. */
  readonly frames: readonly number[];
}

/**
 * Makes entries empty, durably; each entry sector is old or new after a crash. Nobody else is writing.
 * Errors: those of the device.
 */
export async function dropEntries(
  cache: BlockDevice,
  superblock: Superblock,
  { sectors, frames }: Unwanted,
): Promise<void> {
  const framesOf = new Map<number, number[]>([...sectors].map((sector) => [sector, []]));
  for (const frame of frames) {
    const sector = Math.floor(frame / ENTRIES_PER_SECTOR);
    const others = framesOf.get(sector);
    if (others === undefined) framesOf.set(sector, [frame]);
    else others.push(frame);
  }
  if (framesOf.size === 0) return;
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const block = Buffer.alloc(cache.limits.logicalBlockSize);
  const used = entrySectorsFor(superblock.geometry.frames);
  for (const [sector, unwanted] of framesOf) {
    const offset = (superblock.entryStart + sector) * SECTOR;
    const within = offset % block.length;
    const others = Array.from({ length: block.length / SECTOR }, (_, at) => sector - within / SECTOR + at);
    // What cannot be read may be written again, if nothing beside it is to be kept.
    if (!(await isGiven(cache.read(offset - within, block)))) {
      const kept = others.find((other) => other < used && !sectors.has(other));
      if (kept !== undefined) throw unreadable(cache, offset - within, block.length);
      block.fill(0);
    }
    const bytes = block.subarray(within, within + SECTOR);
    if (sectors.has(sector)) bytes.fill(0);
    for (const frame of unwanted) codec.put(bytes, 0, frame % ENTRIES_PER_SECTOR, entryStates.empty, 0);
    codec.seal(bytes, 0, sector);
    await cache.write(offset - within, block);
  }
  await cache.flush();
}

function unreadable(cache: BlockDevice, offset: number, length: number): BlockIoError {
  return new BlockIoError("entries that are to be kept cannot be read", {
    code: "EIO",
    device: cache.name,
    op: "read",
    offset,
    length,
    hint: "Try again; if it stays so, replace the device and make a new cache.",
  });
}
