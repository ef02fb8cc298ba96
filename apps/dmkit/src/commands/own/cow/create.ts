/** `dmkit cow create`: the two files of a new layer. */
import { resolve } from "node:path";
import { type BlockDevice, BlockIoError, SECTOR, newPath, refuse } from "@dmkit/block-io";
import { type LayerFiles, createLayerFiles, findIdentity, refuseOldFiles } from "@dmkit/cow";
import { openReference, withReading } from "../../../devices.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

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
export async function createFiles(files: LayerFiles, flags: CreateFlags): Promise<void> {
  if (resolve(newPath(files.bitmap).path) === resolve(newPath(files.data).path))
    throw refuse(files.data, "EINVAL", "cannot be both files of the layer", "Give two names.");
  refuseOldFiles(files);
  const { on, baseOffset, dataOffset = 0, blank } = flags;
  const below = on === undefined ? undefined : await openReference(on, "write", commandEnvironment);
  try {
    await createLayerFiles(files, {
      sectors: await sizeOfNew(flags, below),
      below,
      baseOffset: baseOffset === undefined ? undefined : baseOffset * SECTOR,
      dataOffset: dataOffset * SECTOR,
      blank,
      environment: commandEnvironment,
    });
  } finally {
    await below?.close();
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
    const all = await withReading(base, commandEnvironment, async ({ size }) => Math.floor(size / SECTOR));
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
