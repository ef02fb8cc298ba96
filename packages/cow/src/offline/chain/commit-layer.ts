/**
 * `commit --layer`: moves a layer below the top into what it lies on, while nobody serves the stack; in the same order as
 * while it is in use, see device/copy/merge.ts.
 */
import { SECTOR } from "@dmkit/block-io";
import { requireNoSnapshot, snapshotsOf } from "../../core/snapshots.ts";
import { nameOf } from "../../core/stacking.ts";
import {
  copyDown,
  ownIdentity,
  relinking,
  requireBelowTop,
  requireMergeable,
} from "../../device/copy/merge.ts";
import { LayerRuns, type WorkOptions, checkWork, pieces } from "../../device/copy/work.ts";
import { writeIdentity } from "../../device/layer/layer.ts";
import type { StackDevices } from "../../device/layer/stack-devices.ts";
import { readIdentities } from "../../open/judge.ts";
import { type ChainOptions, layerAt, requireSound, viewOf } from "./chain.ts";

/** Sectors compared with one request. */
const STEP = 1024;

/**
 * Merges a layer, counted from 1 at the bottom, into the one below or the base, and makes the one above lie on that; returns
 * the bytes copied. Done before: does nothing. Errors: `EINVAL`, `EROFS`, `EFORMAT`, `EIO` when something is left, those of
 * the devices; the signal's reason.
 */
export async function commitLayer(
  stack: StackDevices,
  layer: number,
  options: WorkOptions & ChainOptions = {},
): Promise<number> {
  checkWork(options);
  requireBelowTop(stack, layer, "cow");
  const above = layerAt(stack, layer + 1);
  const blocks = await readIdentities(stack);
  const identity = await ownIdentity(above, layer + 1, stack.sectors);
  // A layer of another stack in between lies on the same, but what it has was never moved down from here: it is refused.
  if (identity.parent === nameOf(blocks[layer - 2]) && (await isBelow(stack, layer, options))) {
    // What an attempt before this one has written may be in a cache only, and its files are free from now on.
    await above.bitmap.flush();
    return 0;
  }
  await requireSound(blocks, stack, options);
  requireNoSnapshot(snapshotsOf(blocks), [layer, layer - 1], "cow");
  requireMergeable(stack, layer, "down");
  const bytes = await copyDown(stack, layer, options);
  const change = await relinking(stack, layer);
  await writeIdentity(above.bitmap, change(identity));
  return bytes;
}

/** Whether all that a layer has is in what it lies on as well. */
async function isBelow(
  stack: StackDevices,
  layer: number,
  options: WorkOptions & ChainOptions,
): Promise<boolean> {
  const { sectors, layers } = stack;
  const { bitmap, data, offset } = layerAt(stack, layer);
  const below = await viewOf({ ...stack, layers: layers.slice(0, layer - 1) }, options);
  try {
    const runs = new LayerRuns(sectors, [{ bitmap }]);
    for (const piece of pieces(sectors, options))
      for await (const { sector, count } of runs.in(piece))
        for (let at = sector; at < sector + count; at += STEP) {
          const length = Math.min(STEP, sector + count - at) * SECTOR;
          const [ours, theirs] = [Buffer.allocUnsafe(length), Buffer.allocUnsafe(length)];
          await Promise.all([data.read(offset + at * SECTOR, ours), below.read(at * SECTOR, theirs)]);
          if (!ours.equals(theirs)) return false;
        }
    return true;
  } finally {
    await below.close();
  }
}
