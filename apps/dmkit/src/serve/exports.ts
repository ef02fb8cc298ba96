/** What a server without a stack file exports: images, a table, or the embedded default, opened and named. */

import { basename, join } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  TableArguments,
  codeOf,
  currentArguments,
  openFile,
  schemeOf,
  makeFolders,
} from "@dmkit/block-io";
import { friendlyTunables, openEmbedded, writeboost } from "@dmkit/writeboost";
import type { DeviceManager } from "../control/device-manager.ts";
import type { NewExport } from "../control/export-manager.ts";
import { type OpenedTable, openedAs } from "../control/opened-table.ts";
import { toDeviceName } from "../control/references.ts";
import { openReference } from "../devices.ts";

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
  /** Folder of the embedded default. */
  readonly data: string;
  /** Show the images, a writeboost cache and its backing device, as they were at this segment. */
  readonly at?: number | undefined;
}

/** Size of the embedded default in bytes; the file is sparse. */
export const DEFAULT_SIZE: number = 10 * 2 ** 30;

// Bytes of UTF-8 that the protocol has room for.
const MAX_DESCRIPTION = 4096;

// Bytes; sparse as well.
const CACHE_SIZE = 2 ** 30;

/** Opens everything as devices of the manager, which closes them whether or not this fails. */
export async function openExports(
  what: WhatToServe,
  devices: DeviceManager,
  environment: Environment,
): Promise<NewExport[]> {
  const { images, table, readOnly } = what;
  if (what.at !== undefined) return [await openPast(what, what.at, devices, environment)];
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
    const opened =
      image === undefined ? await openDefault(what, environment) : await openImage(image, what, environment);
    await devices.adopt(device, opened);
    const description = shortened(image ?? `${join(what.data, "backing.img")} behind a write cache`);
    exports.push({ name, device, description, readOnly });
  }
  return exports;
}

async function openPast(
  { images, table, name = "" }: WhatToServe,
  at: number,
  devices: DeviceManager,
  environment: Environment,
): Promise<NewExport> {
  const [cache, backing, ...rest] = images;
  if (cache === undefined || backing === undefined || rest.length > 0 || table.length > 0) {
    throw usage("--at goes with two images: the cache device and its backing device");
  }
  const { openView } = await import("../offline/view.ts");
  const view = await openView({ cache, backing }, at, environment);
  const device = deviceName(name, devices);
  const args = { target: writeboost.name, words: () => ["0", backing, cache] };
  await devices.adopt(device, openedAs(view.device, args, view.below));
  return { name, device, description: shortened(view.description), readOnly: true };
}

function nameImages({ images, name }: WhatToServe): { readonly name: string; readonly image: string }[] {
  if (name !== undefined && images.length > 1) throw usage("--name goes with one image only");
  const names = images.map((image) => name ?? (images.length === 1 ? "" : basename(image)));
  const twice = names.find((one, index) => names.indexOf(one) !== index);
  if (twice !== undefined) throw usage(`two images would be exported as "${twice}"`);
  return images.map((image, index) => ({ name: names[index] ?? "", image }));
}

/** The export's name where that can be a device's; `default` for the export without a name. */
function deviceName(exportName: string, devices: DeviceManager): string {
  const name = exportName === "" ? "default" : toDeviceName(exportName);
  let free = name;
  for (let count = 2; devices.names.includes(free); count += 1) free = `${name.slice(0, 120)}-${count}`;
  return free;
}

async function openImage(image: string, what: WhatToServe, environment: Environment): Promise<OpenedTable> {
  const { readOnly, preallocate, createSize } = what;
  const device: BlockDevice =
    schemeOf(image) === undefined
      ? await openFile(image, {
          readOnly,
          preallocate,
          environment,
          ...(createSize === undefined ? {} : { createSize }),
        })
      : // The device it becomes has the claim, under its name.
        await openReference(image, readOnly ? "read" : "write", environment, "looks");
  return openedAs(device, { target: "linear", words: () => [image, "0"] });
}

/** A write cache over two sparse files: `backing.img` is the disk, `cache.img` its log. */
async function openDefault(what: WhatToServe, environment: Environment): Promise<OpenedTable> {
  if (!what.readOnly) makeFolder(what.data);
  const paths = { backing: join(what.data, "backing.img"), cache: join(what.data, "cache.img") };
  const open = (path: string, createSize: number): Promise<BlockDevice> =>
    openFile(path, what.readOnly ? { readOnly: true, environment } : { createSize, environment });
  const backing = await open(paths.backing, what.createSize ?? DEFAULT_SIZE);
  const below = [backing];
  try {
    const cache = await open(paths.cache, CACHE_SIZE);
    below.push(cache);
    const device = await openEmbedded(backing, cache, { environment });
    const table = writeboost.parse(new TableArguments(["0", paths.backing, paths.cache]));
    // With the tunables of the embedding, so that the table could be loaded again and be the same.
    const options = { ...table, ...friendlyTunables({}) };
    const words = (): readonly string[] => currentArguments(writeboost, options, device);
    return openedAs(device, { target: writeboost.name, words }, below);
  } catch (error) {
    for (const device of below) await device.close();
    throw error;
  }
}

function makeFolder(path: string): void {
  try {
    makeFolders(path, 0o700);
  } catch (error) {
    const code = codeOf(error);
    throw new BlockIoError(
      code === "EEXIST" ? "is no folder" : `the folder cannot be made: ${(error as Error).message}`,
      {
        code,
        device: path,
        op: "open",
        cause: error,
        hint: "Give a folder for the default disk that is there or can be made: --data FOLDER",
      },
    );
  }
}

/** What clients can be told: at most 4096 bytes. */
function shortened(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= MAX_DESCRIPTION) return text;
  // A character that was cut in two becomes U+FFFD, which is as long as the ellipsis.
  const head = bytes.subarray(0, MAX_DESCRIPTION - 2 * Buffer.byteLength("…")).toString();
  return `${head.replace(/\uFFFD$/, "")}…`;
}

function usage(reason: string): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint: "See: dmkit serve --help" });
}
