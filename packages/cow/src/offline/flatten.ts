/**
 * `flatten`: the whole stack as one raw image. The stack is only read; the image is sparse where the stack has
 * holes. Cut short, it can go on where it stopped: everything before is in the image.
 */
import { type BlockDevice, SECTOR, requireRoom } from "@dmkit/block-io";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { type ChainOptions, viewOf } from "./chain/chain.ts";
import { type WorkOptions, copyRuns, pieces } from "./chain/work.ts";

/** How a stack is copied into one device. */
export interface FlattenOptions extends WorkOptions, ChainOptions {
  /** Bytes of the image that are done already, from the last report of progress. Default 0. */
  readonly from?: number;
}

/** Writes what the stack shows to the start of `image`. Errors: EINVAL (no room), those of the devices. */
export async function flatten(
  stack: StackDevices,
  image: BlockDevice,
  options: FlattenOptions = {},
): Promise<void> {
  requireRoom(image, 0, stack.sectors * SECTOR);
  const view = await viewOf(stack, options);
  try {
    const source = { device: view, offset: 0 };
    for (const piece of pieces(stack.sectors, options)) {
      if ((piece.sector + piece.count) * SECTOR <= (options.from ?? 0)) continue;
      await copyRuns([{ ...piece, source }], { device: image, offset: 0 });
      // Progress is a promise that an interrupted run need not begin before it.
      await image.flush();
    }
  } finally {
    await view.close();
  }
}
