/**
 * Making room: compressing pages again with the second algorithm, and moving pages to the backing device.
 * Both go over the pages one after the other and let requests through between them.
 */
import { BlockIoError, type BlockDevice, type LongWork, codeOf, nextTurn } from "@dmkit/block-io";
import { kinds } from "../core/page-table.ts";
import { PAGE } from "../core/size-classes.ts";
import type { RunningDisk } from "./disk.ts";
import { type Selection, isSelected, pagesOf } from "./selection.ts";

// Pages after which others get a turn: a few milliseconds.
const TURN = 64;

/** Between two pages: others have a turn, who waits is told, and who does not want to wait any more ends it. */
async function pause({ parts }: RunningDisk, done: number, { signal, progress }: LongWork): Promise<void> {
  progress?.({ done, total: parts.pages.table.pages, unit: "pages" });
  await nextTurn(parts.environment.scheduler);
  signal?.throwIfAborted();
}

/** Pages that became smaller. Throws `EINVAL` without a second algorithm. */
export async function recompress(
  device: RunningDisk,
  selection: Selection,
  options: LongWork = {},
): Promise<number> {
  const { pages, secondary, primary } = device.parts;
  const { table } = pages;
  if (secondary === undefined) {
    throw new BlockIoError("there is no second algorithm", {
      code: "EINVAL",
      device: device.name,
      op: "message",
      hint: "Open the device with the option recomp_algorithm.",
    });
  }
  const contents = Buffer.alloc(PAGE);
  const stream = await secondary.acquire();
  let count = 0;
  try {
    for (const page of pagesOf(selection, table.pages)) {
      if (device.failure !== undefined || count >= selection.most) break;
      if (page % TURN === TURN - 1) await pause(device, page, options);
      const kind = table.kind(page);
      if (kind === kinds.recompressed || !isSelected(device, page, selection)) continue;
      const idle = table.isIdle(page);
      device.readWhole(page, contents);
      const limit = pages.bytes(page).length - 1;
      // Nothing can come between: this is done at once, whatever the algorithm prefers.
      const length = stream.compressSync(contents, limit);
      if (length < 0 || length > limit) continue;
      const shorter = secondary.name === primary.name ? kinds.compressed : kinds.recompressed;
      if (!pages.put(page, shorter, stream.output, length)) continue;
      if (idle) table.markIdle(page);
      count += 1;
    }
  } finally {
    stream.release();
  }
  return count;
}

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
    if (page % TURN === TURN - 1) await pause(device, page, options);
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

/** Whether the page is on the backing device now; not if it was changed meanwhile. */
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
  device.readWhole(page, contents);
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
  pages.putOnBacking(page, block);
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
