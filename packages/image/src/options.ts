/** The options of the target `image`. */
import { resolve } from "node:path";
import type { OptionsOf } from "@dmkit/block-io";
import { absoluteImageReference } from "./open/reference.ts";

/** The folder of no cache at all. */
export const NO_CACHE = "none";

/** The options of `image`: types, ranges, defaults, help. */
export const imageOptions = {
  image: {
    type: "text",
    scheme: "image",
    absolute: (text: string, folder: string): string =>
      absoluteImageReference(text, folder).slice("image:".length),
    help: "STORE/NAME[@DIGEST|:TAG]; STORE is s3://BUCKET[/PREFIX] or a folder",
  },
  cache: {
    type: "text",
    optional: true,
    absolute: (text: string, folder: string): string => (text === NO_CACHE ? text : resolve(folder, text)),
    help: "folder of the node's cache, shared by all images; none: no cache; default $XDG_CACHE_HOME/dmkit/blobs",
  },
  cache_size: {
    type: "size",
    min: 16_777_216,
    max: 9_007_199_254_740_991,
    default: 10_737_418_240,
    help: "bytes of the node's cache; what was not used for the longest time goes",
  },
  memory: {
    type: "size",
    min: 8_388_608,
    max: 68_719_476_736,
    default: 67_108_864,
    help: "bytes of chunks kept in memory",
  },
  readahead: {
    type: "integer",
    min: 0,
    max: 64,
    default: 8,
    unit: "chunks",
    help: "chunks fetched ahead of a sequential read at the most",
  },
  hot: {
    type: "flag",
    default: true,
    help: "whether the chunks of the image's hot list are fetched when it opens",
  },
} as const;

/** What an image is opened with, as {@link imageOptions} says it. */
export type ImageOptions = OptionsOf<typeof imageOptions>;

/** Those that may follow the image in a table. */
export const namedOptions: readonly ["cache", "cache_size", "memory", "readahead", "hot"] = [
  "cache",
  "cache_size",
  "memory",
  "readahead",
  "hot",
];
