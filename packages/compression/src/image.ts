/** What offline tools can do with images of compressed devices, both formats. */
import { type BlockDevice, type ImageDevices, type ImageFormat, parseOptions } from "@dmkit/block-io";
import { check } from "./offline/check.ts";
import { dump } from "./offline/dump.ts";
import { ROLE } from "./offline/image.ts";
import { detect, info } from "./offline/info.ts";
import { drawMap } from "./offline/map.ts";
import { repair } from "./offline/repair.ts";
import { restore } from "./offline/restore.ts";
import { compressionOptions } from "./options.ts";
import { createV1 } from "./open/v1/open.ts";
import { createV2 } from "./open/v2/open.ts";

const formatOptions = {
  format: {
    type: "choice",
    values: ["v2", "v1"],
    default: "v2",
    help: "v2 survives crashes, v1 is historical",
  },
  algorithm: {
    type: "text",
    optional: true,
    help: "lz4, lzo, deflate, zstd, none; default lz4 (v2) or lzo (v1)",
  },
  journal: compressionOptions.journal,
} as const;

const device = (devices: ImageDevices): BlockDevice => devices[ROLE] as BlockDevice;

/** What the offline commands can do with an image of a compressed device. */
export const compressionImages: ImageFormat = {
  name: "compression",
  summary: "transparently compressed device, formats 1 and 2",
  roles: [{ name: ROLE, required: true, help: "the device that holds the compressed blocks" }],
  detect,
  info: (devices) => info(device(devices)),
  check: (devices, work) => check(device(devices), work),
  repair: (devices, work, settings) => repair(device(devices), work, settings),
  marksBad: true,
  dump: (devices, work) => dump(device(devices), work),
  restore: (devices, data) => restore(device(devices), data),
  map: (devices) => drawMap(device(devices)),
  formatOptions,
  async format(devices, values, { environment }) {
    const { format, ...options } = parseOptions(formatOptions, values);
    const context = { name: device(devices).name, environment };
    if (format === "v1") await createV1(device(devices), options, context);
    else await createV2(device(devices), options, context);
  },
};
