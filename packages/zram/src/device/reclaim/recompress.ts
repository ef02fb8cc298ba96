/**
 * Making room by compressing pages again, with algorithms of higher priority than that they have now: the first whose
 * result takes less memory, in the order of priorities, is taken. Requests are let through between the pages.
 */
import { type LongWork, refuse } from "@dmkit/block-io";
import type { Stream } from "@dmkit/compressor";
import { kinds } from "../../core/page-table.ts";
import { PAGE, classOf, classSizes } from "../../core/size-classes.ts";
import { type Secondary, secondariesOf } from "../algorithms.ts";
import type { RunningDisk } from "../disk.ts";
import { type Selection, isSelected, pagesOf } from "./selection.ts";
import { isTurn, letOthers } from "./turns.ts";

interface Attempt {
  readonly priority: number;
  readonly stream: Stream;
}

/** Pages that became smaller. Throws `EINVAL` without a second algorithm. */
export async function recompress(
  device: RunningDisk,
  selection: Selection,
  options: LongWork = {},
): Promise<number> {
  const { pages, algorithms } = device.parts;
  const { table } = pages;
  const all = secondariesOf(algorithms);
  if (all.length === 0) {
    const hint = "Open the device with the option recomp_algorithm.";
    throw refuse(device.name, "EINVAL", "there is no second algorithm", hint, "message");
  }
  const chosen = all.filter(({ priority }) => selection.priorities.includes(priority));
  // A result that has to be below a threshold says nothing of a page that is above it.
  const isExhaustive = chosen.length === all.length && selection.threshold === 0;
  const contents = Buffer.alloc(PAGE);
  const attempts: Attempt[] = [];
  let tried = 0;
  let count = 0;
  try {
    for (const one of chosen) attempts.push(await prepare(one));
    for (const page of pagesOf(selection, table.pages)) {
      if (device.failure !== undefined || tried >= selection.most) break;
      if (isTurn(page)) await letOthers(device, page, options);
      if (!isSelected(device, page, selection)) continue;
      const useful = attempts.filter(({ priority }) => priority > table.priority(page));
      if (useful.length === 0) continue;
      tried += 1;
      // Nothing can come between: this is done at once, whatever the algorithms prefer.
      const outcome = compressAgain(device, page, useful, selection, contents);
      if (outcome === "smaller") count += 1;
      else if (outcome === "in vain" && isExhaustive && table.kind(page) === kinds.huge)
        table.markIncompressible(page);
    }
  } finally {
    for (const { stream } of attempts) stream.release();
  }
  return count;
}

/** In the order of priorities, so that two at a time do not wait for each other. */
async function prepare({ priority, compressor }: Secondary): Promise<Attempt> {
  return { priority, stream: await compressor.acquire() };
}

/** Whether the page takes less memory now. Throws `EIO` if it cannot be read. */
function compressAgain(
  device: RunningDisk,
  page: number,
  attempts: readonly Attempt[],
  { threshold }: Selection,
  contents: Buffer,
): "smaller" | "in vain" | "no room" {
  const { pages } = device.parts;
  const { table } = pages;
  // One that stays in its size class saves nothing.
  const smaller = classSizes[classOf(table.length(page)) - 1] ?? 0;
  const limit = threshold === 0 ? smaller : Math.min(smaller, threshold - 1);
  if (limit === 0) return "in vain";
  const idle = table.isIdle(page);
  device.readWhole(page, contents);
  for (const { priority, stream } of attempts) {
    const length = stream.compressSync(contents, limit);
    if (length < 0) continue;
    if (!pages.put(page, stream.output, length, priority)) return "no room";
    if (idle) table.markIdle(page);
    return "smaller";
  }
  return "in vain";
}
