/** `info`: what a stack is made of. Nothing is written. */
import { SECTOR, isOfPlace } from "@dmkit/block-io";
import type { StackingProblem } from "../core/stacking.ts";
import type { IdentityBlock } from "../format/identity.ts";
import type { Snapshot } from "../format/snapshot.ts";
import type { Uuid } from "../format/uuid.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources, identitiesGiven, judge, judgeAllData } from "../open/judge.ts";
import type { ChainOptions } from "./chain/chain.ts";
import { LayerRuns, type Piece, type WorkOptions, checkWork, pieces } from "../device/copy/work.ts";

/** What is known of one layer. */
export interface LayerInfo {
  /** From 1 at the bottom. */
  readonly layer: number;
  readonly bitmap: string;
  readonly data: string;
  readonly kind: IdentityBlock["kind"];
  readonly uuid?: Uuid;
  readonly parent?: Uuid;
  readonly frozen?: boolean;
  readonly snapshot?: Snapshot | undefined;
  /** Sectors, as they are recorded; undefined where they are not. */
  readonly dataOffset?: number | undefined;
  readonly baseOffset?: number | undefined;
  /** The data device says whose it is. */
  readonly labelled?: boolean;
  /** Bytes whose bits are set; undefined where the bitmap cannot be trusted. */
  readonly allocated?: number;
}

/** What is known of a stack. */
export interface StackInfo {
  readonly base: string;
  /** Bytes of the target. */
  readonly size: number;
  /** Bytes of the target, in parts of 16 MiB, in which a bitmap cannot be read: not all that is there is counted. */
  readonly unknown?: number;
  readonly layers: readonly LayerInfo[];
  /** Why the stack would be refused. */
  readonly problems: readonly StackingProblem[];
}

/** Errors: those of the devices. */
export async function stackInfo(
  stack: StackDevices,
  options: WorkOptions & ChainOptions = {},
): Promise<StackInfo> {
  checkWork(options);
  const blocks = await identitiesGiven(stack);
  const aliasedKnown = options.aliasedBlockSize !== undefined;
  const sources = bitmapSources(stack.layers, blocks, options.aliasedBlockSize);
  const runs = new LayerRuns(stack.sectors, sources);
  let unknown = 0;
  const leave = ({ count }: Piece, error: unknown): void => {
    if (!isOfPlace(error)) throw error;
    unknown += count * SECTOR;
  };
  for (const piece of pieces(stack.sectors, options)) {
    // Only to have the piece counted.
    for await (const _ of runs.known(piece, leave));
  }
  return {
    base: stack.base.name,
    size: stack.sectors * SECTOR,
    ...(unknown === 0 ? {} : { unknown }),
    problems: [
      ...judge(blocks, stack, { writable: false, aliasedBlockSize: options.aliasedBlockSize }),
      ...(await judgeAllData(blocks, stack)),
    ],
    layers: stack.layers.map(({ bitmap, data }, index) => {
      const block = blocks[index] as IdentityBlock;
      const known =
        block.kind === "layer" || block.kind === "new" || (block.kind === "original" && aliasedKnown);
      return {
        layer: index + 1,
        bitmap: bitmap.name,
        data: data.name,
        kind: block.kind,
        ...(block.kind === "layer"
          ? {
              uuid: block.identity.uuid,
              parent: block.identity.parent,
              frozen: block.identity.frozen,
              snapshot: block.identity.snapshot,
              dataOffset: block.identity.dataOffset,
              baseOffset: block.identity.baseOffset,
              labelled: block.identity.labelled === true,
            }
          : {}),
        ...(known ? { allocated: runs.allocated(index + 1) * SECTOR } : {}),
      };
    }),
  };
}
