/**
 * `repair`: puts right what the check found and what needs no guess. Dirty data that can be true is never given
 * up; a second run finds nothing more to do.
 *
 *      1  entries that are to go, sector by sector; flush
 *      2  both superblocks, or the historical configuration; flush
 *
 * A crash leaves each sector old or new, and so a cache of which the rest can be repaired.
 */
import { type BlockDevice, BlockIoError, SECTOR } from "@dmkit/block-io";
import { findProblems } from "./check.ts";
import { dropEntries } from "../open/entries.ts";
import { checksumV1, encodeConfigurationV1 } from "../format/v1.ts";
import { type Stored, findMetadata } from "../open/load.ts";
import type { CheckOptions, Finding, Problem, Summary } from "./problems.ts";
import { writeSuperblocks } from "../device/metadata/superblocks.ts";

/** What a repair changed, and what it could not. */
export interface RepairReport {
  readonly repaired: readonly Problem[];
  /** Those that would have needed a guess. */
  readonly left: readonly Problem[];
}

/** @param source as for the check. Errors: EROFS, those of the devices. */
export async function repair(
  cache: BlockDevice,
  source?: BlockDevice,
  options: CheckOptions = {},
): Promise<RepairReport> {
  const { findings, summary } = await allFindings(cache, source, options);
  const left = findings.filter(({ fix }) => fix === undefined);
  // The mark goes when there is nothing left to look at.
  const isDone = ({ problem, fix }: Finding): boolean =>
    fix !== undefined && (problem.kind !== "needs-check" || left.length === 0);
  const repaired = findings.filter(isDone);
  if (repaired.length > 0) {
    requireWritable(cache);
    await carryOut(cache, repaired, summary, left.length > 0);
  }
  const problemOf = ({ problem }: Finding): Problem => problem;
  return {
    repaired: repaired.map(problemOf),
    left: findings.filter((finding) => !isDone(finding)).map(problemOf),
  };
}

async function allFindings(
  cache: BlockDevice,
  source: BlockDevice | undefined,
  options: CheckOptions,
): Promise<{ findings: Finding[]; summary: Summary | undefined }> {
  const findings: Finding[] = [];
  const finding = findProblems(cache, source, options);
  for (;;) {
    const { done, value } = await finding.next();
    if (done) return { findings, summary: value };
    findings.push(value);
  }
}

async function carryOut(
  cache: BlockDevice,
  repaired: readonly Finding[],
  summary: Summary | undefined,
  somethingIsLeft: boolean,
): Promise<void> {
  const stored = await findMetadata(cache);
  if (stored.version === 1) return completeChecksum(cache, stored);
  const { superblock } = stored;
  await dropEntries(cache, superblock, {
    sectors: new Set(repaired.flatMap(({ fix }) => fix?.sectors ?? [])),
    frames: repaired.flatMap(({ fix }) => fix?.frames ?? []),
  });
  // Where damaged entries are left the old number is what keeps everybody from passing over them.
  const counted = repaired.some(({ problem }) => problem.kind === "dirty-count") ? summary?.dirty : undefined;
  await writeSuperblocks(cache, {
    ...superblock,
    needsCheck: superblock.needsCheck && somethingIsLeft,
    dirty: superblock.clean ? (counted ?? superblock.dirty) : 0,
    generation: superblock.generation + 1,
  });
}

/** Of historical metadata nothing else is put right. One sector, which is old or new after a crash. */
async function completeChecksum(
  cache: BlockDevice,
  { configuration, table }: Stored & { version: 1 },
): Promise<void> {
  const checksum = checksumV1(table);
  await cache.write(cache.size - SECTOR, encodeConfigurationV1({ ...configuration, checksum }));
  await cache.flush();
}

function requireWritable({ name, limits }: BlockDevice): void {
  if (!limits.capabilities.readOnly) return;
  throw new BlockIoError("the cache device is read-only", {
    code: "EROFS",
    device: name,
    hint: "Open it for writing to repair it.",
  });
}
