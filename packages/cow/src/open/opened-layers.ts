/**
 * The devices of a stack as a table names them: opened and claimed, and what becomes of their claims while layers are frozen
 * or merged.
 *
 * Invariant: what is merged into is owned while that lasts, so whoever relies on it is in the way; everything but the top is
 * only read before and after.
 */
import {
  BlockIoError,
  type BlockDevice,
  type DeviceUse,
  type OpenContext,
  SECTOR,
  parseOption,
} from "@dmkit/block-io";
import type { LayerDevices } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import type { CowParts, MergeWay, NewLayer } from "../device/parts.ts";
import { useOfBase, usesOfLayer } from "../core/uses.ts";
import { type CowOptions, cowOptions } from "../options.ts";

type LayerOptions = CowOptions["layers"][number];
const layerOptions = cowOptions.layers.of;

/** The layers of a running stack, by the words of its table. */
export class OpenedLayers implements NonNullable<CowParts["merging"]> {
  readonly #options: CowOptions;
  readonly #context: OpenContext;
  #stack: StackDevices;
  #layers: readonly LayerOptions[];

  constructor(options: CowOptions, stack: StackDevices, context: OpenContext) {
    this.#options = options;
    this.#stack = stack;
    this.#context = context;
    this.#layers = options.layers;
  }

  /** As the table has them now. */
  get layers(): readonly LayerOptions[] {
    return this.#layers;
  }

  /** A layer was put on top: nobody writes to the one below, and other stacks may lie on that now. */
  frozen(next: NewLayer): void {
    const top = this.#stack.layers.at(-1);
    const old = this.#layers.at(-1);
    if (top !== undefined && old !== undefined) {
      const { bitmap, data } = usesOfLayer(old, "owns", this.#context.size);
      this.#context.onlyReads?.(top.bitmap, bitmap[2]);
      this.#context.onlyReads?.(top.data, data[2]);
    }
    const { names, offset } = next;
    const layer = { bitmap: names?.bitmap ?? "?", data: names?.data ?? "?", offset: offset / SECTOR };
    this.#layers = [...this.#layers, layer];
    this.#stack = { ...this.#stack, layers: [...this.#stack.layers, next] };
  }

  async begin(layer: number, way: MergeWay): Promise<StackDevices> {
    try {
      const { base } = this.#stack;
      const isBelowTop = layer + 1 === this.#layers.length;
      if (way === "up") {
        if (!isBelowTop) await this.#ownOf(layer + 1, "data");
      } else if (layer === 1) {
        this.#stack = { ...this.#stack, base: await this.#own(useOfBase(this.#options, this.#size), base) };
        // The layer itself is to forget its witness of the base.
        await this.#ownOf(1, "bitmap");
      } else {
        await this.#ownOf(layer - 1, "bitmap");
        await this.#ownOf(layer - 1, "data");
      }
      // The top is owned anyway.
      if (!isBelowTop) await this.#ownOf(layer + 1, "bitmap");
      return this.#stack;
    } catch (error) {
      this.#onlyRead();
      throw error;
    }
  }

  async end(layer: number, isDone: boolean): Promise<void> {
    const merged = this.#stack.layers[layer - 1];
    const words = this.#layers[layer - 1];
    if (isDone) {
      const others = <T>(all: readonly T[]): T[] => all.filter((_, index) => index !== layer - 1);
      this.#layers = others(this.#layers);
      this.#stack = { ...this.#stack, layers: others(this.#stack.layers) };
    }
    this.#onlyRead();
    if (!isDone || merged === undefined || words === undefined) return;
    const { bitmap, data } = usesOfLayer(words, "reads", this.#size);
    await this.#context.release?.(merged.data, data[2]);
    await this.#context.release?.(merged.bitmap, bitmap[2]);
  }

  async withBitmap(layer: number, work: (bitmap: BlockDevice) => Promise<void>): Promise<void> {
    try {
      await this.#ownOf(layer, "bitmap");
      await work((this.#stack.layers[layer - 1] as LayerDevices).bitmap);
    } finally {
      this.#onlyRead();
    }
  }

  get #size(): number {
    return this.#context.size;
  }

  /** Everything but the top. */
  #onlyRead(): void {
    const { base, layers } = this.#stack;
    this.#context.onlyReads?.(base, useOfBase(this.#options, this.#size)[2]);
    for (const [index, words] of this.#layers.slice(0, -1).entries()) {
      const { bitmap, data } = layers[index] as LayerDevices;
      const uses = usesOfLayer(words, "reads", this.#size);
      this.#context.onlyReads?.(bitmap, uses.bitmap[2]);
      this.#context.onlyReads?.(data, uses.data[2]);
    }
  }

  async #ownOf(layer: number, which: "bitmap" | "data"): Promise<void> {
    const words = this.#layers[layer - 1] as LayerOptions;
    const devices = this.#stack.layers[layer - 1] as LayerDevices;
    const device = await this.#own(usesOfLayer(words, "owns", this.#size)[which], devices[which]);
    const layers = this.#stack.layers.map((one, index) =>
      index === layer - 1 ? { ...devices, [which]: device } : one,
    );
    this.#stack = { ...this.#stack, layers };
  }

  #own([reference, , range]: DeviceUse, device: BlockDevice): Promise<BlockDevice> {
    return this.#context.own?.(reference, device, range) ?? Promise.resolve(device);
  }
}

/** Opens all that a table names. */
export async function openLowers(
  options: CowOptions,
  context: Pick<OpenContext, "size" | "lower" | "release">,
): Promise<StackDevices> {
  const { size, lower } = context;
  const base = await lower(...useOfBase(options, size));
  const layers: LayerDevices[] = [];
  for (const layer of options.layers) {
    layers.push(await openDevices(layer, layer === options.layers.at(-1) ? "owns" : "reads", context));
  }
  return { base, baseOffset: options.base_offset * SECTOR, layers, sectors: size / SECTOR };
}

/** Opens both devices of a layer or none. */
async function openDevices(
  layer: LayerOptions,
  use: "owns" | "reads",
  { lower, release, size }: Pick<OpenContext, "size" | "lower" | "release">,
): Promise<LayerDevices> {
  const uses = usesOfLayer(layer, use, size);
  const bitmap = await lower(...uses.bitmap);
  try {
    return { bitmap, data: await lower(...uses.data), offset: layer.offset * SECTOR };
  } catch (error) {
    await release?.(bitmap, uses.bitmap[2]);
    throw error;
  }
}

/** `<bitmap> <data> [<offset> [force]]` of the message `freeze`. */
export async function openNewLayer(words: readonly string[], context: OpenContext): Promise<NewLayer> {
  const [bitmap, data, offset = "0", word, ...rest] = words;
  const known = word === undefined || word === "force";
  if (bitmap === undefined || data === undefined || !known || rest.length > 0) {
    throw new BlockIoError("freeze takes a bitmap device and a data device", {
      code: "EINVAL",
      op: "message",
      hint: "Send: freeze <bitmap> <data> [<offset> [force]]",
    });
  }
  const layer = { bitmap, data, offset: parseOption("offset", layerOptions.offset, offset) as number };
  const opened = await openDevices(layer, "owns", context);
  const uses = usesOfLayer(layer, "owns", context.size);
  return {
    ...opened,
    names: { bitmap, data },
    force: word === "force",
    async giveBack() {
      await context.release?.(opened.data, uses.data[2]);
      await context.release?.(opened.bitmap, uses.bitmap[2]);
    },
  };
}
