/** The identity of a top that is going to be written: a new layer gets one, an old one is completed. */
import { type Environment, SECTOR, randomUuid } from "@dmkit/block-io";
import { baseWitness, lyingOn } from "../device/layer/below.ts";
import { type LayerDevices, requireBlankLayer, requireEmpty, writeIdentity } from "../device/layer/layer.ts";
import { locateIdentity } from "../device/layer/locate.ts";
import { sampleData, takeLabel } from "../device/layer/pairing.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { BASE_UUID, type Identity, type IdentityBlock } from "../format/identity.ts";

/** Whether nothing on a bitmap says that it is, or was, one: whatever it holds is somebody else's. */
export async function isNoLayer(
  { bitmap }: LayerDevices,
  block: IdentityBlock | undefined,
): Promise<boolean> {
  return block?.kind === "foreign" && (await locateIdentity(bitmap)) === undefined;
}

/** The identity of a top that is written: a new one gets it now. Undefined: it can only be read. */
export async function ownIdentity(
  stack: StackDevices,
  blocks: readonly IdentityBlock[],
  { environment: { random }, force }: { environment: Environment; force: boolean },
): Promise<Identity | undefined> {
  const block = blocks.at(-1);
  const top = stack.layers.at(-1) as LayerDevices;
  if (block?.kind === "layer") {
    // Bits that a killed process has written may be in a cache only. What is read from now on must stay.
    await top.data.flush();
    await top.bitmap.flush();
    return completed(stack, block.identity);
  }
  if (block?.kind !== "new") return undefined;
  await requireBlankLayer(top, stack.sectors, { force });
  await requireEmpty(top.bitmap, stack.sectors);
  const identity = {
    uuid: randomUuid(random),
    ...(await lyingOn(stack, blocks.at(-2))),
    sectors: stack.sectors,
    frozen: false,
    dataOffset: top.offset / SECTOR,
  };
  await writeIdentity(top.bitmap, identity);
  return takeLabel(top, identity, force);
}

/** With what an earlier version, or a crash, has left out of the identity of the top. */
async function completed(stack: StackDevices, identity: Identity): Promise<Identity> {
  const top = stack.layers.at(-1) as LayerDevices;
  const dataOffset = top.offset / SECTOR;
  const onBase = identity.parent === BASE_UUID;
  const baseOffset = onBase ? stack.baseOffset / SECTOR : undefined;
  let now = identity;
  if (identity.dataOffset !== dataOffset || identity.baseOffset !== baseOffset) {
    now = { ...now, dataOffset, baseOffset };
  }
  if (onBase && identity.baseWitness === undefined) {
    const witness = await baseWitness(stack);
    if (witness !== undefined) now = { ...now, baseWitness: witness };
  }
  if (identity.samples === undefined) {
    const samples = await sampleData(top, identity.uuid, stack.sectors);
    if (samples.length > 0) now = { ...now, samples };
  }
  if (now !== identity) await writeIdentity(top.bitmap, now);
  return takeLabel(top, now);
}
