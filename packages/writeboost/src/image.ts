/** The declaration of the format for offline tools. */
import {
  type BlockDevice,
  type ImageDevices,
  type ImageFormat,
  type ImageProblem,
  type OfflineWork,
  type OptionTable,
  parseOptions,
  refuse,
} from "@dmkit/block-io";
import { detectImage } from "./offline/detect.ts";
import { examine } from "./offline/examine/examine.ts";
import type { Image } from "./offline/examine/findings.ts";
import { openAt } from "./open/view.ts";
import { formatCache } from "./open/making/format-cache.ts";
import { dialects } from "./format/checksum.ts";
import { dumpImage } from "./offline/image-dump.ts";
import { imageFacts } from "./offline/info.ts";
import { mapImage } from "./offline/map.ts";
import { plogCapacity } from "./open/plog/plog-scan.ts";
import { repair } from "./offline/repair.ts";
import { replay } from "./offline/replay.ts";
import { restore } from "./offline/restore.ts";

const formatOptions = {
  segment_size_order: {
    type: "integer",
    min: 4,
    max: 10,
    default: 10,
    help: "log2 of the sectors in a segment",
  },
  dialect: {
    type: "choice",
    values: dialects,
    default: "classic",
    help: "classic, or v2 as later drivers have it (order 10 only, no plog)",
  },
} as const satisfies OptionTable;

const replayOptions = {
  until: {
    type: "integer",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    optional: true,
    help: "stop after this segment",
  },
} as const satisfies OptionTable;

/** What the offline commands can do with a cache and its devices. Errors: those of the devices; `EFORMAT`, `EINVAL`. */
export const writeboostImages: ImageFormat = {
  name: "writeboost",
  summary: "log-structured write cache",
  roles: [
    { name: "cache", required: true, help: "the fast device that holds the log" },
    {
      name: "backing",
      required: false,
      cached: true,
      help: "the slow device below: its size and contents are verified",
    },
    { name: "plog", required: false, help: "the persistent log of type 1" },
  ],
  detect: detectImage,
  info: async (devices, work) => imageFacts(imageOf(devices), work),
  async *check(devices: ImageDevices, work: OfflineWork): AsyncIterable<ImageProblem> {
    const { findings } = await examine(imageOf(devices), work);
    for (const { problem } of findings) yield problem;
  },
  repair: async (devices, work) => repair(imageOf(devices), work),
  dump: async (devices, work) => dumpImage(imageOf(devices), work),
  restore: async (devices, dump, work) => restore(imageOf(devices), dump, work),
  map: async (devices, work) => mapImage(imageOf(devices), work),
  replay: {
    to: "backing",
    options: replayOptions,
    async run(devices, words, work) {
      const { cache, backing, plog } = pairOf(devices);
      const { until } = parseOptions(replayOptions, words, "replay");
      const segment = await replay(cache, backing, { plog, until, ...work });
      return { facts: { segment }, text: `up to segment ${segment}` };
    },
  },
  view: {
    roles: ["cache", "backing"],
    unit: "segment",
    open: async (devices, at) => openAt(pairOf(devices), at),
    words: ({ cache = "", backing = "" }) => ["0", backing, cache],
  },
  async format(devices, words, { progress, signal }): Promise<void> {
    const { cache, plog } = imageOf(devices);
    const { segment_size_order: order, dialect } = parseOptions(formatOptions, words, "format");
    if (plog !== undefined) plogCapacity(plog, order);
    await formatCache(cache, plog, { order, dialect, progress, signal });
  },
  formatOptions,
};

/** The same with the backing device, without which it throws `EINVAL`. */
function pairOf(devices: ImageDevices): Image & { readonly backing: BlockDevice } {
  const { cache, backing, plog } = imageOf(devices);
  if (backing !== undefined) return { cache, backing, plog };
  throw refuse(cache.name, "EINVAL", "the backing device is missing", "Name it as well.");
}

/** Throws `EINVAL` for a device in two roles. */
function imageOf({ cache, backing, plog }: ImageDevices): Image {
  const given = [cache, backing, plog].filter((device): device is BlockDevice => device !== undefined);
  if (cache !== undefined && new Set(given).size === given.length) return { cache, backing, plog };
  const reason = "cache, backing and plog must be different devices, and the cache must be there";
  throw refuse(undefined, "EINVAL", reason, "Give each of them its own device.");
}
