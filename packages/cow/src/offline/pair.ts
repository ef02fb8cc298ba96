/**
 * `pair`: records anew where the data of every layer is, what is on it, and what it lies on, as it was given: after the data was
 * moved to another place, copied, or changed by hand, or what is below was changed. Nothing else can tell whether that is right,
 * so nothing else does it.
 * Cut short, it is run again: each identity is old or new.
 */
import { SECTOR, type SettingsTable, refuse, checkSettings, setting } from "@dmkit/block-io";
import { lyingOn } from "../device/layer/below.ts";
import type { IdentityBlock } from "../format/identity.ts";
import { writeIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { judge, readIdentities, stackingError } from "../open/judge.ts";
import { labelledFor, sampleData, takeLabel } from "../device/layer/pairing.ts";
import { chainSettings } from "../device/copy/work.ts";
import { requireOwnPlaces } from "../device/layer/places.ts";
import type { ChainOptions } from "./chain/chain.ts";

/** How a layer and its data device are paired. */
export interface PairOptions extends ChainOptions {
  /** Take data devices whose label names another layer, which will not open with them any more. Default false. */
  readonly take?: boolean | undefined;
}

const pairSettings: SettingsTable<PairOptions> = { ...chainSettings, take: setting.flag };

/** Errors: EFORMAT (what else is wrong with the stack), EEXIST (another layer's data), those of the devices. */
export async function pair(stack: StackDevices, options: PairOptions = {}): Promise<void> {
  const { aliasedBlockSize, take = false } = checkSettings(pairSettings, options);
  requireOwnPlaces(stack, "cow");
  const blocks = await readIdentities(stack);
  const wrong = judge(blocks, stack, { writable: false, aliasedBlockSize }).find(
    ({ kind }) => kind !== "wrong-offset" && kind !== "changed-below",
  );
  if (wrong !== undefined) throw stackingError(wrong, stack.layers);
  if (!take) await refuseOthers(stack, blocks);
  for (const [index, block] of blocks.entries()) {
    const layer = stack.layers[index];
    if (layer === undefined || block.kind !== "layer") continue;
    const { identity } = block;
    await layer.data.flush();
    await layer.bitmap.flush();
    const now = {
      ...identity,
      dataOffset: layer.offset / SECTOR,
      ...(await lyingOn(stack, blocks[index - 1])),
      labelled: undefined,
      samples: await sampleData(layer, identity.uuid, stack.sectors),
    };
    await writeIdentity(layer.bitmap, now);
    await takeLabel(layer, now, take);
  }
}

async function refuseOthers(
  { layers, sectors }: StackDevices,
  blocks: readonly IdentityBlock[],
): Promise<void> {
  for (const [index, layer] of layers.entries()) {
    const block = blocks[index];
    const owner = await labelledFor(layer, sectors);
    if (block?.kind !== "layer" || owner === undefined || owner === block.identity.uuid) continue;
    throw refuse(
      layer.data.name,
      "EEXIST",
      `the label on it names layer ${owner}, not layer ${index + 1} of the stack`,
      "Give the data device of this layer. With --force it is taken away from the other one.",
    );
  }
}
