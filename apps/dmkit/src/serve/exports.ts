/** What a server exports: images, a table, or the embedded default, opened and named. */
import { mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  GuardedDevice,
  openFile,
  schemeOf,
} from "@dmkit/block-io";
import { openEmbedded } from "@dmkit/writeboost";
import { openReference, openTableText } from "../devices.ts";

/** A device and the name clients ask for. */
export interface NamedDevice {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  /** Devices it does not close itself, to be closed after it. */
  readonly below?: readonly BlockDevice[];
}

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
}

/** Size of the embedded default in bytes; the file is sparse. */
export const DEFAULT_SIZE: number = 10 * 2 ** 30;

// Bytes; sparse as well.
const CACHE_SIZE = 2 ** 30;

/** Opens everything or nothing. Whoever calls closes the devices, in reverse order. */
export async function openExports(what: WhatToServe, environment: Environment): Promise<NamedDevice[]> {
  if (what.table.length > 0) {
    if (what.images.length > 0) throw usage("give images or a table, not both");
    const name = what.name ?? "";
    const device = await openTableText(what.table.join("\n"), environment, {
      name: name === "" ? "table" : name,
      readOnly: what.readOnly,
    });
    return [{ name, description: device.table, device }];
  }
  if (what.images.length === 0) return [await openDefault(what, environment)];
  return openImages(what, environment);
}

async function openImages(what: WhatToServe, environment: Environment): Promise<NamedDevice[]> {
  const { images } = what;
  if (what.name !== undefined && images.length > 1) throw usage("--name goes with one image only");
  const names = images.map((image) => what.name ?? (images.length === 1 ? "" : basename(image)));
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw usage(`two images would be exported as "${twice}"`);
  const opened: NamedDevice[] = [];
  try {
    for (const [index, image] of images.entries()) {
      opened.push({
        name: names[index] ?? "",
        description: image,
        device: await openImage(image, what, environment),
      });
    }
    return opened;
  } catch (error) {
    await closeAll(opened);
    throw error;
  }
}

async function openImage(image: string, what: WhatToServe, environment: Environment): Promise<BlockDevice> {
  const { readOnly, preallocate, createSize } = what;
  if (schemeOf(image) !== undefined) return openReference(image, readOnly ? "read" : "write", environment);
  return openFile(image, {
    readOnly,
    preallocate,
    environment,
    ...(createSize === undefined ? {} : { createSize }),
  });
}

/** A write cache over two sparse files: `backing.img` is the disk, `cache.img` its log. */
async function openDefault(what: WhatToServe, environment: Environment): Promise<NamedDevice> {
  mkdirSync(what.data, { recursive: true, mode: 0o700 });
  const path = join(what.data, "backing.img");
  const backing = await openFile(path, { createSize: what.createSize ?? DEFAULT_SIZE, environment });
  const below = [backing];
  try {
    const cache = await openFile(join(what.data, "cache.img"), { createSize: CACHE_SIZE, environment });
    below.push(cache);
    const device = await openEmbedded(backing, cache, { environment });
    return { name: what.name ?? "", description: `${path} behind a write cache`, device, below };
  } catch (error) {
    for (const device of below) await device.close();
    throw error;
  }
}

/** Closes in reverse order; every device is closed even if one fails, then the first failure is thrown. */
export async function closeAll(devices: readonly NamedDevice[]): Promise<void> {
  const failures: unknown[] = [];
  for (const { device, below = [] } of devices.toReversed()) {
    for (const one of [device, ...below]) {
      await one.close().catch((error: unknown) => failures.push(error));
      // A failed device closes without a word, but what was written to it may be lost.
      if (one instanceof GuardedDevice && one.failure !== undefined) failures.push(one.failure);
    }
  }
  if (failures.length > 0) throw failures[0];
}

function usage(reason: string): BlockIoError {
  return new BlockIoError(reason, { code: "EPARSE", hint: "See: dmkit serve --help" });
}
