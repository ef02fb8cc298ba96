/**
 * Which layer every sector is read from: the bitmaps of all layers, merged.
 *
 *      owner 0          the base
 *      owner 1 … top    the layers, bottom to top; `top` is the writable one
 *
 * Kept by pages of 4096 sectors, one sector of a bitmap each. A page is *unknown* until the bitmaps have been
 * read, *uniform* if one layer owns all of it (one byte), or *mixed*: one byte for each 4 KiB, or for each
 * sector where owners change inside of 4 KiB. So the cost of a look-up does not depend on the number of layers,
 * and a stack of any height takes at most 1 bit a sector where everything is written in blocks of 4 KiB.
 *
 * Invariants:
 *
 * - an owner never goes down: a sector that belongs to the top stays there (a bit that is set is never unset);
 * - `dirty` pages are exactly those with bits that no image from {@link OwnerMap.takeDirty} on has covered;
 *   `committing` ones are in an image that is not known to be stable yet.
 */
import { isZero } from "@dmkit/block-io";
import { PAGE_SECTORS, pageCount } from "../format/geometry.ts";

/** Layers a stack can have besides the base. */
export const MAX_LAYERS = 250;
export const BASE = 0;

/** Bytes of a page in a bitmap. */
export const PAGE_BYTES: number = PAGE_SECTORS / 8;

const MIXED = 255;
const UNKNOWN = 254;
/** Sectors that share an owner in the compact form of a mixed page. */
const BLOCK = 8;
const DIRTY = 1;
const COMMITTING = 2;

export class OwnerMap {
  /** Sectors of the target. */
  readonly sectors: number;
  /** Pages, the last of which may be partly beyond the end. */
  readonly pages: number;
  readonly #state: Uint8Array;
  // Mixed pages only. PAGE_BYTES entries: one for each 4 KiB. PAGE_SECTORS entries: one for each sector.
  readonly #mixed: (Uint8Array | undefined)[];
  readonly #flags: Uint8Array;
  readonly #scratch: Uint8Array = new Uint8Array(PAGE_SECTORS);
  #dirty: number[] = [];
  #top: number;
  #unknown: number;
  /** Set bits of each layer's own bitmap, by owner, as far as they are known. */
  readonly #allocated: number[];

  constructor(sectors: number, layers: number) {
    if (layers > MAX_LAYERS) throw new RangeError(`${layers} layers are more than ${MAX_LAYERS}`);
    this.sectors = sectors;
    this.pages = pageCount(sectors);
    this.#top = layers;
    this.#unknown = this.pages;
    this.#state = new Uint8Array(this.pages).fill(UNKNOWN);
    this.#mixed = Array.from({ length: this.pages }, () => undefined);
    this.#flags = new Uint8Array(this.pages);
    this.#allocated = Array.from({ length: layers + 1 }, () => 0);
  }

  /** The owner new writes belong to. */
  get top(): number {
    return this.#top;
  }

  /** Pages whose owners have not been read yet. */
  get unknownPages(): number {
    return this.#unknown;
  }

  get hasDirty(): boolean {
    return this.#dirty.length > 0;
  }

  /** Set bits in the bitmap of a layer, as far as its pages are known. */
  allocated(layer: number): number {
    return this.#allocated[layer] ?? 0;
  }

  /** Whether the owners of a range are known. */
  isKnown(sector: number, count: number): boolean {
    return this.knownEnd(sector, sector + count) === sector + count;
  }

  /** Up to where the owners from `sector` on are known, at most `end`. */
  knownEnd(sector: number, end: number): number {
    for (let page = Math.floor(sector / PAGE_SECTORS); page * PAGE_SECTORS < end; page += 1) {
      if (this.#state[page] === UNKNOWN) return Math.max(sector, page * PAGE_SECTORS);
    }
    return end;
  }

  /** The owner of a sector of a known page. */
  owner(sector: number): number {
    const page = Math.floor(sector / PAGE_SECTORS);
    const state = this.#state[page] as number;
    if (state !== MIXED) return state;
    const owners = this.#mixed[page] as Uint8Array;
    const within = sector % PAGE_SECTORS;
    return owners[owners.length === PAGE_SECTORS ? within : within >>> 3] as number;
  }

  /** The end of the run of sectors with the owner of `sector`, at most `end`. All pages must be known. */
  runEnd(sector: number, end: number): number {
    const owner = this.owner(sector);
    for (let at = sector; at < end; ) {
      const page = Math.floor(at / PAGE_SECTORS);
      const start = page * PAGE_SECTORS;
      const stop = Math.min(end, start + PAGE_SECTORS);
      const state = this.#state[page] as number;
      if (state === MIXED) {
        const found = start + mixedRunEnd(this.#mixed[page] as Uint8Array, owner, at - start, stop - start);
        if (found < stop) return found;
      } else if (state !== owner) {
        return at;
      }
      at = stop;
    }
    return end;
  }

  /**
   * Makes pages known. Pages that are known already are left alone: they may have been written since.
   * @param bitmaps the bytes of `count` pages for each layer, bottom to top
   * @param missing pages, counted from 0, that stay unknown: what is in `bitmaps` there means nothing
   */
  merge(firstPage: number, count: number, bitmaps: readonly Buffer[], missing?: ReadonlySet<number>): void {
    for (let index = 0; index < count; index += 1) {
      const page = firstPage + index;
      if (this.#state[page] !== UNKNOWN || missing?.has(index) === true) continue;
      this.#mergePage(page, index, bitmaps);
    }
  }

  /**
   * The top layer now holds these sectors: to be called when their data has been written, not before.
   * Returns whether any of them is new to it.
   */
  markWritten(sector: number, count: number): boolean {
    const end = sector + count;
    let changed = false;
    for (let at = sector; at < end; ) {
      const page = Math.floor(at / PAGE_SECTORS);
      const start = page * PAGE_SECTORS;
      const stop = Math.min(end, start + PAGE_SECTORS);
      if (this.#state[page] !== this.#top && this.#markPage(page, at - start, stop - start)) changed = true;
      at = stop;
    }
    return changed;
  }

  /** Whether the top layer holds the range and its bits are on stable storage. */
  isStable(sector: number, count: number): boolean {
    const last = Math.floor((sector + count - 1) / PAGE_SECTORS);
    for (let page = Math.floor(sector / PAGE_SECTORS); page <= last; page += 1) {
      if (this.#flags[page] !== 0) return false;
    }
    return this.owner(sector) === this.#top && this.runEnd(sector, sector + count) === sector + count;
  }

  /** The pages with bits to be written, in order. From now on they are being committed. */
  takeDirty(): number[] {
    const pages = this.#dirty.sort((a, b) => a - b);
    this.#dirty = [];
    for (const page of pages) this.#flags[page] = COMMITTING;
    return pages;
  }

  /** The images of these pages are not known to be stable: they are to be written again. */
  givenBack(pages: readonly number[]): void {
    for (const page of pages) {
      // Those with newer bits are among the dirty ones already.
      if (((this.#flags[page] as number) & DIRTY) === 0) this.#dirty.push(page);
      this.#flags[page] = DIRTY;
    }
  }

  /** The images of these pages are on stable storage. */
  committed(pages: readonly number[]): void {
    for (const page of pages) this.#flags[page] = (this.#flags[page] as number) & ~COMMITTING;
  }

  /** The top layer's bits of a known page, as they are now. */
  image(page: number, into: Uint8Array, at: number): void {
    const state = this.#state[page] as number;
    if (state !== MIXED) {
      into.fill(state === this.#top ? 0xff : 0, at, at + PAGE_BYTES);
      return;
    }
    const owners = this.#mixed[page] as Uint8Array;
    const top = this.#top;
    if (owners.length === PAGE_BYTES) {
      for (let index = 0; index < PAGE_BYTES; index += 1) into[at + index] = owners[index] === top ? 0xff : 0;
      return;
    }
    for (let index = 0, sector = 0; index < PAGE_BYTES; index += 1, sector += BLOCK) {
      let byte = 0;
      for (let bit = 0; bit < BLOCK; bit += 1) if (owners[sector + bit] === top) byte |= 1 << bit;
      into[at + index] = byte;
    }
  }

  /** A new, empty layer on top. Nothing may be dirty. Returns its number. */
  push(): number {
    if (this.hasDirty) throw new Error("owner map: a layer with bits to be written cannot be frozen");
    if (this.#top >= MAX_LAYERS) throw new RangeError(`more than ${MAX_LAYERS} layers`);
    this.#top += 1;
    this.#allocated.push(0);
    return this.#top;
  }

  #markPage(page: number, from: number, to: number): boolean {
    let owners = this.#mixed[page];
    if (owners === undefined) {
      owners = new Uint8Array(PAGE_BYTES).fill(this.#state[page] as number);
      this.#mixed[page] = owners;
      this.#state[page] = MIXED;
    }
    if (owners.length === PAGE_BYTES && ((from | to) & (BLOCK - 1)) !== 0) {
      owners = expand(owners);
      this.#mixed[page] = owners;
    }
    const shift = owners.length === PAGE_BYTES ? 3 : 0;
    const top = this.#top;
    let changed = 0;
    for (let at = from >>> shift; at < to >>> shift; at += 1) {
      if (owners[at] === top) continue;
      owners[at] = top;
      changed += 1;
    }
    if (changed === 0) return false;
    this.#allocated[top] = (this.#allocated[top] as number) + (changed << shift);
    if (to - from === PAGE_SECTORS) this.#makeUniform(page, top);
    if (((this.#flags[page] as number) & DIRTY) === 0) {
      this.#flags[page] = (this.#flags[page] as number) | DIRTY;
      this.#dirty.push(page);
    }
    return true;
  }

  #makeUniform(page: number, owner: number): void {
    this.#state[page] = owner;
    this.#mixed[page] = undefined;
  }

  #mergePage(page: number, index: number, bitmaps: readonly Buffer[]): void {
    const start = index * PAGE_BYTES;
    let layered = false;
    for (const [below, bitmap] of bitmaps.entries()) {
      if (isZero(bitmap, start, start + PAGE_BYTES)) continue;
      if (!layered) this.#scratch.fill(BASE);
      layered = true;
      const bits = overlay(this.#scratch, bitmap, start, below + 1);
      this.#allocated[below + 1] = (this.#allocated[below + 1] as number) + bits;
    }
    this.#unknown -= 1;
    if (layered) this.#store(page);
    else this.#state[page] = BASE;
  }

  /** Keeps the owners in the scratch page in the smallest form that can hold them. */
  #store(page: number): void {
    const owners = this.#scratch;
    const first = owners[0] as number;
    if (mixedRunEnd(owners, first, 0, PAGE_SECTORS) === PAGE_SECTORS) return this.#makeUniform(page, first);
    this.#state[page] = MIXED;
    this.#mixed[page] = shrink(owners) ?? owners.slice();
  }
}

/** Lays the set bits of one page over `owners`; returns how many there are. */
function overlay(owners: Uint8Array, bitmap: Buffer, start: number, owner: number): number {
  let bits = 0;
  for (let index = 0, sector = 0; index < PAGE_BYTES; index += 1, sector += BLOCK) {
    const byte = bitmap[start + index] as number;
    if (byte === 0) continue;
    for (let bit = 0; bit < BLOCK; bit += 1) {
      if (((byte >> bit) & 1) === 0) continue;
      owners[sector + bit] = owner;
      bits += 1;
    }
  }
  return bits;
}

/** One entry for each 4 KiB, or undefined if owners change inside of one. */
function shrink(owners: Uint8Array): Uint8Array | undefined {
  const blocks = new Uint8Array(PAGE_BYTES);
  for (let block = 0, sector = 0; block < PAGE_BYTES; block += 1, sector += BLOCK) {
    const owner = owners[sector] as number;
    for (let at = sector + 1; at < sector + BLOCK; at += 1) if (owners[at] !== owner) return undefined;
    blocks[block] = owner;
  }
  return blocks;
}

function expand(blocks: Uint8Array): Uint8Array {
  const owners = new Uint8Array(PAGE_SECTORS);
  for (let block = 0; block < PAGE_BYTES; block += 1) {
    owners.fill(blocks[block] as number, block * BLOCK, (block + 1) * BLOCK);
  }
  return owners;
}

/** Sectors within the page: where the run of `owner` that covers `from` ends, at most `to`. */
function mixedRunEnd(owners: Uint8Array, owner: number, from: number, to: number): number {
  if (owners.length === PAGE_SECTORS) {
    let at = from;
    while (at < to && owners[at] === owner) at += 1;
    return at;
  }
  let block = from >>> 3;
  const end = (to + BLOCK - 1) >>> 3;
  while (block < end && owners[block] === owner) block += 1;
  return Math.max(from, Math.min(to, block * BLOCK));
}
