/** `dmkit cow create`: the two files of a new layer. */
import { existsSync, rmSync } from "node:fs";
import {
  type BlockDevice,
  BlockIoError,
  SECTOR,
  codeOf,
  openFile,
  realEnvironment,
  refuse,
} from "@dmkit/block-io";
import { bitmapDeviceSize, createLayer, findIdentity, freeLabel, labelledSize } from "@dmkit/cow";
import { openReference } from "./devices.ts";

/** What the new layer lies on, and how large it is. */
export interface CreateFlags {
  readonly base?: string;
  readonly on?: string;
  readonly size?: number;
  /** Sector of the base where the target starts. */
  readonly baseOffset?: number;
  /** Sector of the data file where the layer starts. */
  readonly dataOffset?: number;
  readonly blank: boolean;
}

/** Makes the two files of a new layer, or none. Errors: EEXIST, EPARSE (no size), those of the files. */
export async function createFiles(bitmapPath: string, dataPath: string, flags: CreateFlags): Promise<void> {
  for (const path of [bitmapPath, dataPath]) {
    if (!existsSync(path)) continue;
    throw new BlockIoError("exists already", { code: "EEXIST", device: path, hint: "Give another name." });
  }
  const below = flags.on === undefined ? undefined : await openReference(flags.on, "write", realEnvironment);
  const made: BlockDevice[] = [];
  try {
    const sectors = await sizeOfNew(flags, below);
    const bitmap = await createBitmap(bitmapPath, bitmapDeviceSize(sectors));
    made.push(bitmap);
    const offset = (flags.dataOffset ?? 0) * SECTOR;
    const data = await openFile(dataPath, { createSize: offset + labelledSize(sectors) });
    made.push(data);
    const layer = { bitmap, data, offset };
    await freeLabel(layer, sectors);
    const baseOffset = flags.baseOffset === undefined ? undefined : flags.baseOffset * SECTOR;
    if (!flags.blank) await createLayer(layer, { sectors, below, baseOffset });
  } catch (error) {
    for (const { name } of made) rmSync(name, { force: true });
    throw error;
  } finally {
    for (const device of made) await device.close();
    await below?.close();
  }
}

/** With its storage reserved, if possible: a bitmap without space would be the end of all writing. */
async function createBitmap(path: string, createSize: number): Promise<BlockDevice> {
  try {
    return await openFile(path, { createSize, preallocate: true });
  } catch (error) {
    if (codeOf(error) !== "ENOTSUP") {
      rmSync(path, { force: true });
      throw error;
    }
    return openFile(path, { createSize });
  }
}

async function sizeOfNew(
  { base, size: given, baseOffset = 0 }: CreateFlags,
  below: BlockDevice | undefined,
): Promise<number> {
  if (given !== undefined) return given / SECTOR;
  if (below !== undefined) {
    const found = await findIdentity(below);
    if (found?.kind === "layer") return found.identity.sectors;
  } else if (base !== undefined) {
    const device = await openReference(base, "read", realEnvironment);
    const all = Math.floor(device.size / SECTOR);
    await device.close();
    if (baseOffset < all) return all - baseOffset;
    throw refuse(
      base,
      "EINVAL",
      `has ${all} sectors: none from sector ${baseOffset} on`,
      "Give a --base-offset, in sectors, within the base.",
    );
  }
  throw new BlockIoError("the size of the target is not known", {
    code: "EPARSE",
    hint: "Give --base, --on with the bitmap of a layer, or --size.",
  });
}
