/**
 * `squash A..B`: one layer instead of several. What A … B-1 hold and B does not is copied up into B; then B
 * lies on what A lay on, and A … B-1 can be left out of the table.
 *
 * B shows the same at every moment, with and without the others below it, and the others are not touched: other
 * stacks may use them. Cut short, it goes on with what B still lacks. The new parent is written last.
 */
import { BlockIoError, setting } from "@dmkit/block-io";
import { requireNoSnapshot, snapshotsOf } from "../core/snapshots.ts";
import { nameOf } from "../core/stacking.ts";
import type { BitmapSource } from "../device/bitmap-loader.ts";
import { writeIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources, readIdentities } from "../open/judge.ts";
import { lyingOn } from "../device/layer/below.ts";
import { sampleData } from "../device/layer/pairing.ts";
import { type ChainOptions, layerAt, requireOwn, requireSound } from "./chain/chain.ts";
import { copyUp } from "../device/copy/up.ts";
import { LayerRuns, type WorkOptions, checkWork, pieces } from "../device/copy/work.ts";

/**
 * Squashes layers `from` … `to`, counted from 1 at the bottom; returns the bytes copied. Done before: does
 * nothing. Errors: EINVAL, EROFS, EFORMAT, EBUSY for snapshots, those of the devices; `AbortError` when told to stop.
 * @param options `deletes`: snapshots as well, which are none of the stack then. Default false.
 */
export async function squash(
  stack: StackDevices,
  from: number,
  to: number,
  options: WorkOptions & ChainOptions & { readonly deletes?: boolean } = {},
): Promise<number> {
  checkWork(options, { deletes: setting.flag });
  if (!(from >= 1 && from < to && to <= stack.layers.length)) {
    throw new BlockIoError(`layers ${from}..${to} are no range of at least two`, {
      code: "EINVAL",
      op: "open",
      hint: `Layers are counted from 1 at the bottom to ${stack.layers.length}.`,
    });
  }
  const layer = layerAt(stack, to);
  const blocks = await readIdentities(stack);
  const identity = requireOwn(blocks, stack, to);
  const parent = nameOf(blocks[from - 2]);
  const range = stack.layers.slice(from - 1, to);
  const sources = bitmapSources(range, blocks.slice(from - 1, to), options.aliasedBlockSize);
  // A layer of another stack in between lies on the same, but was never squashed into this one: it is refused.
  if (identity.parent === parent && (await hasAll(stack, sources))) return 0;
  await requireSound(blocks, stack, options);
  if (options.deletes !== true) {
    const below = Array.from({ length: to - from }, (_, index) => from + index);
    requireNoSnapshot(snapshotsOf(blocks), below, "cow");
  }
  const bytes = await copyUp(stack, from, to, sources, options);
  const samples = await sampleData(layer, identity.uuid, stack.sectors);
  await writeIdentity(layer.bitmap, { ...identity, ...(await lyingOn(stack, blocks[from - 2])), samples });
  return bytes;
}

/** Whether the last of the layers has every sector that any of them has. */
async function hasAll({ sectors }: StackDevices, sources: readonly BitmapSource[]): Promise<boolean> {
  const runs = new LayerRuns(sectors, sources);
  for (const piece of pieces(sectors, {}))
    for await (const { owner } of runs.in(piece)) if (owner !== sources.length) return false;
  return true;
}
