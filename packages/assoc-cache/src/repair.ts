/**
 * `repair`: puts right what {@link check} found and what needs no guess. Dirty data that can be true is never
 * given up; a second run finds nothing more to do. A crash in the middle leaves each entry sector old or new.
 */
import { type BlockDevice, SECTOR } from "@dmkit/block-io";
import { type Problem, check, entryOffset } from "./check.ts";
import { ENTRIES_PER_SECTOR, EntryCodec, type EntryState, entryStates } from "./format/entries.ts";
import type { Superblock } from "./format/superblock.ts";
import { uuidFromText } from "./format/uuid.ts";
import { readEntries } from "./opening/entries.ts";
import { findMetadata } from "./opening/load.ts";
import { writeSuperblocks } from "./running/superblocks.ts";

export interface RepairReport {
  readonly repaired: readonly Problem[];
  /** Those that would have needed a guess. */
  readonly left: readonly Problem[];
}

/** Errors: those of the device. */
export async function repair(cache: BlockDevice): Promise<RepairReport> {
  const repaired: Problem[] = [];
  const left: Problem[] = [];
  for await (const problem of check(cache)) (problem.repair === "none" ? left : repaired).push(problem);
  if (repaired.length === 0) return { repaired, left };
  const stored = await findMetadata(cache);
  if (stored.version === 1) return { repaired: [], left };
  const { superblock } = stored;
  const { keep, dropped, unknown, dirty } = await survivors(cache, superblock);
  const nothingDirty = superblock.clean && superblock.dirty === 0;
  // What cannot be read may be dirty: its sector stays as it is, with all that is in it.
  const untouchable = new Set(nothingDirty ? [] : unknown.map(sectorOf));
  const sectors = new Set([...dropped, ...(nothingDirty ? unknown : [])].map(sectorOf));
  for (const sector of untouchable) sectors.delete(sector);
  for (const sector of sectors) await rewriteSector(cache, superblock, sector, keep);
  if (sectors.size > 0) await cache.flush();
  await writeSuperblocks(cache, {
    ...superblock,
    needsCheck: left.length > 0 && superblock.needsCheck,
    dirty: superblock.clean ? dirty : 0,
    generation: superblock.generation + 1,
  });
  const stays = ({ frame }: Problem): boolean => frame !== undefined && untouchable.has(sectorOf(frame));
  return {
    repaired: repaired.filter((problem) => !stays(problem)),
    left: [...left, ...repaired.filter(stays)],
  };
}

function sectorOf(frame: number): number {
  return Math.floor(frame / ENTRIES_PER_SECTOR);
}

interface Kept {
  readonly state: EntryState;
  readonly block: number;
}

/** The entries that stay: those that can be true; of several for one block the dirty ones, or none. */
async function survivors(
  cache: BlockDevice,
  superblock: Superblock,
): Promise<{ keep: Map<number, Kept>; dropped: number[]; unknown: number[]; dirty: number }> {
  const keep = new Map<number, Kept>();
  const inFrame = new Map<number, number>();
  const dropped: number[] = [];
  const unknown: number[] = [];
  let dirty = 0;
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    if (problem !== undefined) {
      (problem === "checksum" || problem === "state" ? unknown : dropped).push(frame);
      continue;
    }
    if (state === entryStates.dirty) dirty += 1;
    const other = superblock.clean || state === entryStates.dirty ? inFrame.get(block) : undefined;
    keep.set(frame, { state, block });
    if (other === undefined) inFrame.set(block, frame);
    else for (const one of [other, frame]) if (keep.get(one)?.state === entryStates.clean) dropped.push(one);
  }
  for (const frame of dropped) keep.delete(frame);
  return { keep, dropped, unknown, dirty };
}

async function rewriteSector(
  cache: BlockDevice,
  superblock: Superblock,
  sector: number,
  keep: ReadonlyMap<number, Kept>,
): Promise<void> {
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const bytes = Buffer.alloc(SECTOR);
  const first = sector * ENTRIES_PER_SECTOR;
  for (let slot = 0; slot < ENTRIES_PER_SECTOR; slot += 1) {
    const kept = keep.get(first + slot);
    if (kept !== undefined) codec.put(bytes, 0, slot, kept.state, kept.block);
  }
  codec.seal(bytes, 0, sector);
  await writeSector(cache, entryOffset(superblock, first), bytes);
}

/** One sector, also on a device of larger blocks; nobody else is writing. */
async function writeSector(cache: BlockDevice, offset: number, bytes: Buffer): Promise<void> {
  const block = cache.limits.logicalBlockSize;
  const start = Math.floor(offset / block) * block;
  const whole = Buffer.alloc(block);
  await cache.read(start, whole);
  whole.set(bytes, offset - start);
  await cache.write(start, whole);
}
