/**
 * Entries of format 1 that the device below did not give when it was opened. They may come back, so they are sealed:
 * their blocks cannot be read, writes to them are refused, and what is known of them on the device stays as it is.
 *
 * Invariants:
 *
 * - an extent is sealed as a whole: the one before sectors that are missing may go on there, and the one behind them
 *   may begin there;
 * - a sector that is missing is never written, and of those beside it the bits of sealed entries stay.
 */
import { type BlockDevice, BlockIoError, type Health, SECTOR } from "@dmkit/block-io";
import { type ExtentMap, TAIL } from "../../core/extent-map.ts";
import type { Run } from "../../core/runs.ts";
import { metaBlocksOf } from "../../format/entries-v1.ts";
import { BLOCK, BLOCK_SECTORS, MAX_EXTENT } from "../../format/geometry-v1.ts";

const ENTRY_BITS = 5;
const SECTOR_BITS = SECTOR * 8;
const HINT =
  "Close the device, and give up what is lost there: dmkit fsck --repair --bad unreadable. Copy it before, if the sector may come back.";

export class SealedEntries {
  /** Blocks, in order. */
  readonly runs: readonly Run[];
  readonly #lower: BlockDevice;
  /** Sectors of the metadata that are missing. */
  readonly #missing: ReadonlySet<number>;
  /** Metadata blocks as they were read. */
  readonly #pages: Map<number, Buffer> = new Map();

  /**
   * Marks the blocks as lost in the map, which holds all entries that were given.
   * @param missing sectors of the metadata, ascending; @param metadata blocks near them, as they were read.
   */
  constructor(
    lower: BlockDevice,
    map: ExtentMap,
    missing: ReadonlySet<number>,
    metadata: ReadonlyMap<number, Buffer>,
  ) {
    this.#lower = lower;
    this.#missing = missing;
    const runs: Run[] = [];
    for (const sector of missing) {
      const end = Math.min(map.blocks, Math.floor(((sector + 1) * SECTOR_BITS - 1) / ENTRY_BITS) + 1);
      const from = Math.min(end, Math.floor((sector * SECTOR_BITS) / ENTRY_BITS));
      if (end > from) addRun(runs, from, end);
    }
    this.runs = runs.map(({ first, blocks }) => {
      let end = first + blocks;
      // Also a hole: its tails must not become those of what is put there.
      const from = first === 0 ? 0 : map.find(first - 1).head;
      const most = Math.min(map.blocks, end + MAX_EXTENT);
      while (end < most && ((map.states[end] as number) & TAIL) !== 0) end += 1;
      return { first: from, blocks: end - from };
    });
    for (const { first, blocks } of this.runs) {
      map.lose(first, blocks);
      const pages = metaBlocksOf(first, blocks);
      for (let page = pages.first; page <= pages.last; page += 1) {
        const bytes = metadata.get(page);
        if (bytes !== undefined) this.#pages.set(page, bytes);
      }
    }
  }

  /** Whether a block is sealed. */
  has(block: number): boolean {
    return this.#overlap(block, 1) !== undefined;
  }

  /** To be called before blocks are overwritten. Throws `EIO` for those that are sealed. */
  refuse(first: number, blocks: number): void {
    const run = this.#overlap(first, blocks);
    if (run === undefined) return;
    throw new BlockIoError(describe(run), {
      code: "EIO",
      device: this.#lower.name,
      op: "write",
      offset: first * BLOCK,
      length: blocks * BLOCK,
      hint: HINT,
    });
  }

  /** Writes a metadata block, but for what is sealed. */
  async write(page: number, bytes: Buffer): Promise<void> {
    const old = this.#pages.get(page);
    const offset = (1 + page) * BLOCK;
    if (old === undefined) return this.#lower.write(offset, bytes);
    const start = page * BLOCK * 8;
    for (const { first, blocks } of this.runs) {
      const end = Math.min((first + blocks) * ENTRY_BITS - start, BLOCK * 8);
      for (let bit = Math.max(0, first * ENTRY_BITS - start); bit < end; bit += 1) {
        const [at, mask] = [bit >> 3, 1 << (bit & 7)];
        bytes[at] = ((bytes[at] as number) & ~mask) | ((old[at] as number) & mask);
      }
    }
    for (let sector = 0; sector < BLOCK_SECTORS; sector += 1) {
      const from = sector;
      while (sector < BLOCK_SECTORS && !this.#missing.has(page * BLOCK_SECTORS + sector)) sector += 1;
      if (sector > from)
        await this.#lower.write(offset + from * SECTOR, bytes.subarray(from * SECTOR, sector * SECTOR));
    }
  }

  health(): Health {
    const [run] = this.runs;
    if (run === undefined) return { state: "ok" };
    const more = this.runs.length > 1 ? `, nor that of ${this.runs.length - 1} other places` : "";
    return { state: "degraded", why: describe(run) + more, help: HINT };
  }

  #overlap(first: number, blocks: number): Run | undefined {
    return this.runs.find((run) => run.first < first + blocks && first < run.first + run.blocks);
  }
}

function describe({ first, blocks }: Run): string {
  return `the metadata of blocks ${first} … ${first + blocks - 1} cannot be read`;
}

function addRun(runs: Run[], from: number, end: number): void {
  const last = runs.at(-1);
  if (last !== undefined && last.first + last.blocks >= from)
    runs[runs.length - 1] = { first: last.first, blocks: end - last.first };
  else runs.push({ first: from, blocks: end - from });
}
