/**
 * Merging a layer below the top into what it lies on, a layer or the base. The layers above may be in use meanwhile. Order,
 * and what a crash leaves after each step:
 *
 *      1  the layer below gets a new name for its contents, and       nothing else has changed
 *         no samples; where that is the base the merged layer
 *         forgets its witness; stable
 *      2  for each piece: data below, stable; its bits, stable        the stack is as it was: the merged layer covers
 *                                                                     all that has changed below it
 *      3  the layer below gets new samples, stable                    the same
 *      4  the layer above names what the merged one lay on, stable    only the stack without the merged layer opens,
 *                                                                     with the same contents
 *
 * The merged layer keeps what it has: it can be left out of the table, and what else lies on it shows what it did. What
 * lies on the layer below, or on the base, beside it would show something else from step 2 on, and is refused: see
 * core/reliance.ts. So no snapshot is merged like that, nor is anything merged into one: one that is deleted is copied up
 * instead, see up.ts, before step 4.
 */
import { refuse, realEnvironment } from "@dmkit/block-io";
import { changing } from "../../core/reliance.ts";
import type { Identity } from "../../format/identity.ts";
import { lyingOn } from "../layer/below.ts";
import { type LayerDevices, readIdentity, writeIdentity } from "../layer/layer.ts";
import { sampleData } from "../layer/pairing.ts";
import type { StackDevices } from "../layer/stack-devices.ts";
import { Left, copyAllBut } from "./left.ts";
import type { MergeWay } from "../parts.ts";
import { LayerRuns, type Run, type WorkOptions, bytesOf, fillLayer, pieces } from "./work.ts";

/** Throws `EINVAL` for a layer that cannot be merged: one there is not, or the top. @param layer from 1 at the bottom. */
export function requireBelowTop({ layers }: Pick<StackDevices, "layers">, layer: number, name: string): void {
  if (Number.isInteger(layer) && layer >= 1 && layer < layers.length) return;
  throw refuse(
    name,
    "EINVAL",
    `layer ${layer} is none below the top`,
    layers.length > 1
      ? `Layers are counted from 1 at the bottom: give 1 … ${layers.length - 1}. The top is committed while nobody serves it.`
      : "There is only the top. Freeze it first, or commit it while nobody serves it.",
  );
}

/** Throws `EROFS` where what is written to cannot be. @param way where the layer is copied to. */
export function requireMergeable(stack: StackDevices, layer: number, way: MergeWay): void {
  const { layers, base } = stack;
  const [below, above] = [layers[layer - 2], layers[layer]];
  const down = below === undefined ? [base] : [below.bitmap, below.data];
  const written = [...(way === "down" ? down : [above?.data]), above?.bitmap];
  const fixed = written.find((device) => device?.limits.capabilities.readOnly === true);
  if (fixed === undefined) return;
  throw refuse(
    fixed.name,
    "EROFS",
    "can only be read",
    way === "down"
      ? "A layer is committed into what can be written. Squash it with those above it instead."
      : "A snapshot goes into the layer above it, which has to be writable.",
  );
}

/** Steps 1 to 3; the bytes copied. Errors: `EROFS`, `EIO` for what cannot be copied, those of the devices, the signal's reason. */
export async function copyDown(stack: StackDevices, layer: number, options: WorkOptions): Promise<number> {
  const { base, baseOffset, layers, sectors } = stack;
  const { environment = realEnvironment } = options;
  const merged = layers[layer - 1] as LayerDevices;
  const own = await ownIdentity(merged, layer, sectors);
  const below = layers[layer - 2];
  const lower = below && (await ownIdentity(below, layer - 1, sectors));
  let changed: Identity | undefined;
  const begin = async (): Promise<void> => {
    if (changed !== undefined) return;
    changed =
      lower === undefined ? { ...own, baseWitness: undefined } : changing(lower, own.uuid, environment);
    if (below !== undefined) await writeIdentity(below.bitmap, changed);
    else if (own.baseWitness !== undefined) await writeIdentity(merged.bitmap, changed);
    // It was forgotten by an attempt before this one, whose flush may have failed.
    else await merged.bitmap.flush();
  };
  const runs = new LayerRuns(sectors, [{ bitmap: merged.bitmap }]);
  const source = { device: merged.data, offset: merged.offset };
  const left = new Left();
  let bytes = 0;
  for (const piece of pieces(sectors, options)) {
    for await (const part of runs.known(piece, (one, error) => left.add(one, error))) {
      const found: Run[] = [];
      for await (const { sector, count } of runs.in(part)) found.push({ sector, count, source });
      if (found.length === 0) continue;
      await begin();
      if (below !== undefined)
        bytes += bytesOf(await fillLayer(below, part, found, (some, to) => copyAllBut(some, to, left)));
      else bytes += bytesOf(await copyAllBut(found, { device: base, offset: baseOffset }, left));
    }
  }
  // Also what an attempt before this one has left in caches.
  for (const device of below ? [below.data, below.bitmap] : [base]) await device.flush();
  left.refuse(
    "committed",
    "The stack is as it was, and shows the same. Replace the device with a copy that is whole, and run it again.",
  );
  if (below && lower) {
    const samples = await sampleData(below, lower.uuid, sectors);
    const now = changed ?? lower;
    await writeIdentity(below.bitmap, { ...now, samples: samples.length > 0 ? samples : undefined });
  }
  return bytes;
}

/** What makes step 4 of the identity of the layer above. Errors: `EROFS`, those of the devices. */
export async function relinking(stack: StackDevices, layer: number): Promise<(above: Identity) => Identity> {
  const below = stack.layers[layer - 2];
  const identity = below && (await ownIdentity(below, layer - 1, stack.sectors));
  const lies = await lyingOn(stack, identity && { kind: "layer", identity });
  return (above) => ({ ...above, ...lies });
}

/** A layer's identity as it is on disk. Throws `EROFS` for layers of the original, which have none. */
export async function ownIdentity(
  { bitmap }: LayerDevices,
  layer: number,
  sectors: number,
): Promise<Identity> {
  const block = await readIdentity(bitmap, sectors);
  if (block.kind === "layer") return block.identity;
  throw refuse(
    bitmap.name,
    "EROFS",
    `layer ${layer} is not one of dmkit`,
    "Only layers that dmkit has made can be changed, and be merged into others.",
  );
}
