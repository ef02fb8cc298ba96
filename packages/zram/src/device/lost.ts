/** Pages that cannot be read: reading those on the backing device, and what is said of the ones it does not give. */
import {
  type BlockDevice,
  type BlockIoError,
  type Health,
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

/** The error of reading a page that is lost. */
export function lostPage(device: RunningDisk, page: number): BlockIoError {
  device.failedReads += 1;
  return refuse(
    device.name,
    "EIO",
    `page ${page} is lost: the backing device did not give it when the disk was saved`,
    "Write the whole page (4096 bytes), or discard it.",
    "read",
  );
}

/** What of the disk cannot be read, and of its devices not be used. */
export function pagesHealth({
  pages: {
    lost,
    unreadable: { size },
  },
  withoutBacking,
}: Pick<ZramParts, "pages" | "withoutBacking">): Health {
  if (lost + size === 0) {
    if (withoutBacking === undefined) return healthy;
    return { state: "degraded", why: "pages cannot be moved to a backing device", help: withoutBacking };
  }
  const reason =
    size === 0
      ? "the backing device did not give them when the disk was saved"
      : `${size} of them the backing device does not give now, and no snapshot will have these`;
  const help = "Write these pages anew, or discard them; replace the backing device.";
  return { state: "needs check", why: `${lost + size} pages cannot be read: ${reason}`, help };
}
