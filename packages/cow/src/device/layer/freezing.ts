/**
 * Marks layers as frozen because another one lies on them, and so shows what they do: the one place where that is done to layers
 * that are not given a name with it, in use and offline.
 *
 * A table may have put layers on one another of which the lower ones are not marked. Nobody is to write to those either, once
 * what lies on them is to stay what it is. Where one cannot be marked (another stack reads it, a device that cannot be
 * written) that is told, and nothing else changes. A crash leaves some of them marked: what they show is the same.
 */
import { type BlockDevice, type Environment, refuse } from "@dmkit/block-io";
import { readIdentity, writeIdentity } from "./layer.ts";
import type { StackDevices } from "./stack-devices.ts";

/** Runs `work` with the bitmap of a layer, from 1 at the bottom, open for writing. Errors: `EBUSY`, `EROFS`, those of `work`. */
export type WithBitmap = (layer: number, work: (bitmap: BlockDevice) => Promise<void>) => Promise<void>;

/** How layers are marked. */
export interface Freezing {
  /** For what is told. */
  readonly name: string;
  readonly environment: Environment;
  /** Left out: the bitmaps are open as they are. */
  readonly withBitmap?: WithBitmap | undefined;
}

/**
 * Marks those of the first `count` layers that are not marked yet; it is stable when this resolves. Errors: those of reading the
 * bitmaps.
 */
export async function freezeLayers(
  { layers, sectors }: Pick<StackDevices, "layers" | "sectors">,
  count: number,
  { name, environment, withBitmap }: Freezing,
): Promise<void> {
  for (const [index, { bitmap }] of layers.slice(0, count).entries()) {
    const found = await readIdentity(bitmap, sectors);
    if (found.kind !== "layer" || found.identity.frozen) continue;
    const { identity } = found;
    const mark = (device: BlockDevice): Promise<void> => writeIdentity(device, { ...identity, frozen: true });
    try {
      await (withBitmap === undefined ? markGiven(bitmap, mark) : withBitmap(index + 1, mark));
    } catch (error) {
      const text = "a layer could not be marked as frozen: nothing but this stack keeps it as it is";
      environment.logger.log("warn", text, { device: name, layer: index + 1, error: String(error) });
    }
  }
}

function markGiven(bitmap: BlockDevice, mark: (bitmap: BlockDevice) => Promise<void>): Promise<void> {
  if (!bitmap.limits.capabilities.readOnly) return mark(bitmap);
  throw refuse(bitmap.name, "EROFS", "can only be read", "Open it for writing.");
}
