/** Small stacks in memory for tests. */
import { SECTOR } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { bitmapDeviceSize } from "../src/format/geometry.ts";
import type { CowDevice } from "../src/device/device.ts";
import type { LayerDevices } from "../src/device/layer/layer.ts";
import { type OpenStackOptions, openStack } from "../src/open/open.ts";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";

export const SECTORS = 10_007;

/** A new layer: everything zero. */
export function newLayer(
  sectors: number = SECTORS,
  offset = 0,
): LayerDevices & { bitmap: BadSectors; data: BadSectors } {
  return {
    bitmap: new BadSectors(bitmapDeviceSize(sectors), { name: "bitmap" }),
    data: new BadSectors(sectors * SECTOR + offset, { name: "data" }),
    offset,
  };
}

/** Every sector is full of its own number and the name's first byte. */
export function pattern(sectors: number, name: string): Buffer {
  const bytes = Buffer.alloc(sectors * SECTOR, name);
  for (let sector = 0; sector < sectors; sector += 1) bytes.writeUInt32LE(sector, sector * SECTOR + 4);
  return bytes;
}

/** A base full of its pattern. */
export async function baseImage(sectors: number = SECTORS, offset = 0): Promise<BadSectors> {
  const base = new BadSectors(sectors * SECTOR + offset, { name: "base" });
  await base.write(offset, pattern(sectors, "base"));
  return base;
}

/** The devices of a stack of this file. */
export function disksOf({ base, layers }: StackDevices): BadSectors[] {
  return [base, ...layers.flatMap(({ bitmap, data }) => [bitmap, data])] as BadSectors[];
}

export async function newStack(layers = 1, sectors: number = SECTORS): Promise<StackDevices> {
  return {
    base: await baseImage(sectors),
    baseOffset: 0,
    layers: Array.from({ length: layers }, () => newLayer(sectors)),
    sectors,
  };
}

/** Opens layer after layer on top of each other, so that each gets its identity; `fill` writes to each, `closed` comes after. */
export async function buildStack(
  stack: StackDevices,
  fill: (device: CowDevice, layer: number) => Promise<void>,
  closed: (layer: number) => Promise<void> = async () => {},
): Promise<void> {
  for (let count = 1; count <= stack.layers.length; count += 1) {
    const device = await openStack({ ...stack, layers: stack.layers.slice(0, count) }, quiet);
    await fill(device, count);
    await device.close();
    await closed(count);
  }
}

/** No timers: nothing happens that the test does not do. */
export const quiet: OpenStackOptions = { autocommit: 0 };

export { contentsOf as contents } from "@dmkit/block-io/testing";

/** A layer's devices, from 1 at the bottom. */
export function layerOf({ layers }: StackDevices, layer: number): LayerDevices {
  const found = layers[layer - 1];
  if (found === undefined) throw new Error(`there is no layer ${layer}`);
  return found;
}
