/**
 * `flatten`: the whole stack as one raw image. The stack is only read; the image is sparse where the stack has
 * holes. Cut short, it can go on where it stopped: everything before is in the image.
 */
import {
  type BlockDevice,
  BlockIoError,
  ByteAccess,
  SECTOR,
  isOfPlace,
  requireRoom,
  setting,
} from "@dmkit/block-io";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { type ChainOptions, viewOf } from "./chain/chain.ts";
import { Left, MOST_OF_STACK, copyAllBut } from "../device/copy/left.ts";
import { type Piece, type WorkOptions, checkWork, copyRuns, pieces } from "../device/copy/work.ts";

/** How a stack is copied into one device. */
export interface FlattenOptions extends WorkOptions, ChainOptions {
  /** Bytes of the image that are done already, from the last report of progress. Default 0. */
  readonly from?: number;
  /**
   * `zero`: what cannot be read is zero in the image, and told, and everything else is copied; where a bitmap cannot be
   * read, that is all it speaks for, whatever layers and base have there. Default: the first of it is an error.
   */
  readonly bad?: "zero" | undefined;
}

const flattenSettings = {
  from: setting.integer(0, Number.MAX_SAFE_INTEGER),
  bad: setting.choice("zero"),
};

/**
 * Writes what the stack shows to the start of `image`. Returns what is zero there because it cannot be read, in sectors of
 * the target. Errors: EINVAL (no room), those of the devices.
 */
export async function flatten(
  stack: StackDevices,
  image: BlockDevice,
  options: FlattenOptions = {},
): Promise<readonly Piece[]> {
  checkWork(options, flattenSettings);
  requireRoom(image, 0, stack.sectors * SECTOR);
  const view = await viewOf(stack, options);
  try {
    const source = { device: view, offset: 0 };
    const to = { device: image, offset: 0 };
    const left = new Left(MOST_OF_STACK);
    let known = 0;
    for (const piece of pieces(stack.sectors, options)) {
      if ((piece.sector + piece.count) * SECTOR <= (options.from ?? 0)) continue;
      if (options.bad === undefined) await copyRuns([{ ...piece, source }], to).catch(namingTheWay);
      else await copyAllBut([{ ...piece, source }], to, left);
      for (const { sector, count } of left.ranges.slice(known)) {
        // The last one may have begun in a piece before, and is zero as far as that.
        const start = Math.max(sector, piece.sector);
        const rest = sector + count - start;
        if (rest > 0) await new ByteAccess(image).writeZeroes(start * SECTOR, rest * SECTOR, {});
      }
      known = Math.max(0, left.ranges.length - 1);
      // Progress is a promise that an interrupted run need not begin before it.
      await image.flush();
    }
    return left.ranges;
  } finally {
    await view.close();
  }
}

function namingTheWay(error: unknown): never {
  if (!isOfPlace(error)) throw error;
  const { code, device, op, offset, length } = error;
  const way = "Everything else can be copied, with zeroes in place of what cannot be read: --bad zero.";
  const hint = error.hint === undefined ? way : `${error.hint} ${way}`;
  throw new BlockIoError(error.reason, { code, device, op, offset, length, cause: error, hint });
}
