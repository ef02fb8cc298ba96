/** Pages that cannot be read: reading those on the backing device, and what is said of the ones it does not give. */
import {
  type BlockDevice,
  type BlockIoError,
  type Health,
  crc32c,
  healthy,
  isOfPlace,
  refuse,
} from "@dmkit/block-io";
import { PAGE } from "../core/size-classes.ts";
import type { RunningDisk, ZramParts } from "./disk.ts";

/** Reads a block of the backing device. Errors: those of the device. */
export async function readBlock(device: RunningDisk, block: number, into: Buffer): Promise<void> {
  const { backing, pages } = device.parts;
  device.backingReads += 1;
  try {
    await (backing as BlockDevice).read(block * PAGE, into);
    pages.unreadable.delete(block);
  } catch (error) {
    device.failedReads += 1;
    // It may have been given back meanwhile.
    if (isOfPlace(error) && pages.blocks?.get(block) === true) pages.unreadable.add(block);
    throw error;
  }
}

/** Whether a block that was just read is what was written there for a page, which is there still. */
export function isSound({ parts: { pages, rules } }: RunningDisk, page: number, block: Buffer): boolean {
  const isSound = rules.isSound(crc32c(block), pages.sums[page] as number);
  if (!isSound) pages.unreadable.add(pages.table.low(page));
  return isSound;
}

/** The error of a page whose block is not what was written there. */
export function rottenPage(device: RunningDisk, page: number): BlockIoError {
  device.failedReads += 1;
  const { backing, pages } = device.parts;
  const why = `page ${page} is not what was written to the backing device ${backing?.name}, at byte ${pages.table.low(page) * PAGE}`;
  return refuse(device.name, "EIO", why, ANEW, "read");
}

const AGAIN =
  "Close the disk and open it again: the snapshot is read once more. If it stays so, copy what can be read; or give up what cannot: open it with bad unreadable, these pages are EIO then until they are written.";
const ANEW = "Write the whole page (4096 bytes), or discard it.";

/** The error of reading a page that is lost. */
export function lostPage(device: RunningDisk, page: number): BlockIoError {
  device.failedReads += 1;
  const { pages, unread } = device.parts;
  const why =
    pages.table.low(page) === 1
      ? "could not be read from the snapshot when the disk was opened"
      : "is lost: it could not be read when the disk was saved";
  return refuse(device.name, "EIO", `page ${page} ${why}`, unread === undefined ? ANEW : AGAIN, "read");
}

/** What of the disk cannot be read, and of its devices not be used. */
export function pagesHealth({
  pages: {
    lost,
    unreadable: { size },
  },
  withoutBacking,
  unread,
}: Pick<ZramParts, "pages" | "withoutBacking" | "unread">): Health {
  if (unread !== undefined)
    return {
      state: "degraded",
      why: `${unread}; the disk is read-only, so that it stays as it is`,
      help: AGAIN,
    };
  if (lost + size === 0) {
    if (withoutBacking === undefined) return healthy;
    return { state: "degraded", why: "pages cannot be moved to a backing device", help: withoutBacking };
  }
  const reason =
    size === 0
      ? "they could not be when the disk was saved, or opened"
      : `${size} of them the backing device does not give now, and are lost if the disk is closed while that is so`;
  const help = "Write these pages anew, or discard them; replace the backing device.";
  return { state: "degraded", why: `${lost + size} pages cannot be read: ${reason}`, help };
}
