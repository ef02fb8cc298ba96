/** Stacks of the `cow` target as the command line names them: `BASE [BITMAP DATA]…`, bottom to top. */
import { type BlockDevice, BlockIoError, SECTOR, realEnvironment } from "@dmkit/block-io";
import { type LayerDevices, type StackDevices, findIdentity } from "@dmkit/cow";
import { openReference } from "./devices.ts";

/** An open stack; the devices are closed in reverse order. */
export interface OpenStack extends StackDevices {
  close(): Promise<void>;
}

export interface StackWords {
  readonly words: readonly string[];
  /** Bytes of the target; left out: as the layers say, or all of the base. */
  readonly size?: number | undefined;
  /** Which layers are opened for writing, counted from 1; 0 is the base. */
  readonly writes?: (layer: number, layers: number) => boolean;
}

/** Opens a stack's devices, not the stack. Errors: EPARSE, those of opening the devices. */
export async function openStackWords({ words, size, writes = () => false }: StackWords): Promise<OpenStack> {
  const [baseName, ...rest] = words;
  if (baseName === undefined || rest.length % 2 !== 0) {
    throw new BlockIoError("a stack is a base, then a bitmap and a data device for each layer", {
      code: "EPARSE",
      op: "parse",
      hint: "Write: BASE [BITMAP DATA]…, bottom to top.",
    });
  }
  const count = rest.length / 2;
  const opened: BlockDevice[] = [];
  const close = async (): Promise<void> => {
    for (const device of opened.toReversed()) await device.close();
  };
  const open = async (name: string, layer: number): Promise<BlockDevice> => {
    const device = await openReference(name, writes(layer, count) ? "write" : "read", realEnvironment);
    opened.push(device);
    return device;
  };
  try {
    const base = await open(baseName, 0);
    const layers: LayerDevices[] = [];
    for (let layer = 1; layer <= count; layer += 1) {
      const [bitmap, data] = rest.slice(2 * layer - 2, 2 * layer) as [string, string];
      layers.push({ bitmap: await open(bitmap, layer), data: await open(data, layer), offset: 0 });
    }
    return { base, baseOffset: 0, layers, sectors: await sectorsOf(base, layers, size), close };
  } catch (error) {
    await close().catch(() => {});
    throw error;
  }
}

async function sectorsOf(
  base: BlockDevice,
  layers: readonly LayerDevices[],
  size: number | undefined,
): Promise<number> {
  if (size !== undefined) return size / SECTOR;
  for (const { bitmap } of layers) {
    const found = await findIdentity(bitmap);
    if (found?.kind === "layer") return found.identity.sectors;
  }
  return Math.floor(base.size / SECTOR);
}
