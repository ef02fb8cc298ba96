/** What a server without a stack file exports: images, a table, or the embedded default, opened and named. */
import { totalmem } from "node:os";
import { basename } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  MemoryOverlay,
  formatSize,
  linear,
  openPath,
  parsePath,
  schemeOf,
  withoutLock,
} from "@dmkit/block-io";
import type { DeviceManager } from "../manager/device-manager.ts";
import type { NewExport } from "../manager/export-manager.ts";
import { type OpenedTable, openedAs } from "../manager/device/opened-table.ts";
import { toDeviceName } from "../manager/references.ts";
import { absoluteUri, openReference } from "../devices.ts";
import { makePair, pairOf, pairTable } from "./cached-disk.ts";

export interface WhatToServe {
  /** Paths and URIs. */
  readonly images: readonly string[];
  /** Device-mapper table; lines or whole tables, joined. */
  readonly table: readonly string[];
  readonly readOnly: boolean;
  /** Export name; for a single image or a table. */
  readonly name?: string | undefined;
  /** Create missing image files with this size in bytes. */
  readonly createSize?: number | undefined;
  readonly preallocate: boolean;
  /** Lock the files that are written to. Default true. */
  readonly lock?: boolean | undefined;
  /** What is written to an image is kept in memory and forgotten. Default false. */
  readonly snapshot?: boolean | undefined;
  /** A cache in front of the one image. */
  readonly cache?: string | undefined;
  /** Bytes of a cache that may be made where there is none. */
  readonly cacheSize?: number | undefined;
  /** Folder of the embedded default. */
  readonly data: string;
  /** Show the devices of one image as they were then, in what the image counts it in: segments, say. */
  readonly at?: number | undefined;
}

// Bytes of UTF-8 that the protocol has room for.
const MAX_DESCRIPTION = 4096;

/** Opens everything as devices of the manager, which closes them whether or not this fails. */
export async function openExports(
  what: WhatToServe,
  devices: DeviceManager,
  environment: Environment,
): Promise<NewExport[]> {
  const { images, table, readOnly } = what;
  if (what.at !== undefined) return openPast(what, what.at, devices, environment);
  if (table.length > 0) {
    if (images.length > 0) throw usage("give images or a table, not both");
    const name = what.name ?? "";
    const device = deviceName(name, devices);
    await devices.create(device, table.join("\n"), { readOnly });
    return [{ name, device, description: shortened(devices.snapshotOf(device).table), readOnly }];
  }
  const named = images.length > 0 ? nameImages(what) : [{ name: what.name ?? "", image: undefined }];
  const exports: NewExport[] = [];
  for (const { name, image } of named) {
    const device = deviceName(name, devices);
    const pair = pairOf(image, what);
    if (pair !== undefined) {
      const made = await makePair(pair, what, environment);
      await devices.create(device, pairTable(pair, what, devices.targets), { readOnly });
      const logger = environment.logger;
      for (const path of made) logger.log("info", "made a file, which is empty", { path });
    } else if (image !== undefined) await devices.adopt(device, await openImage(image, what, environment));
    const description = pair === undefined ? `${image}` : `${pair.disk.reference} behind a write cache`;
    exports.push({ name, device, description: shortened(description), readOnly });
  }
  return exports;
}

async function openPast(
  { images, table, name = "" }: WhatToServe,
  at: number,
  devices: DeviceManager,
  environment: Environment,
): Promise<NewExport[]> {
  if (table.length > 0 || images.length === 0) throw usage("--at goes with the devices of one image");
  const { openView } = await import("../offline/view.ts");
  const { targets } = devices;
  const view = await openView(images, at, await targets.images(), environment);
  const device = deviceName(name, devices);
  const args = { target: targets.get(view.format.name), words: () => view.words };
  await devices.adopt(device, { ...openedAs(view.device, args, view.below), past: view.description });
  return [{ name, device, description: shortened(view.description), readOnly: true }];
}

function nameImages({
  images,
  name,
  lock = true,
}: WhatToServe): { readonly name: string; readonly image: string }[] {
  if (name !== undefined && images.length > 1) throw usage("--name goes with one image only");
  const names = images.map((image) => name ?? (images.length === 1 ? "" : nameOf(image)));
  const twice = names.find((one, index) => names.indexOf(one) !== index);
  if (twice !== undefined)
    throw usage(`two images would be exported as "${twice}"`, "Give one by a link of another name.");
  return images.map((image, index) => ({
    name: names[index] ?? "",
    image: lock ? image : withoutLock(image),
  }));
}

/** `disk.img`, or `disk.img-2` for the second partition of it. */
function nameOf(image: string): string {
  const { path, partition } = parsePath(image);
  return partition === undefined ? basename(path) : `${basename(path)}-${partition}`;
}

/** The export's name where that can be a device's; `default` for the export without a name. */
function deviceName(exportName: string, devices: DeviceManager): string {
  const name = exportName === "" ? "default" : toDeviceName(exportName);
  let free = name;
  for (let count = 2; devices.names.includes(free); count += 1) free = `${name.slice(0, 120)}-${count}`;
  return free;
}

/** What is written to it is in memory, and forgotten at the end: the image is opened read-only. */
async function openSnapshot(image: string, environment: Environment): Promise<OpenedTable> {
  const below = await openReference(image, "read", environment, "looks");
  const most = Math.floor(totalmem() / 2);
  const hint = "What does not fit fails. To keep more, make a layer on a disk: dmkit cow create --help";
  const overlay = new MemoryOverlay(below, most, hint);
  const about = "what is written is kept in memory, and gone when the server ends";
  environment.logger.log("warn", `a throw-away snapshot: ${about}`, { image, most: formatSize(most) });
  const opened = openedAs(overlay, { target: linear, words: () => [below.pinned ?? image, "0"] }, [below]);
  return { ...opened, past: `${image} with a throw-away overlay` };
}

async function openImage(image: string, what: WhatToServe, environment: Environment): Promise<OpenedTable> {
  if (what.snapshot === true) return openSnapshot(image, environment);
  const { readOnly, preallocate, createSize } = what;
  const isFile = schemeOf(image) === undefined && parsePath(image).partition === undefined;
  const device: BlockDevice = isFile
    ? await openPath(image, {
        readOnly,
        preallocate,
        environment,
        ...(createSize === undefined ? {} : { createSize }),
      })
    : // The device it becomes has the claim, under its name.
      await openReference(image, readOnly ? "read" : "write", environment, "looks");
  const { pinned } = device;
  const opened = openedAs(device, { target: linear, words: () => [pinned ?? image, "0"] });
  return pinned === undefined
    ? opened
    : { ...opened, pins: new Map([[absoluteUri(image, process.cwd()), pinned]]) };
}

/** What clients can be told: at most 4096 bytes. */
function shortened(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= MAX_DESCRIPTION) return text;
  // A character that was cut in two becomes U+FFFD, which is as long as the ellipsis.
  const head = bytes.subarray(0, MAX_DESCRIPTION - 2 * Buffer.byteLength("…")).toString();
  return `${head.replace(/\uFFFD$/, "")}…`;
}

function usage(reason: string, hint = "See: dmkit serve --help"): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint });
}
