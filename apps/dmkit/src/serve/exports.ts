/** What a server without a stack file exports: images, a table, or the embedded default, opened and named. */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  SECTOR,
  type TargetRegistry,
  codeOf,
  linear,
  makeFolders,
  openFile,
  openPath,
  parseOptions,
  parsePath,
  printTable,
  schemeOf,
  withoutLock,
} from "@dmkit/block-io";
import type { DeviceManager } from "../manager/device-manager.ts";
import type { NewExport } from "../manager/export-manager.ts";
import { type OpenedTable, openedAs } from "../manager/device/opened-table.ts";
import { toDeviceName } from "../manager/references.ts";
import { withNewFiles } from "../destination.ts";
import { absoluteUri, openReference } from "../devices.ts";
import { defaultDisk } from "../targets.ts";

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
    if (image === undefined) {
      await devices.create(device, await defaultTable(what, devices.targets, environment), { readOnly });
    } else await devices.adopt(device, await openImage(image, what, environment));
    const description = shortened(
      image ?? `${join(what.data, defaultDisk.files[defaultDisk.disk]?.file ?? "")} behind a write cache`,
    );
    exports.push({ name, device, description, readOnly });
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
  const view = await openView(images, at, targets.images, environment);
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
    image: lock || schemeOf(image) !== undefined ? image : withoutLock(image),
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

async function openImage(image: string, what: WhatToServe, environment: Environment): Promise<OpenedTable> {
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
      await openReference(image, readOnly ? "read" : "write", environment, { use: "looks" });
  const { pinned } = device;
  const opened = openedAs(device, { target: linear, words: () => [pinned ?? image, "0"] });
  return pinned === undefined
    ? opened
    : { ...opened, pins: new Map([[absoluteUri(image, process.cwd()), pinned]]) };
}

/** The table of the disk there is by default; its files are made if none of them is there. */
async function defaultTable(
  what: WhatToServe,
  targets: TargetRegistry,
  environment: Environment,
): Promise<string> {
  const { disk, files: made, target: name } = defaultDisk;
  const { lock = true } = what;
  if (!what.readOnly) makeFolder(what.data);
  const options = Object.fromEntries(
    Object.entries(made).map(([option, { file }]) => [option, join(what.data, file)]),
  );
  const missing = Object.values(options).filter((path) => !existsSync(path));
  if (missing.length > 0 && missing.length < Object.keys(options).length) throw halfDisk(options, missing);
  if (missing.length > 0 && !what.readOnly) {
    await withNewFiles(options, environment, async (parts) => {
      for (const [option, { size }] of Object.entries(made)) {
        const createSize = option === disk ? (what.createSize ?? size) : size;
        await (await openFile(parts[option] ?? "", { createSize, lock, environment })).close();
      }
    });
  }
  for (const path of what.preallocate ? Object.values(options) : [])
    await (await openFile(path, { preallocate: true, lock, environment })).close();
  const opened = await openFile(options[disk] ?? "", { readOnly: what.readOnly, lock, environment });
  const sectors = Math.floor(opened.size / SECTOR);
  await opened.close();
  const target = targets.get(name);
  const files = lock
    ? options
    : Object.fromEntries(Object.entries(options).map(([option, path]) => [option, withoutLock(path)]));
  const all = { ...target.stack?.defaults?.(options), ...files };
  return printTable([
    { start: 0, length: sectors, target, options: parseOptions(target.options, all, target.name) },
  ]);
}

/** A new file beside an old one would be a cache that has lost what it held, or a disk that has lost everything. */
function halfDisk(options: Readonly<Record<string, string>>, [path]: readonly string[]): BlockIoError {
  const there = Object.values(options).find((one) => existsSync(one)) ?? "";
  return new BlockIoError(`is missing, and ${there}, which goes with it, is there`, {
    code: "ENOENT",
    device: path,
    op: "open",
    hint: `Nothing was made. Put it back; or, if it is lost and a new disk is to be made, move ${there} away first.`,
  });
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

function usage(reason: string, hint = "See: dmkit serve --help"): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint });
}
