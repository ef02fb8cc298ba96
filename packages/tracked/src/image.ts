/** The declaration of bitmap devices as images: what offline tools can do with them. */
import {
  type BlockDevice,
  type Detected,
  type ImageDevices,
  type ImageFacts,
  type ImageFormat,
  type OfflineWork,
  type OptionTable,
  SECTOR,
  describeSize,
  isoTime,
  parseOptions,
  refuse,
} from "@dmkit/block-io";
import { markedBytes } from "./device/facts.ts";
import { currentSuperblock, readSuperblocks, writeSuperblocks } from "./device/superblocks.ts";
import { checkBitmaps, repairBitmaps } from "./offline/check.ts";
import { dumpBitmaps, restoreBitmaps } from "./offline/dump.ts";
import { mapBitmaps } from "./offline/map.ts";
import { findBitmaps } from "./open/bitmaps.ts";
import { createBitmaps, requireGeometry } from "./open/create.ts";
import { DEFAULT_CHUNK, DEFAULT_SLOTS, trackedOptions } from "./options.ts";

const { granularity, epochs } = trackedOptions;

const formatOptions = {
  size: {
    type: "size",
    min: SECTOR,
    max: Number.MAX_SAFE_INTEGER,
    optional: true,
    help: "bytes that are tracked; left out: those of the tracked device",
  },
  granularity: { ...granularity, help: "bytes that a bit speaks for, a power of two; left out: 64 KiB" },
  epochs: { ...epochs, help: "epochs that there is room for; left out: 16" },
} as const satisfies OptionTable;

/** Offline tools for the bitmap devices of `tracked`. */
export const trackedImages: ImageFormat = {
  name: "tracked",
  summary: "bitmaps of what has changed on a device",
  roles: [
    { name: "bitmap", required: true, help: "the device that holds the bitmaps" },
    { name: "device", required: false, help: "the device whose changes are tracked" },
  ],
  detect,
  info: async (devices, work) => info(bitmapOf(devices), work),
  async *check(devices, work) {
    yield* checkBitmaps(bitmapOf(devices), devices["device"], work);
  },
  repair: async (devices, work) => repairBitmaps(bitmapOf(devices), devices["device"], work),
  dump: async (devices, work) => dumpBitmaps(bitmapOf(devices), work),
  restore: async (devices, given, work) => restoreBitmaps(bitmapOf(devices), given, work),
  map: async (devices, work) => mapBitmaps(bitmapOf(devices), work),
  formatOptions,
  format,
};

async function detect(device: BlockDevice): Promise<Detected | undefined> {
  const copies = await readSuperblocks(device);
  const superblock = currentSuperblock(copies);
  const role = "bitmap";
  if (superblock === undefined) {
    if (!copies.some(({ ours }) => ours)) return undefined;
    return { certainty: "plausible", role, text: "bitmaps whose superblock is damaged", identity: "" };
  }
  const { geometry, epochs: begun, uuid } = superblock;
  const text = `bitmaps of a device of ${describeSize(geometry.size)}, ${begun.length} epochs`;
  return { certainty: "magic", role, text, identity: uuid };
}

async function info(bitmap: BlockDevice, work: OfflineWork): Promise<ImageFacts> {
  const { superblock, table, lost } = await findBitmaps(bitmap, work);
  const { geometry, clean, uuid, generation } = superblock;
  const ofEpochs = table.epochs.flatMap((epoch): [string, string | number][] => [
    [`epoch_${epoch.slot + 1}`, `${epoch.name}, begun ${isoTime(epoch.begun)}`],
    [`epoch_${epoch.slot + 1}_marked_bytes`, markedBytes(table, epoch)],
  ]);
  return {
    state: clean ? "closed cleanly" : "in use, or not closed cleanly",
    bytes: geometry.size,
    granularity_bytes: geometry.chunk,
    chunks: table.chunks,
    used_epochs: table.epochs.length,
    epoch_slots: geometry.slots,
    lost_pages: lost.length,
    uuid,
    generation,
    ...Object.fromEntries(ofEpochs),
  };
}

/** Whether the device may be written over was asked before: see ImageRole. */
async function format(
  devices: ImageDevices,
  words: Readonly<Record<string, string>>,
  { environment }: OfflineWork,
): Promise<void> {
  const bitmap = bitmapOf(devices);
  const options = parseOptions(formatOptions, words, "tracked");
  const { device } = devices;
  const size = options.size ?? device?.size;
  if (size === undefined)
    throw refuse(
      bitmap.name,
      "EINVAL",
      "nobody says how large the tracked device is",
      "Name it, or give its size.",
    );
  const geometry = {
    size,
    chunk: options.granularity ?? DEFAULT_CHUNK,
    slots: options.epochs ?? DEFAULT_SLOTS,
  };
  requireGeometry(bitmap, geometry);
  const superblock = await createBitmaps(bitmap, { geometry, random: environment.random });
  await writeSuperblocks(bitmap, { ...superblock, clean: true, generation: superblock.generation + 1 });
}

function bitmapOf({ bitmap }: ImageDevices): BlockDevice {
  if (bitmap !== undefined) return bitmap;
  throw refuse("tracked", "EINVAL", "no bitmap device is given", "Name the bitmap device.");
}
