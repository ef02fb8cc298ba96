/** Which bytes of which devices a stack uses, and for what: by the words of its table. */
import { type DeviceUse, SECTOR } from "@dmkit/block-io";
import { bitmapDeviceSize } from "../format/geometry.ts";
import type { CowOptions } from "../options.ts";

type LayerOptions = CowOptions["layers"][number];

/** Without layers the base is written. */
export function useOfBase({ base, base_offset: offset, layers }: CowOptions, size: number): DeviceUse {
  return [base, layers.length === 0 ? "shares" : "reads", { offset: offset * SECTOR, length: size }];
}

/** What a layer takes of its devices. */
export function usesOfLayer(
  { bitmap, data, offset }: LayerOptions,
  use: "owns" | "reads",
  size: number,
): Readonly<Record<"bitmap" | "data", DeviceUse>> {
  return {
    bitmap: [bitmap, use, { offset: 0, length: bitmapDeviceSize(size / SECTOR) }],
    data: [data, use, { offset: offset * SECTOR, length: size }],
  };
}
