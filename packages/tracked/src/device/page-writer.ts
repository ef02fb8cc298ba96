/**
 * Brings bits to stable storage: one write of pages and one flush for all who wait.
 *
 * Invariant: when {@link PageWriter.flush} resolves, every bit that was set before the call is on stable storage. Where
 * that fails the bits are still in memory, and the next call tries again.
 */
import { type BlockDevice, BlockIoError, FlushGroup, SECTOR, join, toBlockIoError } from "@dmkit/block-io";
import type { Epoch, EpochTable, TakenPage } from "../core/epochs.ts";
import type { TrackedRules } from "../core/rules.ts";
import { pagesOf, slotStart } from "../format/geometry.ts";
import { encodePage } from "../format/page.ts";
import { bitsOfPage } from "./pages.ts";

/** Pages in one write, at most: 512 KiB. */
const MOST_PAGES = 1024;

/** Pages in a row, ready to be written. */
interface PageImage {
  /** Bytes on the bitmap device. */
  readonly offset: number;
  readonly bytes: Buffer;
}

export class PageWriter {
  readonly #bitmap: BlockDevice;
  readonly #table: EpochTable;
  readonly #uuid: string;
  readonly #rules: TrackedRules;
  readonly #group: FlushGroup;
  #failure: BlockIoError | undefined;
  #commits = 0;
  #pages = 0;

  constructor(bitmap: BlockDevice, table: EpochTable, uuid: string, rules: TrackedRules) {
    this.#bitmap = bitmap;
    this.#table = table;
    this.#uuid = uuid;
    this.#rules = rules;
    this.#group = new FlushGroup(
      () => this.#commit(),
      () => table.changes,
    );
  }

  /** Why the last attempt failed; undefined if it did not. */
  get failure(): BlockIoError | undefined {
    return this.#failure;
  }

  /** Times that pages were written and flushed, and pages. */
  get counts(): { readonly commits: number; readonly pages: number } {
    return { commits: this.#commits, pages: this.#pages };
  }

  /** Errors: those of the bitmap device. */
  flush(): Promise<void> {
    return this.#group.flush();
  }

  async #commit(): Promise<void> {
    const taken = this.#table.take();
    if (taken.pages.length > 0) {
      // Made before anything is waited for: a bit that is set later is not covered.
      const images = this.#images(taken.pages);
      try {
        await join(images.map(({ offset, bytes }) => this.#bitmap.write(offset, bytes)));
        if (this.#rules.flushesPages) await this.#bitmap.flush();
      } catch (error) {
        this.#table.giveBack(taken);
        this.#failure = toBlockIoError(error, { device: this.#bitmap.name, op: "write" });
        throw this.#failure;
      }
      this.#commits += 1;
      this.#pages += taken.pages.length;
      this.#failure = undefined;
    }
    this.#table.settle(taken);
  }

  /** In whole blocks of the bitmap device, neighbours together. */
  #images(pages: readonly TakenPage[]): PageImage[] {
    const unit = this.#bitmap.limits.logicalBlockSize / SECTOR;
    const images: PageImage[] = [];
    for (let index = 0; index < pages.length; ) {
      const { epoch, page } = pages[index] as TakenPage;
      const first = Math.floor(page / unit) * unit;
      let end = first;
      for (; index < pages.length && end - first < MOST_PAGES; index += 1) {
        const next = pages[index] as TakenPage;
        const block = Math.floor(next.page / unit) * unit;
        if (next.epoch !== epoch || (block > end && end > first)) break;
        end = block + unit;
      }
      images.push(this.#image(epoch, first, end));
    }
    return images;
  }

  #image(epoch: Epoch, first: number, end: number): PageImage {
    const { geometry } = this.#table;
    const bytes = Buffer.alloc((end - first) * SECTOR);
    const owner = { uuid: this.#uuid, number: epoch.number };
    for (let page = first; page < Math.min(end, pagesOf(geometry)); page += 1) {
      encodePage(bytes, (page - first) * SECTOR, owner, page, bitsOfPage(epoch, page));
    }
    return { offset: slotStart(geometry, epoch.slot) + first * SECTOR, bytes };
  }
}

/** The error of a write whose bits cannot be made stable. */
export function unmarked(name: string, offset: number, length: number, cause: unknown): BlockIoError {
  const { code, message, hint } = toBlockIoError(cause, {});
  return new BlockIoError(`not written, since its bits cannot be made stable: ${message}`, {
    code,
    device: name,
    op: "write",
    offset,
    length,
    cause,
    hint:
      hint ??
      "Check the bitmap device. What is marked in all epochs already can still be written; without epochs everything can.",
  });
}
