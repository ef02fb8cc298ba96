/**
 * What each page is, in twelve bytes a page:
 *
 *      info  u16   bits 0–11 length (compressed only), 12–14 kind, 15 idle
 *      low   u32   same-filled: first half of the pattern; stored: address; on the backing device: block
 *      high  u32   same-filled: second half of the pattern; otherwise the stamp of the last change
 *      seen  u16   when it was last read or written, in units of 8 s; comes round after six days
 *
 * Invariant: a page whose entry (but for the idle bit) is what it was earlier holds what it held then. Stamps see
 * to that, and optimistic updates rely on it: look, work without a lock, and commit only if the entry is the same.
 */

/**
 * `recompressed`: with the second algorithm; `backing`: on the backing device, as it is; `lost`: could not be read
 * from there when the disk was saved (low 0), or from the snapshot when it was opened (low 1).
 */
export const kinds = {
  absent: 0,
  same: 1,
  compressed: 2,
  huge: 3,
  recompressed: 4,
  backing: 5,
  lost: 6,
} as const;
export type Kind = (typeof kinds)[keyof typeof kinds];

/** Milliseconds in a unit of `seen`. */
const UNIT = 8000;
const ROUND = 0x1_0000;
/** Seconds: the greatest age that can be asked for. Beyond six days an age begins again at nothing. */
export const MAX_AGE = 432_000;

const LENGTH = 0xfff;
const IDLE = 0x8000;

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
    return (((this.#info[page] as number) >> 12) & 7) as Kind;
  }

  /** Bytes of the compressed page. */
  length(page: number): number {
    return (this.#info[page] as number) & LENGTH;
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
    this.#set(page, kinds.same << 12, low, high);
  }

  /** @param length bytes, below 4096; 0 for kinds that have none. */
  setStored(page: number, kind: Kind, low: number, length: number): void {
    this.#stamp = (this.#stamp + 1) >>> 0;
    this.#set(page, (kind << 12) | length, low, this.#stamp);
  }

  /** The same contents at another address; leaves the idle bit alone. */
  setAddress(page: number, low: number): void {
    this.#low[page] = low;
  }

  #set(page: number, info: number, low: number, high: number): void {
    this.#info[page] = info;
    this.#low[page] = low;
    this.#high[page] = high;
  }
}
