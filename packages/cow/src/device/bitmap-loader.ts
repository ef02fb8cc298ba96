/**
 * Reads the bitmaps of all layers into the owner map, where they are needed first: 64 pages (128 MiB of the
 * target) at a time.
 *
 * Invariant: a piece is read at most once at a time, whoever waits for it; a piece that could not be read stays
 * unknown, and the next request tries again.
 */
import { type BlockDevice, type LongWork, join } from "@dmkit/block-io";
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
const STEP_SECTORS = STEP_PAGES * PAGE_SECTORS;
// Pieces that are read at a time where all of them are.
const AT_ONCE = 16;

export class BitmapLoader {
  readonly #map: OwnerMap;
  readonly #layers: BitmapSource[];
  readonly #loading = new Map<number, Promise<void>>();

  /** @param layers bottom to top. */
  constructor(map: OwnerMap, layers: readonly BitmapSource[]) {
    this.#map = map;
    this.#layers = [...layers];
  }

  /** Pieces being read now. */
  get loading(): number {
    return this.#loading.size;
  }

  /** A new layer on top, whose bitmap is empty. */
  push(layer: BitmapSource): void {
    this.#layers.push(layer);
  }

  /** Makes all owners known. Errors: those of reading the bitmaps, the signal's reason. */
  async loadAll({ signal, progress }: LongWork): Promise<void> {
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
    const bitmaps = await Promise.all(this.#layers.map((layer) => readBitmap(layer, offset, length)));
    const first = piece * STEP_PAGES;
    this.#map.merge(first, Math.min(STEP_PAGES, this.#map.pages - first), bitmaps);
  }
}

/** A piece of a layer's dense bitmap; `offset` is a multiple of {@link BITMAP_STEP}. */
export async function readBitmap(layer: BitmapSource, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  await layer.bitmap.read(offset, bytes);
  if (layer.aliased !== undefined) expandAliased(bytes, layer.aliased);
  return bytes;
}
