/**
 * `commit --layer`: moves a layer below the top into what it lies on, while nobody serves the stack; in the same order as
 * while it is in use, see device/copy/merge.ts.
 */
import { nameOf } from "../../core/stacking.ts";
import {
  copyDown,
  ownIdentity,
  relinking,
  requireBelowTop,
  requireMergeable,
} from "../../device/copy/merge.ts";
import type { WorkOptions } from "../../device/copy/work.ts";
import { writeIdentity } from "../../device/layer/layer.ts";
import type { StackDevices } from "../../device/layer/stack-devices.ts";
import { readIdentities } from "../../open/judge.ts";
import { type ChainOptions, layerAt, requireSound } from "./chain.ts";

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
  requireBelowTop(stack, layer, "cow");
  const above = layerAt(stack, layer + 1);
  const blocks = await readIdentities(stack);
  const identity = await ownIdentity(above, layer + 1, stack.sectors);
  if (identity.parent === nameOf(blocks[layer - 2])) return 0;
  await requireSound(blocks, stack, options);
  requireMergeable(stack, layer);
  const bytes = await copyDown(stack, layer, options);
  const change = await relinking(stack, layer);
  await writeIdentity(above.bitmap, change(identity));
  return bytes;
}
