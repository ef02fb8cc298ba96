/**
 * `squash A..B`: one layer instead of several. What A … B-1 hold and B does not is copied up into B; then B
 * lies on what A lay on, and A … B-1 can be left out of the table.
 *
 * B shows the same at every moment, with and without the others below it, and the others are not touched: other
 * stacks may use them. Cut short, it goes on with what B still lacks. The new parent is written last.
 */
import { BlockIoError } from "@dmkit/block-io";
import { nameOf } from "../core/stacking.ts";
import { writeIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources, readIdentities } from "../open/judge.ts";
import { lyingOn } from "../device/layer/below.ts";
import { sampleData } from "../device/layer/pairing.ts";
import { type ChainOptions, layerAt, requireOwn, requireSound } from "./chain/chain.ts";
import { Left, copyAllBut } from "../device/copy/left.ts";
import { LayerRuns, type Run, type WorkOptions, bytesOf, fillLayer, pieces } from "../device/copy/work.ts";

/**
 * Squashes layers `from` … `to`, counted from 1 at the bottom; returns the bytes copied. Done before: does
 * nothing. Errors: EINVAL, EROFS, EFORMAT, those of the devices; `AbortError` when told to stop.
 */
export async function squash(
  stack: StackDevices,
  from: number,
  to: number,
  options: WorkOptions & ChainOptions = {},
): Promise<number> {
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
  const runs = new LayerRuns(stack.sectors, sources);
  // A layer of another stack in between lies on the same, but was never squashed into this one: it is refused.
  if (identity.parent === parent && (await hasAll(stack, runs, range.length))) return 0;
  await requireSound(blocks, stack, options);
  const left = new Left();
  let bytes = 0;
  for (const piece of pieces(stack.sectors, options)) {
    for await (const part of runs.known(piece, (one, error) => left.add(one, error))) {
      const missing: Run[] = [];
      for await (const { sector, count, owner } of runs.in(part)) {
        if (owner === range.length) continue;
        const { data, offset } = layerAt(stack, from + owner - 1);
        missing.push({ sector, count, source: { device: data, offset } });
      }
      if (missing.length === 0) continue;
      bytes += bytesOf(await fillLayer(layer, part, missing, (some, to) => copyAllBut(some, to, left)));
    }
  }
  // What an earlier attempt has left in caches must be there before the layers below can go.
  await layer.data.flush();
  await layer.bitmap.flush();
  left.refuse(
    "copied up",
    "The layers are as they were, with more in the last one. Replace the device with a copy that is whole, and run it again.",
  );
  const samples = await sampleData(layer, identity.uuid, stack.sectors);
  await writeIdentity(layer.bitmap, { ...identity, ...(await lyingOn(stack, blocks[from - 2])), samples });
  return bytes;
}

/** Whether the last of the layers has every sector that any of them has. */
async function hasAll({ sectors }: StackDevices, runs: LayerRuns, last: number): Promise<boolean> {
  for (const piece of pieces(sectors, {}))
    for await (const { owner } of runs.in(piece)) if (owner !== last) return false;
  return true;
}
