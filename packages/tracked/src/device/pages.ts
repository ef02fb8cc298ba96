/** Pages on the bitmap device: reading those of an epoch, and making a slot empty. */
import { type BlockDevice, type LongWork, SECTOR, readTwice } from "@dmkit/block-io";
import type { Epoch } from "../core/epochs.ts";
import type { TrackedRules } from "../core/rules.ts";
import { type Geometry, PAGE_BITS_BYTES, pagesOf, slotBytes, slotStart } from "../format/geometry.ts";
import { type PageOwner, encodePage } from "../format/page.ts";

// Bytes of pages that are read or written at a time.
const PIECE = 1024 * 1024;

/** A page as it is found. */
export interface FoundPage {
  readonly page: number;
  /** Undefined: it is lost. */
  readonly bits: Buffer | undefined;
}

/** All pages of an epoch, in order, some at a time. What cannot be read is lost. Errors: those that are no matter of a place. */
export async function* readPages(
  bitmap: BlockDevice,
  geometry: Geometry,
  slot: number,
  owner: PageOwner,
  decode: TrackedRules["decode"],
  { signal }: Pick<LongWork, "signal"> = {},
): AsyncIterable<FoundPage[]> {
  const pages = pagesOf(geometry);
  const length = slotBytes(geometry);
  const start = slotStart(geometry, slot);
  for (let at = 0; at < length; at += PIECE) {
    signal?.throwIfAborted();
    const bytes = Buffer.alloc(Math.min(PIECE, length - at));
    const missing = await readTwice(bitmap, start + at, bytes);
    const first = at / SECTOR;
    const found: FoundPage[] = [];
    for (let page = first; page < Math.min(pages, first + bytes.length / SECTOR); page += 1) {
      const sector = bytes.subarray((page - first) * SECTOR, (page - first + 1) * SECTOR);
      found.push({ page, bits: missing.has(page - first) ? undefined : decode(sector, owner, page) });
    }
    yield found;
  }
}

/** Makes all pages of a slot those of an epoch, durably. @param bits of a page; left out: none are set. */
export async function writeSlot(
  bitmap: BlockDevice,
  geometry: Geometry,
  slot: number,
  owner: PageOwner,
  bits: (page: number) => Uint8Array = () => NO_BITS,
): Promise<void> {
  const pages = pagesOf(geometry);
  const length = slotBytes(geometry);
  const start = slotStart(geometry, slot);
  for (let at = 0; at < length; at += PIECE) {
    const bytes = Buffer.alloc(Math.min(PIECE, length - at));
    for (let within = 0; within < bytes.length; within += SECTOR) {
      const page = (at + within) / SECTOR;
      if (page < pages) encodePage(bytes, within, owner, page, bits(page));
    }
    await bitmap.write(start + at, bytes);
  }
  await bitmap.flush();
}

const NO_BITS = new Uint8Array(PAGE_BITS_BYTES);

/** The bits of a page of an epoch in memory, not copied. */
export function bitsOfPage({ bits }: Epoch, page: number): Uint8Array {
  return bits.bytes.subarray(page * PAGE_BITS_BYTES, (page + 1) * PAGE_BITS_BYTES);
}
