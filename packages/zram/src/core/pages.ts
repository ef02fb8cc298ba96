/**
 * The pages of the disk: the table of what each is, the slabs with their bytes, and the counts of both.
 *
 * Invariants:
 *
 * - an object in the slabs belongs to exactly one page, and a block of the backing device too;
 * - a page keeps what it has until what replaces it is stored: being full loses nothing;
 * - every count is changed where the table is changed.
 */
import type { Bitmap } from "@dmkit/block-io";
import { MAX_PRIORITY, PageTable, kinds } from "./page-table.ts";
import { PAGE } from "./size-classes.ts";
import { type ZramRules, zramRules } from "./rules.ts";
import { NO_ROOM, SlabStore } from "./slab-store.ts";

export class Pages {
  readonly table: PageTable;
  readonly slabs: SlabStore;
  /** Pages that are not absent. */
  stored = 0;
  same = 0;
  huge = 0;
  /** Pages that were stored as they are, ever. */
  hugeSince = 0;
  /** Pages on the backing device. */
  backed = 0;
  /** Pages that nothing has any more: to be read when they have been written. */
  lost = 0;
  /** Pages in memory that are compressed, by the priority of the algorithm. */
  readonly compressed: Uint32Array = new Uint32Array(MAX_PRIORITY + 1);
  /** Bytes of pages in the slabs, before rounding up. */
  compressedBytes = 0;
  /** Pages freed by compaction since the start. */
  compacted = 0;
  /** Blocks in use that could not be read last time. */
  readonly unreadable: Set<number> = new Set();
  /** Blocks of the backing device in use. */
  readonly blocks: Bitmap | undefined;
  /** By page: CRC-32C of its block, as it was written to the backing device. Of pages that are there. */
  readonly sums: Uint32Array;
  readonly #rules: ZramRules;

  /** @param blocks of the backing device, if there is one; all clear. */
  constructor(pages: number, blocks: Bitmap | undefined, rules: ZramRules = zramRules) {
    this.#rules = rules;
    this.table = new PageTable(pages);
    this.slabs = new SlabStore(rules);
    this.blocks = blocks;
    this.sums = new Uint32Array(blocks === undefined ? 0 : pages);
  }

  /** A page that repeats eight bytes. */
  putSame(page: number, low: number, high: number): void {
    this.drop(page);
    this.table.setSame(page, low, high);
    this.#count(page, 1);
  }

  /**
   * A page as it is to be kept: `length` bytes, 4096 for a huge one. False if there is no room: nothing changed.
   * @param priority of the algorithm it is compressed with.
   */
  put(page: number, bytes: Buffer, length: number, priority: number): boolean {
    const { table, slabs } = this;
    if (!this.#rules.keepsOld) this.drop(page);
    let address = table.low(page);
    const inPlace = this.isInSlabs(page) && slabs.replace(address, bytes, length);
    if (!inPlace) {
      address = slabs.put(bytes, length);
      if (address === NO_ROOM) return false;
      this.drop(page);
    } else {
      this.#count(page, -1);
    }
    if (length === PAGE) this.hugeSince += 1;
    table.setStored(page, address, length, priority);
    this.#count(page, 1);
    return true;
  }

  /**
   * A page that now is on the backing device. @param length bytes that are stored of it: 4096 if it is as it is. @param sum of
   * the whole block.
   */
  putOnBacking(page: number, block: number, length: number, priority: number, sum: number): void {
    this.drop(page);
    this.table.setBacked(page, block, length, priority);
    this.sums[page] = sum;
    this.#count(page, 1);
  }

  /** A page that cannot be read. @param isUnread now: the snapshot has it, but its device does not give it. */
  putLost(page: number, isUnread: boolean): void {
    this.drop(page);
    this.table.setLost(page, isUnread ? 1 : 0);
    this.#count(page, 1);
  }

  drop(page: number): void {
    const { table } = this;
    if (table.kind(page) === kinds.absent) return;
    this.#count(page, -1);
    if (this.isInSlabs(page)) this.slabs.free(table.low(page));
    else if (table.kind(page) === kinds.backing) {
      this.blocks?.clear(table.low(page));
      this.unreadable.delete(table.low(page));
    }
    table.setAbsent(page);
  }

  dropAll(): void {
    for (let page = 0; page < this.table.pages; page += 1) this.drop(page);
    this.slabs.clear();
    this.compacted = 0;
  }

  /** Bytes of a page in the slabs, where they are: good until the next change. */
  bytes(page: number): Buffer {
    return this.slabs.get(this.table.low(page), this.table.length(page));
  }

  isInSlabs(page: number): boolean {
    const kind = this.table.kind(page);
    return kind === kinds.compressed || kind === kinds.huge;
  }

  /** Moves objects together until no slab could be freed by moving more; bytes freed. */
  compact(): number {
    const { slabs, table } = this;
    const before = slabs.usedBytes;
    const isSparse = slabs.sparseSlabs();
    for (let page = 0; page < table.pages; page += 1) {
      if (!this.isInSlabs(page) || !isSparse(SlabStore.slabOf(table.low(page)))) continue;
      const moved = slabs.move(table.low(page), table.length(page));
      if (this.#rules.tellsMoves) table.setAddress(page, moved);
    }
    slabs.endMoving();
    this.compacted += (before - slabs.usedBytes) / PAGE;
    return before - slabs.usedBytes;
  }

  #count(page: number, by: 1 | -1): void {
    const kind = this.table.kind(page);
    this.stored += this.#rules.counted(kind, by);
    if (kind === kinds.same) this.same += by;
    else if (kind === kinds.backing) this.backed += by;
    else if (kind === kinds.lost) this.lost += by;
    else this.compressedBytes += by * this.table.length(page);
    if (kind === kinds.huge) this.huge += by;
    if (kind !== kinds.compressed) return;
    const priority = this.table.priority(page);
    this.compressed[priority] = (this.compressed[priority] as number) + by;
  }
}
