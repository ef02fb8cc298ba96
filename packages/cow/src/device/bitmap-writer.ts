/**
 * Brings the bits of the top layer to stable storage.
 *
 * Invariant: a bit is on the bitmap device only if the data of its sector is stable. The order is
 *
 *      1  snapshot of the dirty pages: every bit in it is of a write whose data has been *written*
 *      2  flush of the data device:    … and is now *stable*
 *      3  the snapshot goes to the bitmap device
 *      4  flush of the bitmap device
 *
 * A write that completes during 2 sets its bits in the map, but not in the snapshot; the next round takes it.
 * A crash in 3 leaves each sector of the bitmap old or new, and both say nothing that is not so.
 */
import {
  type BlockDevice,
  BlockIoError,
  FlushGroup,
  SECTOR,
  isOutOfSpace,
  join,
  isLossless,
} from "@dmkit/block-io";
import type { OwnerMap } from "../core/owner-map.ts";
import { type CowRules, cowRules } from "../core/rules.ts";

/** Pages in one write to the bitmap device, at most: 512 KiB. */
const MOST_PAGES = 1024;

/** Neighbouring sectors of a bitmap, ready to be written. */
interface BitmapImage {
  /** Bytes on the bitmap device. */
  readonly offset: number;
  readonly bytes: Buffer;
}

export class BitmapWriter {
  readonly #map: OwnerMap;
  readonly #bitmap: BlockDevice;
  readonly #data: BlockDevice;
  readonly #rules: CowRules;
  readonly #group: FlushGroup = new FlushGroup(() => this.#barrier());
  #failure: unknown;
  #isStable = false;

  constructor(map: OwnerMap, bitmap: BlockDevice, data: BlockDevice, rules: CowRules = cowRules) {
    this.#map = map;
    this.#bitmap = bitmap;
    this.#data = data;
    this.#rules = rules;
  }

  /** Makes stable every write that resolved before this call, and its bits. */
  flush(): Promise<void> {
    return this.#group.flush();
  }

  /** Whether the last commit succeeded: only then is known to be stable what was written before it. */
  get isStable(): boolean {
    return this.#isStable;
  }

  /** What a failed commit has lost is not known: no flush that waited behind it may succeed. Unless it lost nothing. */
  async #barrier(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#isStable = false;
    try {
      await this.#commit();
    } catch (error) {
      if (!isLossless(error)) this.#failure = error;
      throw error;
    }
    this.#isStable = true;
  }

  async #commit(): Promise<void> {
    const { commit, staysDirty } = this.#rules;
    const pages = this.#map.takeDirty();
    let images: readonly BitmapImage[] = [];
    try {
      for (const step of commit) {
        // Taken before the flush begins: what comes later is not covered by it.
        if (step === "snapshot") images = this.#snapshot(pages);
        else if (step === "data") await this.#data.flush();
        else if (pages.length > 0) await (step === "bits" ? this.#write(images) : this.#bitmap.flush());
      }
    } catch (error) {
      // What has been written of them is true, and all of them are still in the map: the next commit has them again.
      if (staysDirty) this.#map.givenBack(pages);
      throw error;
    }
    this.#map.committed(pages);
  }

  async #write(images: readonly BitmapImage[]): Promise<void> {
    try {
      await join(images.map(({ offset, bytes }) => this.#bitmap.write(offset, bytes)));
    } catch (error) {
      throw isOutOfSpace(error) ? noSpace(this.#bitmap, error) : error;
    }
  }

  /** The dirty pages as they are now, in whole blocks of the bitmap device, neighbours together. */
  #snapshot(pages: readonly number[]): BitmapImage[] {
    const unit = this.#bitmap.limits.logicalBlockSize / SECTOR;
    const images: BitmapImage[] = [];
    for (let index = 0; index < pages.length; ) {
      const first = Math.floor((pages[index] as number) / unit) * unit;
      let end = first + unit;
      for (; index < pages.length; index += 1) {
        const block = Math.floor((pages[index] as number) / unit) * unit;
        if (block > end || (block === end && end - first >= MOST_PAGES)) break;
        end = Math.max(end, block + unit);
      }
      images.push(this.#image(first, end));
    }
    return images;
  }

  #image(first: number, end: number): BitmapImage {
    const bytes = Buffer.alloc((end - first) * SECTOR);
    for (let page = first; page < Math.min(end, this.#map.pages); page += 1) {
      this.#rules.image(this.#map, page, bytes, (page - first) * SECTOR);
    }
    return { offset: first * SECTOR, bytes };
  }
}

function noSpace(bitmap: BlockDevice, cause: BlockIoError): BlockIoError {
  return new BlockIoError(`no space is left for the bitmap: ${cause.message}`, {
    code: "ENOSPC",
    device: bitmap.name,
    op: "flush",
    cause,
    lossless: true,
    hint: "Make room in the file system below it. The bits are in memory, and the next flush writes them.",
  });
}
