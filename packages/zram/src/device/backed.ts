/**
 * Pages on the backing device, one a block: as they are, or as they were in memory, compressed, with zeroes behind. The table
 * says which: 4096 bytes, or fewer and the priority of the algorithm.
 */
import { BlockIoError } from "@dmkit/block-io";
import type { Entry } from "../core/page-table.ts";
import { PAGE } from "../core/size-classes.ts";
import type { Algorithm } from "./algorithms.ts";
import type { RunningDisk } from "./disk.ts";
import { isSound, readBlock, rottenPage } from "./lost.ts";

/**
 * Fills a whole page that was on the backing device when `entry` was taken, just now. False: it has changed meanwhile, and
 * what was read may be of another page; look again. Whoever goes on to write what it was asks once more: the answer may be
 * old when it arrives. Errors: `EIO` if its bytes are not what was stored, those of the device.
 */
export async function readBacked(
  device: RunningDisk,
  page: number,
  entry: Entry,
  into: Buffer,
): Promise<boolean> {
  const { pages, rules } = device.parts;
  const { table } = pages;
  const length = table.length(page);
  const priority = table.priority(page);
  const block = length === PAGE ? into : Buffer.allocUnsafe(PAGE);
  await readBlock(device, entry.low, block);
  if (!rules.isStill(table, page, entry)) return false;
  if (!isSound(device, page, block)) throw rottenPage(device, page);
  if (length < PAGE) expand(device, page, block.subarray(0, length), priority, into);
  return true;
}

/** Decompresses a whole page. Throws `EIO` if that yields no page. */
export function expand(
  device: RunningDisk,
  page: number,
  bytes: Buffer,
  priority: number,
  into: Buffer,
): void {
  const { compressor } = device.parts.algorithms[priority] as Algorithm;
  let cause: unknown;
  try {
    if (compressor.decompressSync(bytes, into) === PAGE) return;
  } catch (error) {
    cause = error;
  }
  device.failedReads += 1;
  const { name } = device;
  throw new BlockIoError(`page ${page} does not decompress to what was stored`, {
    code: "EIO",
    device: name,
    op: "read",
    cause,
    hint: "Write the whole page (4096 bytes), or discard it; replace the backing device if it was there.",
  });
}
