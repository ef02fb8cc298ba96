/** The options of the cow target: one table for tables, stack files, help and README. */
import type { OptionsOf } from "@dmkit/block-io";

/** The options of `cow`: types, ranges, defaults, help. */
export const cowOptions = {
  base: { type: "device", help: "the base image; written only if there is no layer" },
  base_offset: {
    type: "sectors",
    min: 0,
    max: 17_592_186_044_415,
    default: 0,
    help: "sector of the base where the target starts",
  },
  layers: {
    type: "list",
    min: 0,
    max: 250,
    help: "the layers, bottom to top; the last one is written",
    of: {
      bitmap: { type: "device", help: "one bit for each sector that is in the layer, and its identity" },
      data: { type: "device", help: "the sectors" },
      offset: {
        type: "sectors",
        min: 0,
        max: 17_592_186_044_415,
        default: 0,
        help: "sector of the data device where the layer starts",
      },
    },
  },
  aliased_block_size: {
    type: "choice",
    values: ["512", "1024", "2048", "4096"],
    optional: true,
    help: "block size the original had when it wrote the layers that have no UUID; they are only read",
  },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "make a new layer of devices that are not blank; a layer that is there is opened as always",
  },
  autocommit: {
    type: "integer",
    min: 0,
    max: 3600,
    default: 5,
    unit: "s",
    help: "pause between commits of bits that are in memory only; 0 waits for a flush",
  },
} as const;

/** What a stack is opened with, as {@link cowOptions} says it. */
export type CowOptions = OptionsOf<typeof cowOptions>;

/** Options a table may give by name, after the layers. */
export const namedOptions = ["aliased_block_size", "autocommit", "force"] as const;
export type NamedOption = (typeof namedOptions)[number];
