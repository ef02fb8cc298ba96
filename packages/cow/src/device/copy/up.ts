/**
 * Copying up: what some layers hold, and the one above them lacks, into that one.
 *
 * Invariant: what a layer shows is the same before, meanwhile and afterwards, with the layers below it and, once all is copied,
 * without them. Nothing but that layer is written; run again, it goes on with what the layer still lacks.
 */
import type { BitmapSource } from "../bitmap-loader.ts";
import type { LayerDevices } from "../layer/layer.ts";
import type { StackDevices } from "../layer/stack-devices.ts";
import { Left, copyAllBut } from "./left.ts";
import { LayerRuns, type Run, type WorkOptions, bytesOf, fillLayer, pieces } from "./work.ts";

/**
 * Copies what layers `from` … `to` - 1, counted from 1 at the bottom, hold into `to`; returns the bytes, which are stable.
 * Errors: `EIO` for what cannot be copied, those of the devices, the signal's reason.
 * @param sources how the bitmaps of `from` … `to` are read
 */
export async function copyUp(
  { layers, sectors }: StackDevices,
  from: number,
  to: number,
  sources: readonly BitmapSource[],
  options: WorkOptions,
): Promise<number> {
  const layer = layers[to - 1] as LayerDevices;
  const runs = new LayerRuns(sectors, sources);
  const left = new Left();
  let bytes = 0;
  for (const piece of pieces(sectors, options)) {
    for await (const part of runs.known(piece, (one, error) => left.add(one, error))) {
      const missing: Run[] = [];
      for await (const { sector, count, owner } of runs.in(part)) {
        if (owner === sources.length) continue;
        const { data, offset } = layers[from + owner - 2] as LayerDevices;
        missing.push({ sector, count, source: { device: data, offset } });
      }
      if (missing.length === 0) continue;
      bytes += bytesOf(await fillLayer(layer, part, missing, (some, into) => copyAllBut(some, into, left)));
    }
  }
  // What an earlier attempt has left in caches must be there before the layers below can go.
  await layer.data.flush();
  await layer.bitmap.flush();
  left.refuse(
    "copied up",
    "The layers are as they were, with more in the last one. Replace the device with a copy that is whole, and run it again.",
  );
  return bytes;
}
