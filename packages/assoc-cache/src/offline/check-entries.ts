/**
 * What is wrong with the entries of a cache, one by one. Those that are believed are in the frame table
 * afterwards, each block once.
 */
import { type BlockDevice, SECTOR } from "@dmkit/block-io";
import { type FrameTable, NONE, states } from "../core/frame-table.ts";
import { ENTRIES_PER_SECTOR, type EntryState, entryStates } from "../format/entries.ts";
import type { Superblock } from "../format/superblock.ts";
import { sectorInTableV1 } from "../format/v1.ts";
import { type EntryProblem, isOfSector, readEntries } from "../open/entries.ts";
import {
  type CheckOptions,
  type Finding,
  type Problem,
  type ProblemKind,
  type Summary,
  cannotFix,
} from "./problems.ts";

/** Fills `table` with what is believed. @param phases of the work as a whole, for progress. */
export async function* checkEntries(
  cache: BlockDevice,
  superblock: Superblock,
  table: FrameTable,
  { signal, progress }: CheckOptions,
  phases: number,
): AsyncGenerator<Finding, Summary> {
  const { frames } = superblock.geometry;
  const nothingDirty = superblock.clean && superblock.dirty === 0;
  let sector = -1;
  let doubtful = false;
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    if (sectorOf(frame) !== sector) {
      sector = sectorOf(frame);
      signal?.throwIfAborted();
      progress?.(frame, frames * phases);
    }
    if (problem !== undefined && (problem === "state" || isOfSector(problem))) doubtful = !nothingDirty;
    if (problem !== undefined) yield badEntry(superblock, { frame, state, block, problem }, nothingDirty);
    // Clean entries count only after a clean shutdown.
    else if (state === entryStates.dirty || superblock.clean) {
      const finding = place(table, superblock, frame, block, state);
      if (finding !== undefined) yield finding;
    }
  }
  progress?.(frames, frames * phases);
  const { dirty, bound } = table;
  if (superblock.clean && dirty !== superblock.dirty) yield wrongCount(superblock.dirty, dirty, doubtful);
  return { version: 2, clean: superblock.clean, frames, used: bound, dirty };
}

/** @param doubtful there are entries of which nobody knows whether they are dirty: the number is all that tells. */
function wrongCount(stored: number, dirty: number, doubtful: boolean): Finding {
  const common = {
    kind: "dirty-count",
    severity: "warning",
    role: "cache",
    location: "superblock",
    offset: 0,
    length: SECTOR,
    text: `${dirty} blocks are dirty, the superblock says ${stored}`,
  } as const;
  if (doubtful) return { problem: { ...common, advice: "The others are where entries are damaged." } };
  return { problem: { ...common, repair: "the number is put right" }, fix: {} };
}

/** Puts a block into the table; of several frames with one block the first, unless a later one is dirty. */
function place(
  table: FrameTable,
  superblock: Superblock,
  frame: number,
  block: number,
  state: EntryState,
): Finding | undefined {
  const dirty = state === entryStates.dirty;
  const other = table.find(block);
  const otherDirty = other !== NONE && table.isDirty(other);
  if (other !== NONE && dirty && !otherDirty) table.release(other);
  if (other === NONE || (dirty && !otherDirty)) {
    table.bind(frame, block);
    table.setState(frame, dirty ? states.dirty : states.clean);
  }
  if (other === NONE) return undefined;
  const common = {
    kind: "duplicate",
    severity: "error",
    ...entryPlace(superblock, frame),
    frame,
    block,
    text: `block ${block} is in frames ${other} and ${frame}`,
  } as const;
  if (dirty && otherDirty) {
    return { problem: { ...common, advice: "Both are dirty. Look at both, and decide which one is newer." } };
  }
  const clean = [...(otherDirty ? [] : [other]), ...(dirty ? [] : [frame])];
  return {
    problem: { ...common, repair: "entries that are not dirty are dropped; the source has their data" },
    fix: { frames: clean },
  };
}

interface BadEntry {
  readonly frame: number;
  readonly state: EntryState;
  readonly block: number;
  readonly problem: EntryProblem;
}

const entryKinds: Readonly<Record<EntryProblem, ProblemKind>> = {
  unreadable: "entries-unreadable",
  checksum: "entries-damaged",
  state: "entry-state",
  outside: "entry-outside",
  set: "entry-set",
};

function badEntry(superblock: Superblock, bad: BadEntry, nothingDirty: boolean): Finding {
  const { frame, state, block, problem } = bad;
  const common = {
    kind: entryKinds[problem],
    severity: nothingDirty || state === entryStates.clean ? "warning" : "error",
    ...entryPlace(superblock, frame),
    frame,
    block: state === entryStates.empty ? undefined : block,
    text: describe(bad),
  } as const;
  const impossible = problem === "outside" || problem === "set";
  if (!impossible && !nothingDirty) {
    const advice =
      "What is there may be dirty. Restore the sector from a backup or a dump; there is no other copy of it.";
    return { problem: { ...common, advice } };
  }
  const fix = isOfSector(problem) ? { sectors: [sectorOf(frame)] } : { frames: [frame] };
  const repair = impossible ? "the entry cannot be true and is dropped" : "it is dropped; nothing was dirty";
  return { problem: { ...common, repair }, fix };
}

function describe({ problem, frame, state, block }: BadEntry): string {
  const what = state === entryStates.dirty ? "dirty block" : "block";
  switch (problem) {
    case "unreadable":
      return `the entries from frame ${frame} on cannot be read`;
    case "checksum":
      return `the entries from frame ${frame} on are damaged`;
    case "state":
      return `the entry of frame ${frame} has no known state`;
    case "outside":
      return `frame ${frame} claims ${what} ${block}, which lies outside of the source`;
    case "set":
      return `frame ${frame} claims ${what} ${block}, which belongs to another set`;
  }
}

/** The historical table; after a clean close, which is the only time it is written, the source has everything. */
export function* checkTableV1(
  table: FrameTable,
  stored: Buffer,
  source: BlockDevice | undefined,
  cache: BlockDevice,
): Generator<Finding, Summary> {
  const { frames, blockSectors, ways } = table.geometry;
  const end = source === undefined ? Number.MAX_SAFE_INTEGER : source.size / SECTOR;
  const tableStart = cache.size - SECTOR - stored.length;
  for (let frame = 0; frame < frames; frame += 1) {
    const sector = sectorInTableV1(stored, frame);
    if (sector === 0) continue;
    const block = sector / blockSectors;
    const bad = (kind: ProblemKind, text: string): Finding =>
      cannotFix(kind, {
        frame,
        offset: tableStart + frame * 8,
        length: 8,
        text: `frame ${frame} claims source sector ${sector}, ${text}`,
        advice:
          "The table cannot be trusted. Import the cache, or make a new one: the source has everything.",
      });
    if (!Number.isInteger(block)) yield bad("entry-state", "which is not where a block begins");
    else if (sector >= end) yield bad("entry-outside", "which lies outside of the source");
    else if (table.sets.of(block) !== Math.floor(frame / ways)) yield bad("entry-set", "of another set");
    else if (table.find(block) !== NONE) yield bad("duplicate", `as frame ${table.find(block)} does`);
    else {
      table.bind(frame, block);
      table.setState(frame, states.clean);
    }
  }
  return { version: 1, clean: true, frames, used: table.bound, dirty: 0 };
}

function entryPlace(
  { entryStart }: Superblock,
  frame: number,
): Pick<Problem, "role" | "location" | "offset" | "length"> {
  const offset = (entryStart + sectorOf(frame)) * SECTOR;
  return { role: "cache", location: `frame ${frame}`, offset, length: SECTOR };
}

function sectorOf(frame: number): number {
  return Math.floor(frame / ENTRIES_PER_SECTOR);
}
