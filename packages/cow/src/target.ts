/** `cow` as a target of tables and stack files. */
import {
  BlockIoError,
  type DeviceUse,
  LinearDevice,
  type OpenContext,
  SECTOR,
  type Target,
  type TargetDevice,
  didYouMean,
  parseOption,
  parseOptions,
  plainFootprint,
  restOf,
} from "@dmkit/block-io";
import type { AliasedBlockSize } from "./format/aliased.ts";
import { bitmapDeviceSize } from "./format/geometry.ts";
import type { NewLayer } from "./device/freeze.ts";
import type { LayerDevices } from "./device/layer/layer.ts";
import { cowControls } from "./device/messages.ts";
import type { StackDevices } from "./device/layer/stack-devices.ts";
import { hintFor } from "./open/missing-layer.ts";
import type { OpenStackOptions } from "./open/open.ts";
import { type CowOptions, type NamedOption, cowOptions, namedOptions } from "./options.ts";

type LayerOptions = CowOptions["layers"][number];
const layerOptions = cowOptions.layers.of;

/**
 * The target `cow`: a base that is only read, and layers that take what is written. Errors of `open`: `EINVAL`,
 * `EFORMAT`, `EROFS`, `EBUSY`, those of the devices.
 */
export const cow: Target<CowOptions> = {
  name: "cow",
  version: [1, 0, 0],
  summary: "a base image under copy-on-write layers, the last one writable",
  synopsis: "<base> <base offset> {<bitmap> <data> <offset>}… [<#words> {<option> <value>}…]",
  options: cowOptions,
  ...cowControls,
  image: async () => (await import("./image.ts")).cowImages,
  overlay: async () => (await import("./offline/create/overlay.ts")).layerOverlay,
  footprint: () => Promise.resolve(plainFootprint((size) => bitmapDeviceSize(size / SECTOR))),
  stack: { length: ({ base, base_offset }) => restOf(base, base_offset) },
  hintFor,

  parse(args) {
    const base = args.text("base", cowOptions.base);
    const base_offset = args.number("base offset", cowOptions.base_offset);
    const words: string[] = [];
    while (args.remaining > 0) words.push(args.word("layer"));
    const { layers, named } = splitWords(words);
    return { base, base_offset, layers: readLayers(layers), ...readNamed(named) };
  },

  print(options) {
    const { base, base_offset, layers, aliased_block_size, autocommit, force } = options;
    const named = [
      ...(aliased_block_size === undefined ? [] : ["aliased_block_size", aliased_block_size]),
      ...(autocommit === cowOptions.autocommit.default ? [] : ["autocommit", String(autocommit)]),
      ...(force ? ["force", "1"] : []),
    ];
    return [
      base,
      String(base_offset),
      ...layers.flatMap(({ bitmap, data, offset }) => [bitmap, data, String(offset)]),
      ...(named.length > 0 ? [String(named.length), ...named] : []),
    ];
  },

  uses: (options, size) => [
    useOfBase(options, size),
    ...options.layers.flatMap((layer) =>
      Object.values(usesOfLayer(layer, layer === options.layers.at(-1) ? "owns" : "reads", size)),
    ),
  ],

  async check(options, context) {
    if (options.layers.length === 0) return;
    const { checkStack } = await import("./open/open.ts");
    await checkStack(await openLowers(options, context), settingsOf(options, context));
  },

  async open(given, context) {
    const options = parseOptions(cowOptions, given, "cow");
    if (options.layers.length === 0) return openBase(options, context);
    const { openStack } = await import("./open/open.ts");
    const { size } = context;
    const stack = await openLowers(options, context);
    // Those of a table after some were put on top.
    let now = options.layers;
    let top = stack.layers.at(-1);
    return openStack(stack, {
      ...settingsOf(options, context),
      openLayer: (words) => openNewLayer(words, context),
      frozen: (next) => {
        // Nobody writes to a frozen layer: other stacks may lie on it now.
        const old = now.at(-1);
        if (old !== undefined && top !== undefined) {
          const { bitmap, data } = usesOfLayer(old, "owns", size);
          context.onlyReads?.(top.bitmap, bitmap[2]);
          context.onlyReads?.(top.data, data[2]);
        }
        top = next;
        const { names, offset } = next;
        const layer = { bitmap: names?.bitmap ?? "?", data: names?.data ?? "?", offset: offset / SECTOR };
        now = [...now, layer];
      },
      layers: () => ({ layers: now }),
      table: (settings) => cow.print({ ...options, ...settings }),
    });
  },
};

async function openLowers(
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

function settingsOf(
  { aliased_block_size: block, autocommit, force }: CowOptions,
  { name, environment }: Pick<OpenContext, "name" | "environment">,
): OpenStackOptions {
  const aliasedBlockSize = block === undefined ? undefined : (Number(block) as AliasedBlockSize);
  return { name, environment, aliasedBlockSize, autocommit: autocommit * 1000, force };
}

/** A stack of only a base is the base itself. */
async function openBase(options: CowOptions, { name, size, lower }: OpenContext): Promise<TargetDevice> {
  return new LinearDevice(await lower(...useOfBase(options, size)), options.base_offset * SECTOR, size, name);
}

/** Without layers the base is written. */
function useOfBase({ base, base_offset: offset, layers }: CowOptions, size: number): DeviceUse {
  return [base, layers.length === 0 ? "shares" : "reads", { offset: offset * SECTOR, length: size }];
}

function usesOfLayer(
  { bitmap, data, offset }: LayerOptions,
  use: "owns" | "reads",
  size: number,
): Readonly<Record<"bitmap" | "data", DeviceUse>> {
  return {
    bitmap: [bitmap, use, { offset: 0, length: bitmapDeviceSize(size / SECTOR) }],
    data: [data, use, { offset: offset * SECTOR, length: size }],
  };
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
async function openNewLayer(words: readonly string[], context: OpenContext): Promise<NewLayer> {
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

/** Layers come in threes; what follows begins with the number of its words, and that with the name of an option. */
function splitWords(words: readonly string[]): { layers: readonly string[]; named: readonly string[] } {
  for (let at = 0; at < words.length; at += 3) {
    const count = words[at] as string;
    const isCount = /^\d+$/.test(count) && Number(count) === words.length - at - 1;
    if (isCount && (count === "0" || isNamed(words[at + 1]))) {
      return { layers: words.slice(0, at), named: words.slice(at + 1) };
    }
  }
  return { layers: words, named: [] };
}

function readLayers(words: readonly string[]): LayerOptions[] {
  const { min, max } = cowOptions.layers;
  const count = words.length / 3;
  if (!Number.isInteger(count) || count < min || count > max) {
    throw new BlockIoError(`${words.length} words are not layers of three`, {
      code: "EPARSE",
      op: "parse",
      hint: `Each layer is <bitmap> <data> <offset>; there can be ${max}.`,
    });
  }
  return Array.from({ length: count }, (_, index) => {
    const [bitmap, data, offset] = words.slice(index * 3, index * 3 + 3);
    return {
      bitmap: parseOption("bitmap", layerOptions.bitmap, bitmap) as string,
      data: parseOption("data", layerOptions.data, data) as string,
      offset: parseOption("offset", layerOptions.offset, offset) as number,
    };
  });
}

function readNamed(words: readonly string[]): Pick<CowOptions, NamedOption> {
  const given = new Map<NamedOption, unknown>();
  for (let at = 0; at < words.length; at += 2) {
    const name = words[at];
    if (!isNamed(name)) {
      throw new BlockIoError(`there is no option "${name}"`, {
        code: "EPARSE",
        op: "parse",
        hint: `${didYouMean(name ?? "", namedOptions)}Options after the layers: ${namedOptions.join(", ")}.`,
      });
    }
    given.set(name, parseOption(name, cowOptions[name], words[at + 1]));
  }
  return {
    aliased_block_size: given.get("aliased_block_size") as CowOptions["aliased_block_size"],
    autocommit: (given.get("autocommit") as number | undefined) ?? cowOptions.autocommit.default,
    force: (given.get("force") as boolean | undefined) ?? cowOptions.force.default,
  };
}

function isNamed(word: string | undefined): word is NamedOption {
  return namedOptions.some((name) => name === word);
}
