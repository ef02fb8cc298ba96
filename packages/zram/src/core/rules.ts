/**
 * Decisions that contents and memory hang on. A disk gets them when it is opened; the simulation opens others with one of
 * them changed, and has to notice.
 */
import type { Entry, Kind, PageTable } from "./page-table.ts";
import { classOf } from "./size-classes.ts";

export interface ZramRules {
  /** A page keeps what it has until what replaces it is stored. */
  readonly keepsOld: boolean;
  /** Whether an object of a class takes `length` bytes in place of its own. */
  replaces(kind: number, length: number): boolean;
  /** Whether memory is given back. @param why the page was dropped, or compaction has moved its object. */
  frees(why: "dropped" | "moved"): boolean;
  /** The table learns where compaction has put an object. */
  readonly tellsMoves: boolean;
  /** Whether slabs may take so many bytes. */
  fits(bytes: number, limit: number): boolean;
  /** A block of the backing device is taken before a page is written to it. */
  readonly takesBlocks: boolean;
  /** Priority of the algorithm of a page that is moved to the backing device compressed, as it is remembered. */
  backed(priority: number): number;
  /** Whether a block of the backing device is what was written to it, by its checksum and that of then. */
  isSound(sum: number, written: number): boolean;
  /** What the count of pages changes by when one of a kind comes (1) or goes (-1). */
  counted(kind: Kind, by: 1 | -1): number;
  /** What a snapshot says of the algorithm that a page of it is compressed with: its priority. */
  saved(priority: number): number;
  /** What a snapshot says of a dictionary: its hash. */
  namesDictionary(hash: Buffer | undefined): Buffer | undefined;
  /** Whether a snapshot is of the version that can say all there is in it. @param is what that takes. */
  isExtended(is: boolean): boolean;
  /** Whether a page is what it was when it was looked at: only then is committed what was worked out without a lock. */
  isStill(table: PageTable, page: number, entry: Entry): boolean;
}

export const zramRules: ZramRules = Object.freeze<ZramRules>({
  keepsOld: true,
  replaces: (kind, length) => kind === classOf(length),
  frees: () => true,
  tellsMoves: true,
  fits: (bytes, limit) => bytes <= limit,
  takesBlocks: true,
  backed: (priority) => priority,
  isSound: (sum, written) => sum === written,
  counted: (_kind, by) => by,
  saved: (priority) => priority,
  namesDictionary: (hash) => hash,
  isExtended: (is) => is,
  isStill: (table, page, entry) => table.isStill(page, entry),
});
