/** One layer over any device: what is written goes into its two files. */
import { type BlockDevice, BlockIoError, type ImageDevices, type Overlay, SECTOR } from "@dmkit/block-io";
import { findIdentity } from "../../device/layer/layer.ts";
import { openStack } from "../../open/open.ts";
import { createLayerFiles } from "./files.ts";

export const layerOverlay: Overlay = {
  files: { bitmap: ".map", data: ".img" },
  make: ({ bitmap = "", data = "" }, base, environment) =>
    createLayerFiles({ bitmap, data }, { sectors: Math.floor(base.size / SECTOR), environment }),
  async open(files, base, environment) {
    const layer = { ...devicesOf(files), offset: 0 };
    await requireLayer(layer.bitmap, base);
    return openStack(
      { base, baseOffset: 0, layers: [layer], sectors: base.size / SECTOR },
      { name: base.name, environment },
    );
  },
  words: ({ bitmap = "", data = "" }, base) => [base, "0", bitmap, data, "0"],
};

function devicesOf({ bitmap, data }: ImageDevices): { bitmap: BlockDevice; data: BlockDevice } {
  if (bitmap !== undefined && data !== undefined) return { bitmap, data };
  throw new BlockIoError("a layer has a bitmap and data", { code: "EINVAL", hint: "Give both files." });
}

/** It must be a layer on the base itself, that nobody has put another one on. */
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
