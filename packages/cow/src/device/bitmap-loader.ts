/**
 * Reads the bitmaps of all layers into the owner map, where they are needed first: 64 pages (128 MiB of the
 * target) at a time.
 *
 * Invariants:
 *
 * - a piece is read at most once at a time, whoever waits for it;
 * - a page that any layer does not give stays unknown, and fails the requests that touch it, but no others; the next of
 *   them tries again.
 */
import {
  type BlockDevice,
  type BlockIoError,
  type LongWork,
  SECTOR,
  join,
  readWhatIsGiven,
  refuse,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import { type OwnerMap, PAGE_BYTES } from "../core/owner-map.ts";
import { type AliasedBlockSize, expandAliased } from "../format/aliased.ts";
import { PAGE_SECTORS } from "../format/geometry.ts";
import { BITMAP_STEP, bitmapBytes } from "./layer/layer.ts";

/** The bitmap of one layer; `aliased` if the original wrote it. */
export interface BitmapSource {
  readonly bitmap: BlockDevice;
  readonly aliased?: AliasedBlockSize | undefined;
}

const STEP_PAGES = BITMAP_STEP / PAGE_BYTES;
/** Sectors of a piece: 128 MiB. */
export const STEP_SECTORS: number = STEP_PAGES * PAGE_SECTORS;
// Pieces that are read at a time where all of them are.
const AT_ONCE = 16;

export class BitmapLoader {
  readonly #map: OwnerMap;
  readonly #layers: BitmapSource[];
  readonly #loading = new Map<number, Promise<void>>();
  // Pages that were not given when their piece was read last, by piece; none where that is so.
  readonly #missing = new Map<number, number>();

  /** @param layers bottom to top. */
  constructor(map: OwnerMap, layers: readonly BitmapSource[]) {
    this.#map = map;
    this.#layers = [...layers];
  }

  /** Pieces being read now. */
  get loading(): number {
    return this.#loading.size;
  }

  /** Pages, of {@link PAGE_SECTORS} sectors each, whose owners are unknown since a bitmap does not give them. */
  get missing(): number {
    return [...this.#missing.values()].reduce((sum, count) => sum + count, 0);
  }

  /** A new layer on top, whose bitmap is empty. */
  push(layer: BitmapSource): void {
    this.#layers.push(layer);
  }

  /** The same for another map, of some of the layers. Bitmaps are told by their devices. */
  without(map: OwnerMap, layers: readonly BitmapSource[]): BitmapLoader {
    const known = new Map(this.#layers.map((layer) => [layer.bitmap, layer]));
    return new BitmapLoader(
      map,
      layers.map(({ bitmap }) => known.get(bitmap) ?? { bitmap }),
    );
  }

  /** Makes all owners known. Errors: those of reading the bitmaps, the signal's reason. */
  async loadAll(work: LongWork): Promise<void> {
    const { signal, progress } = checkSettings(workSettings, work, "message");
    const { sectors: total } = this.#map;
    for (let sector = 0; sector < total; sector += AT_ONCE * STEP_SECTORS) {
      signal?.throwIfAborted();
      const done = Math.min(total, sector + AT_ONCE * STEP_SECTORS);
      await this.load(sector, done - sector);
      progress?.({ done, total, unit: "sectors" });
    }
  }

  /** Makes the owners of a range known. Errors: those of reading the bitmaps. */
  async load(sector: number, count: number): Promise<void> {
    const step = STEP_SECTORS;
    const pieces: Promise<void>[] = [];
    for (let piece = Math.floor(sector / step); piece * step < sector + count; piece += 1) {
      const first = Math.max(sector, piece * step);
      if (!this.#map.isKnown(first, Math.min(sector + count, (piece + 1) * step) - first)) {
        pieces.push(this.#loadOnce(piece));
      }
    }
    await join(pieces);
    const known = this.#map.knownEnd(sector, sector + count);
    if (known < sector + count) throw this.#unreadable(Math.floor(known / PAGE_SECTORS));
  }

  /** Makes the owners from `sector` on known; returns up to where: to `end`, or to what cannot be read. Errors: as `load`. */
  async loadUpTo(sector: number, end: number): Promise<number> {
    try {
      await this.load(sector, end - sector);
      return end;
    } catch (error) {
      const known = this.#map.knownEnd(sector, end);
      if (known === sector) throw error;
      return known;
    }
  }

  #loadOnce(piece: number): Promise<void> {
    let loading = this.#loading.get(piece);
    if (loading === undefined) {
      loading = this.#load(piece).finally(() => this.#loading.delete(piece));
      this.#loading.set(piece, loading);
    }
    return loading;
  }

  async #load(piece: number): Promise<void> {
    const offset = piece * BITMAP_STEP;
    const length = Math.min(BITMAP_STEP, bitmapBytes(this.#map.sectors) - offset);
    const missing = new Set<number>();
    const bitmaps = await Promise.all(
      this.#layers.map((layer) => readPages(layer, offset, length, (page) => missing.add(page))),
    );
    if (missing.size > 0) this.#missing.set(piece, missing.size);
    else this.#missing.delete(piece);
    const first = piece * STEP_PAGES;
    this.#map.merge(first, Math.min(STEP_PAGES, this.#map.pages - first), bitmaps, missing);
  }

  #unreadable(page: number): BlockIoError {
    const first = page * PAGE_SECTORS;
    const last = Math.min(this.#map.sectors, first + PAGE_SECTORS) - 1;
    return refuse(
      this.#layers.map(({ bitmap }) => bitmap.name).join(", "),
      "EIO",
      `byte ${page * SECTOR} of a bitmap cannot be read: nobody knows which layer has sectors ${first} … ${last}`,
      "All other sectors are as they were. dmkit cow check says which bitmap it is: restore that from a backup, or copy it to a device that is whole.",
      "read",
    );
  }
}

/**
 * A piece of a layer's dense bitmap; `offset` is a multiple of {@link BITMAP_STEP}. Pages that the device does not give,
 * counted from 0, are told: what is returned for them means nothing.
 */
export async function readPages(
  layer: BitmapSource,
  offset: number,
  length: number,
  tell: (page: number) => void,
): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  // One sector of a bitmap is a page; what the original wrote of several lies in the first of a block.
  const together = (layer.aliased ?? SECTOR) / SECTOR;
  for (const sector of await readWhatIsGiven(layer.bitmap, offset, bytes)) {
    const first = Math.floor(sector / together) * together;
    for (let page = first; page < first + together; page += 1) tell(page);
  }
  if (layer.aliased !== undefined) expandAliased(bytes, layer.aliased);
  return bytes;
}
