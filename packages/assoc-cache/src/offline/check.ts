/**
 * `check`: a cache device that nobody is serving. Nothing is written; problems are data. What can be put right
 * without a guess comes with how: {@link findProblems} is the one place that decides, `repair` carries it out.
 */
import {
  type BlockDevice,
  BlockIoError,
  FORCE_WORD,
  SECTOR,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import { checkEntries, checkTableV1 } from "./check-entries.ts";
import { checkDirtyFrames } from "./check-frames.ts";
import { compareClean } from "./compare.ts";
import { FrameTable } from "../core/frame-table.ts";
import type { Superblock } from "../format/superblock.ts";
import { type Stored, findMetadata } from "../open/load.ts";
import { type CheckOptions, type Finding, type Problem, type Summary, cannotFix } from "./problems.ts";
import { whyChanged } from "../device/metadata/witness.ts";
import { type Copy, readSuperblocks } from "../device/metadata/superblocks.ts";

type Findings = AsyncGenerator<Finding, Summary | undefined>;

/**
 * All problems of a cache; the summary is the generator's result. @param source compared with what the cache
 * knows of it, and block by block with what is clean in the cache, if given. Errors: those of the devices.
 */
export async function* check(
  cache: BlockDevice,
  source?: BlockDevice,
  options: CheckOptions = {},
): AsyncGenerator<Problem, Summary | undefined> {
  const findings = findProblems(cache, source, options);
  for (;;) {
    const { done, value } = await findings.next();
    if (done) return value;
    yield value.problem;
  }
}

/** {@link check}, with what repair is to do. */
export async function* findProblems(
  cache: BlockDevice,
  source: BlockDevice | undefined,
  options: CheckOptions,
): Findings {
  checkSettings(workSettings, options);
  const copies = await readSuperblocks(cache);
  let stored: Stored;
  try {
    stored = await findMetadata(cache);
  } catch (error) {
    if (!(error instanceof BlockIoError) || error.code !== "EFORMAT") throw error;
    const { message: text, hint } = error;
    yield cannotFix("no-metadata", { text, location: "superblocks", advice: hint ?? "" });
    return undefined;
  }
  const table = new FrameTable(
    stored.version === 1 ? stored.configuration.geometry : stored.superblock.geometry,
  );
  let summary: Summary;
  if (stored.version === 1) {
    if (stored.checksum === "folded") yield foldedChecksum(cache);
    summary = yield* checkTableV1(table, stored.table, source, cache);
  } else {
    yield* checkSuperblocks(copies, stored.superblock);
    if (source !== undefined) yield* checkSource(stored.superblock, source);
    summary = yield* checkEntries(cache, stored.superblock, table, options, source === undefined ? 1 : 2);
    yield* checkDirtyFrames(cache, table, stored.superblock.dataStart, options);
  }
  if (source === undefined) return summary;
  const dataStart = stored.version === 1 ? 0 : stored.superblock.dataStart;
  for await (const { frame, block, how } of compareClean(cache, source, table, dataStart, options)) {
    const place = {
      frame,
      block,
      offset: (dataStart + frame * table.geometry.blockSectors) * SECTOR,
      length: table.geometry.blockSectors * SECTOR,
    };
    if (how === "source") {
      yield cannotFix("source-unreadable", {
        severity: "warning",
        ...place,
        text: `block ${block} of the source cannot be read as a whole; frame ${frame} has a copy of it`,
        advice: "Read it through the cache and write it anew, before its place in the cache is needed.",
      });
      continue;
    }
    if (how === "cache") {
      yield cannotFix("clean-unreadable", {
        severity: "warning",
        ...place,
        text: `frame ${frame}, a copy of block ${block} of the source, cannot be read`,
        advice: "Nothing is lost: the source has it, and reads of the block go there.",
      });
      continue;
    }
    yield cannotFix("clean-differs", {
      severity: "error",
      ...place,
      text: `frame ${frame} should be equal to block ${block} of the source, and is not`,
      advice:
        "The source was changed behind the cache, or is another device, or one of them has rotted. If the source is right, make a new cache.",
    });
  }
  return summary;
}

function foldedChecksum(cache: BlockDevice): Finding {
  return {
    problem: {
      kind: "checksum-folded",
      severity: "warning",
      role: "cache",
      location: "configuration",
      offset: cache.size - SECTOR,
      length: SECTOR,
      text: "the checksum of the table agrees in its fold to 16 bits only: the original driver refuses this cache",
      repair: "it is written with all 32 bits",
    },
    fix: {},
  };
}

function* checkSuperblocks(
  copies: { readonly first: Copy; readonly second: Copy },
  superblock: Superblock,
): Generator<Finding, void> {
  for (const [copy, offset] of [
    [copies.first, 0],
    [copies.second, (superblock.deviceSectors - 1) * SECTOR],
  ] as const) {
    const older = copy.superblock !== undefined && copy.superblock.generation !== superblock.generation;
    if (copy.problem === undefined && !older) continue;
    const text = older
      ? "the superblock is older than the other one"
      : `the superblock is not valid: ${copy.problem}`;
    yield {
      problem: {
        kind: "superblock",
        severity: older ? "info" : "warning",
        role: "cache",
        location: `superblock at byte ${offset}`,
        offset,
        length: SECTOR,
        text,
        repair: "it is written again from the other one",
      },
      fix: {},
    };
  }
  if (!superblock.needsCheck) return;
  yield {
    problem: {
      kind: "needs-check",
      severity: "warning",
      role: "cache",
      location: "superblock",
      offset: 0,
      length: SECTOR,
      text: "a device failed while the cache was open, which asks for a check",
      repair: "the mark is taken away, if nothing else is left",
    },
    fix: {},
  };
}

async function* checkSource(superblock: Superblock, source: BlockDevice): AsyncGenerator<Finding, void> {
  const problem = (text: string): Finding => ({
    problem: {
      kind: "source",
      severity: "error",
      role: "source",
      location: "whole device",
      text,
      advice: `Give the right source. If this is it, its clean blocks in the cache are out of date: open with ${FORCE_WORD}.`,
    },
  });
  if (source.size < superblock.sourceSectors * SECTOR) {
    yield problem(
      `the source has ${source.size / SECTOR} sectors, the cache belongs to ${superblock.sourceSectors}`,
    );
    return;
  }
  const changed = await whyChanged(superblock, source, superblock.sourceSectors * SECTOR);
  if (changed !== undefined) yield problem(changed);
}
