/** The static list of image formats the offline tools know. Adding one is one line here. */
import { assocCacheImages } from "@dmkit/assoc-cache";
import type { ImageFormat } from "@dmkit/block-io";
import { compressionImages } from "@dmkit/compression";
import { cowImages } from "@dmkit/cow";
import { writeboostImages } from "@dmkit/writeboost";

export const imageFormats: readonly ImageFormat[] = [
  writeboostImages,
  assocCacheImages,
  cowImages,
  compressionImages,
];
