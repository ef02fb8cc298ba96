/**
 * What each page is, in twelve bytes a page:
 *
 *      info  u16   bits 0–11 bytes that are stored of it, 1 … 3072, or one of the forms below; 12–13 priority of the
 *                  algorithm it is compressed with; 14 on the backing device; 15 idle
 *      low   u32   same-filled: first half of the pattern; stored: address; on the backing device: block
 *      high  u32   same-filled: second half of the pattern; otherwise the stamp of the last change
 *      seen  u16   when it was last read or written, in units of 8 s; comes round after six days
 *
 * A huge page has the priority 3 when all algorithms there are were tried on it in vain.
 *
 * Invariant: a page whose entry (but for the idle bit) is what it was earlier holds what it held then. Stamps see
 * to that, and optimistic updates rely on it: look, work without a lock, and commit only if the entry is the same.
 */
import { MAX_COMPRESSED, PAGE } from "./size-classes.ts";

/**
 * `huge`: in memory, as it is; `backing`: on the backing device, compressed or as it is; `lost`: could not be read from
 * there when the disk was saved (low 0), or from the snapshot when it was opened (low 1).
 */
export const kinds = {
  absent: 0,
  same: 1,
  compressed: 2,
  huge: 3,
  backing: 4,
  lost: 5,
} as const;
export type Kind = (typeof kinds)[keyof typeof kinds];

/** The highest priority of an algorithm; 0 is that of the first one. */
export const MAX_PRIORITY = 3;

/** Milliseconds in a unit of `seen`. */
const UNIT = 8000;
const ROUND = 0x1_0000;
/** Seconds: the greatest age that can be asked for. Beyond six days an age begins again at nothing. */
export const MAX_AGE = 432_000;

// What stands in place of a length.
const RAW = 0xffd;
const SAME = 0xffe;
const LOST = 0xfff;
const FORM = 0xfff;
const PRIORITY = 12;
const BACKING = 0x4000;
const IDLE = 0x8000;

/** How a length of stored bytes stands in an entry. Others than 1 … 3072 and 4096 would be taken for another form. */
function formOf(length: number): number {
  if (length === PAGE) return RAW;
  if (length < 1 || length > MAX_COMPRESSED) throw new Error(`a page of ${length} stored bytes`);
  return length;
}

/** An entry at one moment; see {@link PageTable.look}. */
export interface Entry {
  readonly info: number;
  readonly low: number;
  readonly high: number;
}

export class PageTable {
  readonly pages: number;
  readonly #info: Uint16Array;
  readonly #low: Uint32Array;
  readonly #high: Uint32Array;
  readonly #seen: Uint16Array;
  #stamp = 0;
  #now = 0;

  constructor(pages: number) {
    this.pages = pages;
    this.#info = new Uint16Array(pages);
    this.#low = new Uint32Array(pages);
    this.#high = new Uint32Array(pages);
    this.#seen = new Uint16Array(pages);
  }

  kind(page: number): Kind {
    const info = this.#info[page] as number;
    if ((info & BACKING) !== 0) return kinds.backing;
    const form = info & FORM;
    if (form === 0) return kinds.absent;
    if (form <= MAX_COMPRESSED) return kinds.compressed;
    return form === RAW ? kinds.huge : form === SAME ? kinds.same : kinds.lost;
  }

  /** Bytes that are stored of the page, in memory or on the backing device: 4096 of one that is stored as it is. */
  length(page: number): number {
    const form = (this.#info[page] as number) & FORM;
    return form <= MAX_COMPRESSED ? form : form === RAW ? PAGE : 0;
  }

  /** Of the algorithm that the page is compressed with; of a huge one see {@link markIncompressible}. */
  priority(page: number): number {
    return ((this.#info[page] as number) >> PRIORITY) & MAX_PRIORITY;
  }

  low(page: number): number {
    return this.#low[page] as number;
  }

  high(page: number): number {
    return this.#high[page] as number;
  }

  isIdle(page: number): boolean {
    return ((this.#info[page] as number) & IDLE) !== 0;
  }

  markIdle(page: number): void {
    if (this.kind(page) !== kinds.absent) this.#info[page] = (this.#info[page] as number) | IDLE;
  }

  /** Milliseconds of the clock: when {@link touch} and {@link isUnused} happen. */
  set time(milliseconds: number) {
    this.#now = Math.floor(milliseconds / UNIT) % ROUND;
  }

  /** The page is read or written. */
  touch(page: number): void {
    this.#info[page] = (this.#info[page] as number) & ~IDLE;
    this.#seen[page] = this.#now;
  }

  /** Whether nobody has read or written the page for at least `seconds`, 0 … {@link MAX_AGE}. */
  isUnused(page: number, seconds: number): boolean {
    const age = (this.#now - (this.#seen[page] as number) + ROUND) % ROUND;
    // It may have been used at the end of its unit.
    return (age - 1) * UNIT >= seconds * 1000;
  }

  look(page: number): Entry {
    return { info: (this.#info[page] as number) & ~IDLE, low: this.low(page), high: this.high(page) };
  }

  isStill(page: number, { info, low, high }: Entry): boolean {
    return (
      ((this.#info[page] as number) & ~IDLE) === info && this.low(page) === low && this.high(page) === high
    );
  }

  setAbsent(page: number): void {
    this.#set(page, 0, 0, 0);
  }

  setSame(page: number, low: number, high: number): void {
    this.#set(page, SAME, low, high);
  }

  /** In memory, at an address. @param length bytes, 1 … 3072, or 4096 for a page as it is. */
  setStored(page: number, address: number, length: number, priority: number): void {
    this.#stamped(page, formOf(length) | (priority << PRIORITY), address);
  }

  /** The page is on the backing device; its contents are stored as before: compressed, or as they are. */
  setBacked(page: number, block: number, length: number, priority: number): void {
    this.#stamped(page, BACKING | formOf(length) | (priority << PRIORITY), block);
  }

  setLost(page: number, low: 0 | 1): void {
    this.#stamped(page, LOST, low);
  }

  /** All algorithms were tried on a huge page. */
  markIncompressible(page: number): void {
    this.#info[page] = (this.#info[page] as number) | (MAX_PRIORITY << PRIORITY);
  }

  /** The same contents at another address; leaves the idle bit alone. */
  setAddress(page: number, low: number): void {
    this.#low[page] = low;
  }

  #stamped(page: number, info: number, low: number): void {
    this.#stamp = (this.#stamp + 1) >>> 0;
    this.#set(page, info, low, this.#stamp);
  }

  #set(page: number, info: number, low: number, high: number): void {
    this.#info[page] = info;
    this.#low[page] = low;
    this.#high[page] = high;
  }
}
