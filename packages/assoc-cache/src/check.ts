/** `check`: a cache device that nobody is serving. Nothing is written; problems are data. */
import { type BlockDevice, BlockIoError, SECTOR } from "@dmkit/block-io";
import { ENTRIES_PER_SECTOR, type EntryState, entryStates } from "./format/entries.ts";
import type { Superblock } from "./format/superblock.ts";
import { type EntryProblem, readEntries } from "./opening/entries.ts";
import { findMetadata } from "./opening/load.ts";
import { sourceFingerprint } from "./running/fingerprint.ts";
import { readSuperblocks } from "./running/superblocks.ts";

/** `error`: the cache is refused, or would show something wrong. `warning`: it works, but look at it. */
export type Severity = "error" | "warning";

/**
 * What repair does about it. `rewrite`: restores it from the good copy. `drop`: forgets something that cannot be
 * true, or that the source has. `none`: it would have to guess.
 */
export type Repair = "rewrite" | "drop" | "none";

export interface Problem {
  readonly kind:
    | "no-metadata"
    | "superblock"
    | "needs-check"
    | "source"
    | "entries-damaged"
    | "entry-state"
    | "entry-outside"
    | "entry-set"
    | "duplicate"
    | "dirty-count";
  readonly severity: Severity;
  /** Byte on the cache device. */
  readonly offset: number;
  readonly frame?: number;
  readonly block?: number;
  readonly text: string;
  readonly repair: Repair;
}

/** What a check found besides problems. */
export interface Summary {
  readonly version: 1 | 2;
  readonly clean: boolean;
  readonly frames: number;
  /** Valid frames in use. */
  readonly used: number;
  readonly dirty: number;
}

const entryKinds: Readonly<Record<EntryProblem, Problem["kind"]>> = {
  checksum: "entries-damaged",
  state: "entry-state",
  outside: "entry-outside",
  set: "entry-set",
};

/**
 * All problems of a cache; the summary is the generator's result. @param source compared with what the cache
 * knows of it, if given. Errors: those of the devices.
 */
export async function* check(
  cache: BlockDevice,
  source?: BlockDevice,
): AsyncGenerator<Problem, Summary | undefined> {
  const copies = await readSuperblocks(cache);
  let stored: Awaited<ReturnType<typeof findMetadata>>;
  try {
    stored = await findMetadata(cache);
  } catch (error) {
    if (!(error instanceof BlockIoError) || error.code !== "EFORMAT") throw error;
    yield { kind: "no-metadata", severity: "error", offset: 0, text: error.message, repair: "none" };
    return undefined;
  }
  if (stored.version === 1) {
    const { frames } = stored.configuration.geometry;
    let used = 0;
    for (let frame = 0; frame < frames; frame += 1) {
      if (stored.table.subarray(frame * 8, frame * 8 + 8).some((byte) => byte !== 0)) used += 1;
    }
    return { version: 1, clean: true, frames, used, dirty: 0 };
  }
  const { superblock } = stored;
  for (const [copy, offset] of [
    [copies.first, 0],
    [copies.second, cache.size - SECTOR],
  ] as const) {
    const older = copy.superblock !== undefined && copy.superblock.generation !== superblock.generation;
    if (copy.problem === undefined && !older) continue;
    const text = `the superblock at byte ${offset} is ${older ? "older than the other one" : `not valid: ${copy.problem}`}`;
    yield { kind: "superblock", severity: "warning", offset, text, repair: "rewrite" };
  }
  if (superblock.needsCheck) {
    yield {
      kind: "needs-check",
      severity: "warning",
      offset: 0,
      text: "an earlier failure asks for a check",
      repair: "rewrite",
    };
  }
  if (source !== undefined) yield* checkSource(superblock, source);
  return yield* checkEntries(cache, superblock);
}

async function* checkSource(superblock: Superblock, source: BlockDevice): AsyncGenerator<Problem, void> {
  const problem = (text: string): Problem => ({
    kind: "source",
    severity: "error",
    offset: 0,
    text,
    repair: "none",
  });
  if (source.size < superblock.sourceSectors * SECTOR) {
    yield problem(
      `the source has ${source.size / SECTOR} sectors, the cache belongs to ${superblock.sourceSectors}`,
    );
    return;
  }
  if (!superblock.clean || superblock.fingerprint === undefined) return;
  const now = await sourceFingerprint(source, superblock.sourceSectors * SECTOR);
  if (now === superblock.fingerprint) return;
  yield problem("the source is not as it was when the cache was closed, or it is another device");
}

async function* checkEntries(cache: BlockDevice, superblock: Superblock): AsyncGenerator<Problem, Summary> {
  const { frames } = superblock.geometry;
  const nothingDirty = superblock.clean && superblock.dirty === 0;
  const inFrames = new Map<number, { readonly frame: number; readonly state: EntryState }>();
  let dirty = 0;
  for await (const { frame, state, block, problem } of readEntries(cache, superblock)) {
    const offset = entryOffset(superblock, frame);
    if (problem !== undefined) {
      const readable = problem === "outside" || problem === "set" || nothingDirty;
      const matters = !nothingDirty && state !== entryStates.clean;
      yield {
        kind: entryKinds[problem],
        severity: matters ? "error" : "warning",
        offset,
        frame,
        ...(state === entryStates.empty ? {} : { block }),
        text: describe(problem, frame, state, block),
        repair: readable ? "drop" : "none",
      };
      continue;
    }
    // Clean entries count only after a clean shutdown.
    if (state === entryStates.clean && !superblock.clean) continue;
    if (state === entryStates.dirty) dirty += 1;
    const other = inFrames.get(block);
    if (other === undefined) {
      inFrames.set(block, { frame, state });
      continue;
    }
    const bothDirty = state === entryStates.dirty && other.state === entryStates.dirty;
    yield {
      kind: "duplicate",
      severity: "error",
      offset,
      frame,
      block,
      text: `block ${block} is in frames ${other.frame} and ${frame}`,
      repair: bothDirty ? "none" : "drop",
    };
  }
  if (superblock.clean && dirty !== superblock.dirty) {
    yield {
      kind: "dirty-count",
      severity: "warning",
      offset: 0,
      text: `${dirty} dirty blocks, the superblock says ${superblock.dirty}`,
      repair: "rewrite",
    };
  }
  return { version: 2, clean: superblock.clean, frames, used: inFrames.size, dirty };
}

/** Byte of the entry sector that holds a frame's entry. */
export function entryOffset({ entryStart }: Superblock, frame: number): number {
  return (entryStart + Math.floor(frame / ENTRIES_PER_SECTOR)) * SECTOR;
}

function describe(problem: EntryProblem, frame: number, state: EntryState, block: number): string {
  const what = state === entryStates.dirty ? "dirty block" : "block";
  switch (problem) {
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
