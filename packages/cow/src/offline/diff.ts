/** `diff`: what some layers of a stack have changed, as ranges, or copied to a sparse file. */
import { type BlockDevice, BlockIoError, SECTOR, requireRoom } from "@dmkit/block-io";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources } from "../open/judge.ts";
import { type ChainOptions, layerAt, readChain } from "./chain/chain.ts";
import { LayerRuns, type Run, type WorkOptions, checkWork, copyRuns, pieces } from "../device/copy/work.ts";

/** A changed range, in bytes, and the topmost layer that has it, counted from 1 at the bottom. */
export interface ChangedRange {
  readonly offset: number;
  readonly length: number;
  readonly layer: number;
}

/** The ranges layers `from` … `to` hold, in order. Errors: EINVAL, EFORMAT, those of the devices. */
export async function* diff(
  stack: StackDevices,
  from: number,
  to: number,
  options: WorkOptions & ChainOptions = {},
): AsyncIterable<ChangedRange> {
  checkWork(options);
  if (!(from >= 1 && from <= to && to <= stack.layers.length)) {
    throw new BlockIoError(`there are no layers ${from}..${to}`, {
      code: "EINVAL",
      op: "open",
      hint: `Layers are counted from 1 at the bottom to ${stack.layers.length}.`,
    });
  }
  const blocks = await readChain(stack, options);
  const range = stack.layers.slice(from - 1, to);
  const sources = bitmapSources(range, blocks.slice(from - 1, to), options.aliasedBlockSize);
  const runs = new LayerRuns(stack.sectors, sources);
  for (const piece of pieces(stack.sectors, options)) {
    for await (const { sector, count, owner } of runs.in(piece)) {
      yield { offset: sector * SECTOR, length: count * SECTOR, layer: from + owner - 1 };
    }
  }
}

/** Copies changed ranges to the same place of `image`, which is as large as the target; returns what they are. */
export async function exportDiff(
  stack: StackDevices,
  ranges: AsyncIterable<ChangedRange>,
  image: BlockDevice,
): Promise<ChangedRange[]> {
  requireRoom(image, 0, stack.sectors * SECTOR);
  const copied: ChangedRange[] = [];
  const runs = async function* (): AsyncIterable<Run> {
    for await (const range of ranges) {
      copied.push(range);
      const { data, offset } = layerAt(stack, range.layer);
      yield { sector: range.offset / SECTOR, count: range.length / SECTOR, source: { device: data, offset } };
    }
  };
  await copyRuns(runs(), { device: image, offset: 0 });
  await image.flush();
  return copied;
}
