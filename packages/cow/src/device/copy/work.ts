/**
 * What all offline operations share: how they report and stop, the runs of a set of layers, and the one way in
 * which sectors get into a layer.
 *
 * Invariant of {@link fillLayer}: the data is stable before its bits are written, and the bits are stable before
 * the call returns. So whoever takes something away from another layer afterwards never uncovers anything, and
 * an operation that was cut short is finished by running it again.
 */
import {
  Bitmap,
  type BlockDevice,
  ByteAccess,
  type Environment,
  SECTOR,
  type Setting,
  inParallel,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { BitmapLoader, type BitmapSource } from "../bitmap-loader.ts";
import { OwnerMap } from "../../core/owner-map.ts";
import type { Source } from "../parts.ts";
import { aliasedBlockSizes } from "../../format/aliased.ts";
import { PAGE_SECTORS } from "../../format/geometry.ts";
import { BITMAP_STEP, type LayerDevices, bitmapBytes } from "../layer/layer.ts";

/** How long work is ended, and how it says how far it is. */
export interface WorkOptions {
  /** Where new names of layers that are changed come from. Default: the real one. */
  readonly environment?: Pick<Environment, "random"> | undefined;
  /** Told of the bytes of the target looked at so far. */
  readonly progress?: ((bytes: number) => void) | undefined;
  /** Stops the work between two pieces; run it again to finish. */
  readonly signal?: AbortSignal | undefined;
}

/** What {@link ChainOptions} take. */
export const chainSettings: { readonly aliasedBlockSize: Setting } = {
  aliasedBlockSize: setting.choice(...aliasedBlockSizes),
};

/** Both kinds of options that most work on a stack takes. Throws `EINVAL` for others, and for values that cannot be. */
export function checkWork<Options extends object>(
  options: Options,
  more: Readonly<Record<string, Setting>> = {},
): Options {
  return checkSettings({ ...workSettings, ...chainSettings, ...more }, options);
}

/** Sectors in a row, and where their data comes from. */
export interface Run {
  readonly sector: number;
  readonly count: number;
  readonly source: Source;
}

/** Part of a target: as many sectors as a piece of its bitmap speaks for. */
export interface Piece {
  readonly sector: number;
  readonly count: number;
}

const PIECE_SECTORS: number = (BITMAP_STEP / SECTOR) * PAGE_SECTORS;
/** What 4 KiB of a bitmap speak for, which any device can transfer. */
const PART_SECTORS: number = (4096 / SECTOR) * PAGE_SECTORS;
/** Bytes copied with one request. */
const COPY_BYTES = 1024 * 1024;
/** Requests in flight. */
const COPIES = 8;

/** The target, piece by piece, with reports of progress; ends with an `AbortError` when told to stop. */
export function* pieces(sectors: number, { progress, signal }: WorkOptions): Iterable<Piece> {
  for (let sector = 0; sector < sectors; sector += PIECE_SECTORS) {
    signal?.throwIfAborted();
    const count = Math.min(PIECE_SECTORS, sectors - sector);
    yield { sector, count };
    progress?.((sector + count) * SECTOR);
  }
}

/** What some layers, bottom to top, hold together: the owner of each sector, 0 where none of them has it. */
export class LayerRuns {
  readonly #map: OwnerMap;
  readonly #loader: BitmapLoader;

  constructor(sectors: number, layers: readonly BitmapSource[]) {
    this.#map = new OwnerMap(sectors, layers.length);
    this.#loader = new BitmapLoader(this.#map, layers);
  }

  /** The runs in a piece, with the number of their layer, from 1. */
  async *in({ sector, count }: Piece): AsyncIterable<{ sector: number; count: number; owner: number }> {
    await this.#loader.load(sector, count);
    for (let at = sector; at < sector + count; ) {
      const end = this.#map.runEnd(at, sector + count);
      const owner = this.#map.owner(at);
      if (owner > 0) yield { sector: at, count: end - at, owner };
      at = end;
    }
  }

  /** The parts of a piece whose owners are known; those whose bitmaps cannot be read are left, 16 MiB at a time. */
  async *known(piece: Piece, leave: (piece: Piece, error: unknown) => void): AsyncIterable<Piece> {
    try {
      await this.#loader.load(piece.sector, piece.count);
      yield piece;
    } catch (error) {
      if (piece.count <= PART_SECTORS) return leave(piece, error);
      const end = piece.sector + piece.count;
      for (let sector = piece.sector; sector < end; sector += PART_SECTORS)
        yield* this.known({ sector, count: Math.min(PART_SECTORS, end - sector) }, leave);
    }
  }

  /** Set bits of a layer, from 1; of the pieces looked at so far. */
  allocated(layer: number): number {
    return this.#map.allocated(layer);
  }
}

/** How runs are copied; returns those that were. */
export type Copy = (runs: readonly Run[], to: Source) => Promise<readonly Run[]>;

const copyAll: Copy = async (runs, to) => {
  await copyRuns(runs, to);
  return runs;
};

/** Puts runs of one piece into a layer; returns those that are in it now. Errors: those of the devices. */
export async function fillLayer(
  layer: LayerDevices,
  piece: Piece,
  runs: readonly Run[],
  copy: Copy = copyAll,
): Promise<readonly Run[]> {
  const copied = await copy(runs, { device: layer.data, offset: layer.offset });
  if (copied.length === 0) return copied;
  await layer.data.flush();
  await changeBits(layer.bitmap, piece, copied, true);
  await layer.bitmap.flush();
  return copied;
}

/** Bytes of runs. */
export function bytesOf(runs: readonly Run[]): number {
  return runs.reduce((sum, { count }) => sum + count * SECTOR, 0);
}

/** Copies runs to the same sectors of another device, whose blocks may be larger. Holes are zeroed, not copied. */
export async function copyRuns(runs: Iterable<Run> | AsyncIterable<Run>, to: Source): Promise<void> {
  const destination = new ByteAccess(to.device);
  await inParallel(chunks(runs), COPIES, async ({ offset, length, source, hole }) => {
    if (hole) return destination.writeZeroes(to.offset + offset, length, { mayUnmap: true });
    const buffer = Buffer.allocUnsafe(length);
    await source.device.read(source.offset + offset, buffer);
    return destination.write(to.offset + offset, buffer);
  });
}

/** Writes zeroes over the bits of a piece, where there are any. They are not flushed. */
export async function clearBits(bitmap: BlockDevice, piece: Piece): Promise<void> {
  const { offset, length } = bitmapRange(piece);
  await bitmap.writeZeroes(offset, length);
}

/** Bytes of the bitmap that speak for a piece. */
export function bitmapRange({ sector, count }: Piece): { offset: number; length: number } {
  return { offset: (sector / PAGE_SECTORS) * SECTOR, length: bitmapBytes(count) };
}

interface Chunk {
  readonly offset: number;
  readonly length: number;
  readonly source: Source;
  readonly hole: boolean;
}

async function* chunks(runs: Iterable<Run> | AsyncIterable<Run>): AsyncIterable<Chunk> {
  for await (const { sector, count, source } of runs) {
    const { device, offset: shift } = source;
    for await (const extent of device.extents(shift + sector * SECTOR, count * SECTOR)) {
      const hole = extent.kind !== "data";
      const step = hole ? extent.length : COPY_BYTES;
      for (let at = 0; at < extent.length; at += step) {
        const length = Math.min(step, extent.length - at);
        yield { offset: extent.offset - shift + at, length, source, hole };
      }
    }
  }
}

/** Sets or clears the bits of runs of one piece. They are not flushed. */
export async function changeBits(
  bitmap: BlockDevice,
  piece: Piece,
  runs: readonly Run[],
  value: boolean,
): Promise<void> {
  const { offset, length } = bitmapRange(piece);
  const bytes = Buffer.allocUnsafe(length);
  await bitmap.read(offset, bytes);
  const before = Buffer.from(bytes);
  const bits = new Bitmap(length * 8, bytes);
  for (const { sector, count } of runs) {
    if (value) bits.set(sector - piece.sector, count);
    else bits.clear(sector - piece.sector, count);
  }
  const unit = bitmap.limits.logicalBlockSize;
  for (let at = 0; at < length; at += unit) {
    if (bytes.compare(before, at, at + unit, at, at + unit) === 0) continue;
    let end = at + unit;
    while (end < length && bytes.compare(before, end, end + unit, end, end + unit) !== 0) end += unit;
    await bitmap.write(offset + at, bytes.subarray(at, end));
    at = end - unit;
  }
}
