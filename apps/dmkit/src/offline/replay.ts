/**
 * `replay`: what a cache holds and its slow device lacks goes to the slow device, or into a copy-on-write layer
 * over it.
 *
 * Invariants:
 *
 * - it can be interrupted, and killed, at any time: run again it goes on, or starts again with the same result;
 * - with an overlay neither the cache nor the slow device is written: what a replay notes in the cache is kept in
 *   memory and forgotten.
 */
import { existsSync, rmSync } from "node:fs";
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type OfflineWork,
  SECTOR,
  openFile,
} from "@dmkit/block-io";
import { writeDirty } from "@dmkit/assoc-cache";
import { findIdentity, openStack } from "@dmkit/cow";
import { replay as replayLog } from "@dmkit/writeboost";
import { createFiles } from "../cow-create.ts";
import { type OpenImage, usage } from "./image.ts";
import { ScratchDevice } from "./scratch.ts";

export interface ReplayRequest {
  /** Segment of a writeboost log to stop after. */
  readonly until?: number | undefined;
  /** Write although the slow device is not as it was when the cache was closed. */
  readonly force: boolean;
}

/** What was done, for people and for JSON. */
export type Replayed = { readonly segment: number } | { readonly blocks: number };

interface Replayer {
  /** The role that is written. */
  readonly to: string;
  readonly run: (
    devices: ImageDevices & { readonly cache: BlockDevice },
    to: BlockDevice,
    request: ReplayRequest,
    work: OfflineWork,
  ) => Promise<Replayed>;
}

/** By format: what can be replayed. */
const replayers: Readonly<Record<string, Replayer>> = {
  writeboost: {
    to: "backing",
    async run({ cache, plog }, backing, { until, force }, work) {
      if (force)
        throw usage("--force is for caches of the cache target", "A writeboost log belongs to one device.");
      return { segment: await replayLog(cache, backing, { plog, until, ...work }) };
    },
  },
  cache: {
    to: "source",
    async run({ cache }, source, { until, force }, work) {
      if (until !== undefined) {
        throw usage("--until is for writeboost logs", "A cache knows the newest contents of a block only.");
      }
      return { blocks: await writeDirty(source, cache, { ...work, force }) };
    },
  },
};

/** Throws `EFORMAT` for a format that is not replayed. */
export function requireReplayable({ format, references }: OpenImage): Replayer {
  const replayer = Object.hasOwn(replayers, format.name) ? replayers[format.name] : undefined;
  if (replayer !== undefined) return replayer;
  throw new BlockIoError(`is ${format.name}: there is nothing to replay`, {
    code: "EFORMAT",
    device: Object.values(references)[0],
    hint: `Replayed are: ${Object.keys(replayers).join(", ")}.`,
  });
}

/** How an image is replayed. Throws `EFORMAT` for one that cannot be, `EPARSE` if a device is missing. */
export function replayerOf(image: OpenImage): Replayer {
  const replayer = requireReplayable(image);
  const { devices, references } = image;
  if (devices["cache"] === undefined) {
    throw usage(`${Object.values(references)[0]} is not the cache device`, "Name the cache first.");
  }
  if (devices[replayer.to] === undefined) {
    throw usage(`the ${replayer.to} device is missing`, "Name it behind the cache.");
  }
  return replayer;
}

/** Writes to the slow device itself; all devices are writable. */
export async function replayInPlace(
  image: OpenImage,
  devices: ImageDevices,
  request: ReplayRequest,
  work: OfflineWork,
): Promise<Replayed> {
  const { to, run } = replayerOf(image);
  const { cache, [to]: slow } = devices;
  const result = await run({ ...devices, cache: cache as BlockDevice }, slow as BlockDevice, request, work);
  await slow?.flush();
  return result;
}

/** Files of a layer. */
export interface OverlayFiles {
  readonly bitmap: string;
  readonly data: string;
}

/** `BITMAP,DATA`, or one name from which both are made. Throws `EPARSE`. */
export function overlayFiles(text: string): OverlayFiles {
  const [bitmap = "", data, ...rest] = text.split(",");
  if (bitmap === "" || data === "" || rest.length > 0) {
    throw usage(`--overlay ${text}: expected BITMAP,DATA or one name`, undefined);
  }
  return data === undefined ? { bitmap: `${bitmap}.map`, data: `${bitmap}.img` } : { bitmap, data };
}

/**
 * Writes to a layer over the slow device, made if it is not there; all devices of the image are open read-only. What
 * it has made goes again if it fails, but stays if it is interrupted.
 */
export async function replayToOverlay(
  image: OpenImage,
  files: OverlayFiles,
  request: ReplayRequest,
  work: OfflineWork,
): Promise<Replayed> {
  const { to, run } = replayerOf(image);
  const base = image.devices[to] as BlockDevice;
  const made = await makeLayer(files, image.references[to] ?? "");
  const layer: BlockDevice[] = [];
  try {
    for (const path of [files.bitmap, files.data])
      layer.push(await openFile(path, { environment: work.environment }));
    const [bitmap, data] = layer as [BlockDevice, BlockDevice];
    await requireLayer(bitmap, base);
    const stack = await openStack(
      { base, baseOffset: 0, layers: [{ bitmap, data, offset: 0 }], sectors: base.size / SECTOR },
      { name: base.name, environment: work.environment },
    );
    try {
      const copies = Object.entries(image.devices).map(([role, device]) => [role, new ScratchDevice(device)]);
      const devices = Object.fromEntries(copies) as Record<string, BlockDevice>;
      const result = await run({ ...devices, cache: devices["cache"] as BlockDevice }, stack, request, work);
      await stack.flush();
      return result;
    } finally {
      await stack.close();
    }
  } catch (error) {
    if (made && work.signal?.aborted !== true) {
      for (const path of [files.bitmap, files.data]) rmSync(path, { force: true });
    }
    throw error;
  } finally {
    for (const device of layer) await device.close();
  }
}

/**
 * Both files, or neither, are there: an interrupted replay goes on in the layer it has begun. Whether it had to be
 * made.
 */
async function makeLayer({ bitmap, data }: OverlayFiles, base: string): Promise<boolean> {
  const there = [bitmap, data].filter((path) => existsSync(path));
  if (there.length === 2) return false;
  if (there.length === 1) {
    throw new BlockIoError("exists already, but the other file of the layer does not", {
      code: "EEXIST",
      device: there[0],
      hint: "Give names of which both, or neither, exist.",
    });
  }
  await createFiles(bitmap, data, { base, blank: false });
  return true;
}

/** What is written goes into this layer: it must be one, on the base itself, that nobody has put another one on. */
async function requireLayer(bitmap: BlockDevice, base: BlockDevice): Promise<void> {
  const found = await findIdentity(bitmap);
  const identity = found?.kind === "layer" ? found.identity : undefined;
  if (identity !== undefined && identity.sectors * SECTOR === base.size && !identity.frozen) return;
  throw new BlockIoError("is not the bitmap of a layer over this device that can be written", {
    code: "EFORMAT",
    device: bitmap.name,
    hint: "Give the name of a new file.",
  });
}
