/** The options of the target: one table for tables, stack files, help and README. */
import type { OptionsOf } from "@dmkit/block-io";

/** Where nothing is said, and nothing recorded. */
export const DEFAULT_CHUNK = 65_536;
export const DEFAULT_SLOTS = 16;

/** The options of `tracked`: types, ranges, defaults, help. */
export const trackedOptions = {
  device: { type: "device", help: "the device whose changes are tracked" },
  bitmap: { type: "device", help: "the device that holds the bitmaps; a blank one is made ready" },
  granularity: {
    type: "size",
    min: 4096,
    max: 67_108_864,
    optional: true,
    once: true,
    help: "bytes that a bit speaks for, a power of two; left out: as recorded, 64 KiB of new bitmaps",
  },
  epochs: {
    type: "integer",
    min: 1,
    max: 64,
    optional: true,
    once: true,
    help: "epochs that there is room for; left out: as recorded, 16 of new bitmaps",
  },
  reset: {
    type: "text",
    optional: true,
    once: true,
    help: "make the bitmaps anew, whatever they held: the names of their epochs, with commas between them, in which everything is marked",
  },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "make bitmaps of a bitmap device that is not blank; bitmaps that are there are opened as always",
  },
  ahead: {
    type: "integer",
    min: 0,
    max: 65_536,
    unit: "chunks",
    default: 1024,
    help: "chunks marked ahead of a sequential stream, at most, and no more than it has written",
  },
} as const;

/** What a device is opened with, as {@link trackedOptions} says it. */
export type TrackedOptions = OptionsOf<typeof trackedOptions>;

/** Options a table may give by name, behind the devices. */
export const namedOptions = ["granularity", "epochs", "reset", "force", "ahead"] as const;
