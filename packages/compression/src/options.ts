/** The options of the target. */
import type { DeviceUse, OptionsOf } from "@dmkit/block-io";

/** The options of `compression`: types, ranges, defaults, help. */
export const compressionOptions = {
  device: { type: "device", help: "the device that holds the compressed blocks" },
  mode: {
    type: "choice",
    values: ["writeback", "writethrough"],
    default: "writeback",
    help: "whether a write may wait in memory until a flush",
  },
  interval: {
    type: "integer",
    min: 1,
    max: 86_400,
    unit: "s",
    default: 5,
    help: "writeback: the longest time that anything waits",
  },
  format: {
    type: "choice",
    values: ["v2", "v1"],
    optional: true,
    help: "on-disk format of a new device, v2 unless told otherwise; one that exists must be of it",
  },
  algorithm: {
    type: "text",
    optional: true,
    help: "lz4, lzo, deflate, zstd, none; default: as stored, for a new device lz4 (v2) or lzo (v1)",
  },
  max_extent: {
    type: "size",
    min: 4096,
    max: 131_072,
    optional: true,
    help: "bytes compressed together, at most: a multiple of 4096; default 65536 (v2), 131072 (v1)",
  },
  discard_holes: {
    type: "flag",
    default: false,
    help: "discard the sectors behind payloads on the device below",
  },
  memory: {
    type: "size",
    min: 65_536,
    max: 4_294_967_296,
    default: 33_554_432,
    help: "v2 only: bytes of writes that wait in memory, at most; then writers wait",
  },
  journal: {
    type: "size",
    min: 0,
    max: 1_099_511_627_776,
    default: 0,
    help: "v2 only: bytes of the journal of a new device, one that exists must have it; 0: 1/64 of it, 4 MiB … 64 MiB",
  },
  force: {
    type: "flag",
    once: true,
    default: false,
    help: "make a new device over whatever else there is: all contents are lost; one that is there is opened",
  },
} as const;

/** What a compressed device is opened with, as {@link compressionOptions} says it. */
export type CompressionOptions = OptionsOf<typeof compressionOptions>;

/** Those that may follow the mode in a table, as key and value. */
export const namedOptions: readonly [
  "format",
  "algorithm",
  "max_extent",
  "discard_holes",
  "memory",
  "journal",
  "force",
] = ["format", "algorithm", "max_extent", "discard_holes", "memory", "journal", "force"];

/** What the target does with its device. */
export function useOf({ device }: Pick<CompressionOptions, "device">): DeviceUse {
  return [device, "owns"];
}
