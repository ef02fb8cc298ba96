/** Where base and layers of a stack lie: several may share a device, none may lie on another one. */
import { SECTOR, refuse } from "@dmkit/block-io";
import { bitmapDeviceSize } from "../../format/geometry.ts";
import type { StackDevices } from "./stack-devices.ts";

/** Throws `EINVAL` where two overlap: it would be the end of both. Side by side on one device they may be. */
export function requireOwnPlaces({ base, baseOffset, layers, sectors }: StackDevices, name: string): void {
  const bytes = sectors * SECTOR;
  const places = [{ device: base, from: baseOffset, to: baseOffset + bytes, what: "the base" }];
  for (const [index, { bitmap, data, offset }] of layers.entries()) {
    const layer = `layer ${index + 1}`;
    places.push(
      { device: bitmap, from: 0, to: bitmapDeviceSize(sectors), what: `the bitmap of ${layer}` },
      { device: data, from: offset, to: offset + bytes, what: `the data of ${layer}` },
    );
  }
  for (const [index, one] of places.entries()) {
    const other = places
      .slice(0, index)
      .find(({ device, from, to }) => device === one.device && from < one.to && one.from < to);
    if (other === undefined) continue;
    throw refuse(
      name,
      "EINVAL",
      `${one.what} lies on ${other.what}: both are on ${one.device.name}`,
      "Give each a device of its own, or offsets that keep them apart.",
    );
  }
}
