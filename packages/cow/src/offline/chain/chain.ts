/** The stack an offline operation works on: its identities, judged, and its view. */
import {
  type BlockDevice,
  BlockIoError,
  LinearDevice,
  SECTOR,
  realEnvironment,
  refuse,
} from "@dmkit/block-io";
import type { AliasedBlockSize } from "../../format/aliased.ts";
import type { Identity, IdentityBlock } from "../../format/identity.ts";
import type { LayerDevices } from "../../device/layer/layer.ts";
import { requireOwnPlaces } from "../../device/layer/places.ts";
import type { StackDevices } from "../../device/layer/stack-devices.ts";
import { judge, readIdentities, refuseData, stackingError } from "../../open/judge.ts";
import { openStack } from "../../open/open.ts";

/** How layers are read that have no identity of dmkit. */
export interface ChainOptions {
  /** Block size in bytes of layers made by the original. */
  readonly aliasedBlockSize?: AliasedBlockSize | undefined;
}

/** Identities of all layers, bottom to top; throws `EFORMAT` if they, and their data, do not make a stack. */
export async function readChain(stack: StackDevices, options: ChainOptions = {}): Promise<IdentityBlock[]> {
  const blocks = await readIdentities(stack);
  await requireSound(blocks, stack, options);
  return blocks;
}

/** Throws `EFORMAT` if identities, and the data that goes with them, do not make a stack that can be read. */
export async function requireSound(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
  { aliasedBlockSize }: ChainOptions,
): Promise<void> {
  requireOwnPlaces(stack, "cow");
  const [problem] = judge(blocks, stack, { writable: false, aliasedBlockSize });
  if (problem !== undefined) throw stackingError(problem, stack.layers);
  await refuseData(blocks, stack, { name: "cow", environment: realEnvironment });
}

/** A layer and its identity, to be changed. Throws `EROFS` for layers of the original, `EFORMAT` without identity. */
export function requireOwn(
  blocks: readonly IdentityBlock[],
  { layers }: StackDevices,
  layer: number,
): Identity {
  const block = blocks[layer - 1];
  if (block?.kind === "layer") return block.identity;
  throw refuse(
    layers[layer - 1]?.bitmap.name,
    block?.kind === "original" ? "EROFS" : "EFORMAT",
    `layer ${layer} is not one of dmkit`,
    "Only layers that dmkit has made can be changed.",
  );
}

/** The devices of a layer, from 1; throws `EINVAL` if there is no such layer. */
export function layerAt({ layers }: StackDevices, layer: number): LayerDevices {
  const found = layers[layer - 1];
  if (found !== undefined) return found;
  throw new BlockIoError(`there is no layer ${layer}`, {
    code: "EINVAL",
    op: "open",
    hint: `Layers are counted from 1 at the bottom to ${layers.length}.`,
  });
}

/** What a stack shows, read-only; with no layer at all, the base. Close it when done. */
export async function viewOf(
  stack: StackDevices,
  { aliasedBlockSize }: ChainOptions = {},
): Promise<BlockDevice> {
  if (stack.layers.length > 0) return openStack(stack, { readOnly: true, aliasedBlockSize });
  return new LinearDevice(stack.base, stack.baseOffset, stack.sectors * SECTOR, stack.base.name);
}
