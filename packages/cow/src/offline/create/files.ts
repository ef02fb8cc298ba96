/** The two files of a new layer: sparse data, and a bitmap whose storage is reserved where that is possible. */
import { existsSync, rmSync } from "node:fs";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  type SettingsTable,
  codeOf,
  newPath,
  openPath,
  realEnvironment,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { freeLabel } from "../../device/layer/pairing.ts";
import { bitmapDeviceSize } from "../../format/geometry.ts";
import type { Snapshot } from "../../format/snapshot.ts";
import { labelledSize } from "../../format/label.ts";
import { createLayer } from "./create.ts";

/** The files of a layer. */
export interface LayerFiles {
  readonly bitmap: string;
  readonly data: string;
}

/** How the files of a layer are made. */
export interface LayerFileOptions {
  /** Of the target. */
  readonly sectors: number;
  /** The bitmap device of the layer below, which is frozen. Left out: the base is below. */
  readonly below?: BlockDevice | undefined;
  /** Bytes of the base before the target starts. */
  readonly baseOffset?: number | undefined;
  /** Bytes of the data file before the layer starts. Default 0. */
  readonly dataOffset?: number | undefined;
  /** Leaves the identity to whoever puts the layer on top. Default false. */
  readonly blank?: boolean | undefined;
  /** What the layer below is from then on; its bitmap must be writable. */
  readonly snapshot?: Snapshot | undefined;
  readonly environment?: Environment;
}

const fileSettings: SettingsTable<LayerFileOptions> = {
  sectors: setting.needed(setting.integer(1, Number.MAX_SAFE_INTEGER)),
  below: setting.device,
  baseOffset: setting.integer(0, Number.MAX_SAFE_INTEGER),
  dataOffset: setting.integer(0, Number.MAX_SAFE_INTEGER),
  blank: setting.flag,
  snapshot: setting.object,
  environment: setting.environment,
};

/** Throws `EEXIST` where one of the files is there, `EINVAL` for a partition. */
export function refuseOldFiles({ bitmap, data }: LayerFiles): void {
  for (const path of [bitmap, data]) {
    if (!existsSync(newPath(path).path)) continue;
    throw new BlockIoError("exists already", { code: "EEXIST", device: path, hint: "Give another name." });
  }
}

/** Makes the two files of a new layer, or none. Errors: `EEXIST`, those of the files. */
export async function createLayerFiles(files: LayerFiles, options: LayerFileOptions): Promise<void> {
  const {
    sectors,
    below,
    baseOffset,
    dataOffset = 0,
    snapshot,
    environment = realEnvironment,
  } = checkSettings(fileSettings, options);
  refuseOldFiles(files);
  const made: BlockDevice[] = [];
  try {
    const bitmap = await createBitmapFile(files.bitmap, bitmapDeviceSize(sectors), environment);
    made.push(bitmap);
    const data = await openPath(files.data, { createSize: dataOffset + labelledSize(sectors), environment });
    made.push(data);
    const layer = { bitmap, data, offset: dataOffset };
    await freeLabel(layer, sectors);
    if (options.blank !== true)
      await createLayer(layer, { sectors, below, baseOffset, snapshot, environment });
  } catch (error) {
    for (const { name } of made) rmSync(newPath(name).path, { force: true });
    throw error;
  } finally {
    for (const device of made) await device.close();
  }
}

/** A new file of `createSize` bytes with its storage reserved, if possible: a bitmap without space would be the end of all writing. */
export async function createBitmapFile(
  path: string,
  createSize: number,
  environment: Environment,
): Promise<BlockDevice> {
  try {
    return await openPath(path, { createSize, preallocate: true, environment });
  } catch (error) {
    if (codeOf(error) !== "ENOTSUP") throw error;
    return openPath(path, { createSize, environment });
  }
}
