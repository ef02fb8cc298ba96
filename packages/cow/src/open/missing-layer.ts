/** A stack that cannot be opened because a layer is not there: what makes it. */
import { existsSync } from "node:fs";
import { type BlockIoError, formatSize, schemeOf, shellQuote } from "@dmkit/block-io";
import type { CowOptions } from "../options.ts";

/** What makes the layer, if what is missing is a file of one. @param size bytes of the target. */
export function hintFor(
  { code, device: path }: BlockIoError,
  { layers }: CowOptions,
  size: number,
): string | undefined {
  if (code !== "ENOENT" || path === undefined || schemeOf(path) !== undefined) return undefined;
  const index = layers.findIndex(({ bitmap, data }) => bitmap === path || data === path);
  const layer = layers[index];
  if (layer === undefined) return undefined;
  const other = layer.bitmap === path ? layer.data : layer.bitmap;
  if (schemeOf(other) === undefined && existsSync(other)) {
    return `Check the path: the other file of the layer, ${other}, is there.`;
  }
  // What is written is opened first: of several layers that are missing the lowest has to be made first.
  const lowest = layers.findIndex(({ bitmap, data }) => isMissing(bitmap) && isMissing(data));
  const made = layers[lowest] ?? layer;
  // The size is of this place in the table, whatever part of the base it shows.
  const below = layers[layers.indexOf(made) - 1]?.bitmap;
  const on = below === undefined ? `--size ${formatSize(size)}` : `--on ${shellQuote(below)}`;
  const at = made.offset === 0 ? "" : ` --data-offset ${made.offset}`;
  return `Check the path, or make the layer with: dmkit cow create ${shellQuote(made.bitmap)} ${shellQuote(made.data)} ${on}${at}`;
}

function isMissing(path: string): boolean {
  return schemeOf(path) === undefined && !existsSync(path);
}
