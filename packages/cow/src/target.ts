/** `cow` as a target of tables and stack files. */
import {
  BlockIoError,
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
import { cowControls } from "./device/messages.ts";
import { hintFor } from "./open/missing-layer.ts";
import type { OpenStackOptions } from "./open/open.ts";
import { useOfBase, usesOfLayer } from "./core/uses.ts";
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
    const { openLowers } = await import("./open/opened-layers.ts");
    await checkStack(await openLowers(options, context), settingsOf(options, context));
  },

  async open(given, context) {
    const options = parseOptions(cowOptions, given, "cow");
    if (options.layers.length === 0) return openBase(options, context);
    const { openStack } = await import("./open/open.ts");
    const { OpenedLayers, openLowers, openNewLayer } = await import("./open/opened-layers.ts");
    const stack = await openLowers(options, context);
    const opened = new OpenedLayers(options, stack, context);
    return openStack(stack, {
      ...settingsOf(options, context),
      openLayer: (words) => openNewLayer(words, context),
      frozen: (next) => opened.frozen(next),
      merging: opened,
      layers: () => ({ layers: opened.layers }),
      table: (settings) => cow.print({ ...options, ...settings }),
    });
  },
};

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
