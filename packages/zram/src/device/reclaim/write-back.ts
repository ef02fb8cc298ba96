/** Making room by moving pages to the backing device, one after the other, with requests let through between them. */
import { BlockIoError, type BlockDevice, type LongWork, codeOf, crc32c } from "@dmkit/block-io";
import { kinds } from "../../core/page-table.ts";
import { PAGE } from "../../core/size-classes.ts";
import type { RunningDisk } from "../disk.ts";
import { type Selection, isSelected, pagesOf } from "./selection.ts";
import { isTurn, letOthers } from "./turns.ts";

/** Pages moved. Throws `EINVAL` without a backing device, `ENOSPC` when it is full, or the limit is reached. */
export async function writeBack(
  device: RunningDisk,
  selection: Selection,
  options: LongWork = {},
): Promise<number> {
  const { pages, backing, limit } = device.parts;
  const { table, blocks } = pages;
  if (backing === undefined || blocks === undefined) {
    throw new BlockIoError("there is no backing device", {
      code: "EINVAL",
      device: device.name,
      op: "message",
      hint: device.parts.withoutBacking ?? "Open the device with the option backing_dev.",
    });
  }
  const contents = Buffer.alloc(PAGE);
  let count = 0;
  let near = 0;
  for (const page of pagesOf(selection, table.pages)) {
    if (count >= selection.most) break;
    if (isTurn(page)) await letOthers(device, page, options);
    if (!isSelected(device, page, selection)) continue;
    near = blocks.find(false, near);
    if (near === blocks.length) near = blocks.find(false, 0);
    if (near === blocks.length) throw full(device, count);
    if (limit.isOn && limit.pages === 0) throw spent(device, count);
    // What is tried counts: the limit is there to spare the device.
    if (limit.isOn) limit.pages -= 1;
    if (await moveOut(device, backing, page, near, contents)) count += 1;
  }
  return count;
}

/** Whether the page, which is in memory, is on the backing device now; not if it was changed meanwhile. @param contents scratch. */
export async function moveOut(
  device: RunningDisk,
  backing: BlockDevice,
  page: number,
  block: number,
  contents: Buffer,
): Promise<boolean> {
  const { pages, rules } = device.parts;
  const { table, blocks } = pages;
  const entry = table.look(page);
  const isCompressed = device.compressedWriteback && table.kind(page) === kinds.compressed;
  const length = isCompressed ? table.length(page) : PAGE;
  const priority = isCompressed ? rules.backed(table.priority(page)) : 0;
  if (isCompressed) contents.fill(0, pages.bytes(page).copy(contents));
  else device.readWhole(page, contents);
  const sum = crc32c(contents);
  // Taken before it is written: two messages at a time must not choose the same one.
  if (rules.takesBlocks) blocks?.set(block);
  try {
    await backing.write(block * PAGE, contents);
  } catch (error) {
    blocks?.clear(block);
    throw new BlockIoError("a page could not be written back; it stays in memory", {
      code: codeOf(error),
      device: device.name,
      op: "message",
      cause: error,
    });
  }
  device.backingWrites += 1;
  if (!rules.isStill(table, page, entry)) {
    blocks?.clear(block);
    return false;
  }
  pages.putOnBacking(page, block, length, priority, sum);
  return true;
}

function spent(device: RunningDisk, count: number): BlockIoError {
  return new BlockIoError(`writeback_limit is used up after ${count} pages`, {
    code: "ENOSPC",
    device: device.name,
    op: "message",
    hint: "Set writeback_limit to more pages, or writeback_limit_enable to 0; what was written back is safe.",
  });
}

function full(device: RunningDisk, count: number): BlockIoError {
  return new BlockIoError(`the backing device is full after ${count} pages`, {
    code: "ENOSPC",
    device: device.name,
    op: "message",
    hint: "Use a larger one; what was written back is safe.",
  });
}
