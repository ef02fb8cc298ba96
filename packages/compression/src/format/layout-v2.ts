/**
 * Format 2: where things are, in blocks of 4096 bytes. FORMAT.md has the whole of it.
 *
 * ```
 * block 0              superblock, in its first sector
 * block 1              the same again
 * journal start …      journal: two slots of equal length
 * metadata start …     metadata: one sector for each group of 64 data blocks
 * data start …         data
 * ```
 */
import { BLOCK } from "./geometry-v1.ts";

/** Data blocks in a group: those a metadata sector describes. No extent crosses its border. */
export const GROUP = 64;

const SUPERBLOCKS = 2;
const GROUPS_PER_BLOCK = 8;
const MIB = 1024 * 1024;
/** The largest record of one group, twice. */
export const MIN_JOURNAL: number = 2 * (GROUP * BLOCK + 4 * BLOCK);

/** Journal records number blocks with 32 bits. */
const MAX_DATA_BLOCKS = 2 ** 32;

export interface LayoutV2 {
  readonly totalBlocks: number;
  readonly journalStart: number;
  readonly journalBlocks: number;
  readonly metaStart: number;
  readonly metaBlocks: number;
  readonly dataStart: number;
  readonly dataBlocks: number;
}

/** Bytes of the journal of a device of `size` bytes, if nothing else is asked for. */
export function defaultJournal(size: number): number {
  return Math.max(4 * MIB, Math.min(64 * MIB, Math.floor(size / 64 / MIB) * MIB));
}

/** Divides a device; undefined if there is no room for data, or 16 TiB are exceeded. */
export function layoutV2(totalBlocks: number, journalBytes: number): LayoutV2 | undefined {
  const journalBlocks = Math.ceil(journalBytes / BLOCK / 2) * 2;
  const metaStart = SUPERBLOCKS + journalBlocks;
  const rest = totalBlocks - metaStart;
  const perMeta = GROUP * GROUPS_PER_BLOCK;
  const metaBlocks = Math.ceil(rest / (perMeta + 1));
  const dataBlocks = rest - metaBlocks;
  if (dataBlocks < 1 || dataBlocks > MAX_DATA_BLOCKS) return undefined;
  return {
    totalBlocks,
    journalStart: SUPERBLOCKS,
    journalBlocks,
    metaStart,
    metaBlocks,
    dataStart: metaStart + metaBlocks,
    dataBlocks,
  };
}

/** Whether a layout read from a disk is one that {@link layoutV2} could have made. */
export function isSound(layout: LayoutV2): boolean {
  const made = layoutV2(layout.totalBlocks, layout.journalBlocks * BLOCK);
  return (
    layout.journalBlocks * BLOCK >= MIN_JOURNAL &&
    made !== undefined &&
    (Object.keys(made) as (keyof LayoutV2)[]).every((key) => made[key] === layout[key])
  );
}
