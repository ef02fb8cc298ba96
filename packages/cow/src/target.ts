/** `cow` as a target of tables and stack files. */
import {
  BlockIoError,
  LinearDevice,
  type OpenContext,
  SECTOR,
  type Target,
  type TargetDevice,
  parseOption,
} from "@dmkit/block-io";
import type { AliasedBlockSize } from "./format/aliased.ts";
import type { NewLayer } from "./freeze.ts";
import type { LayerDevices } from "./layer.ts";
import { openStack } from "./open-stack.ts";
import { type CowOptions, type NamedOption, cowOptions, namedOptions } from "./options.ts";

type LayerOptions = CowOptions["layers"][number];
const layerOptions = cowOptions.layers.of;

export const cow: Target<CowOptions> = {
  name: "cow",
  version: [1, 0, 0],
  summary: "a base image under copy-on-write layers, the last one writable",
  synopsis: "<base> <base offset> {<bitmap> <data> <offset>}… [<#words> {<option> <value>}…]",
  options: cowOptions,

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

  async open(options, context) {
    if (options.layers.length === 0) return openBase(options, context);
    const { environment, name, size, lower } = context;
    const base = await lower(options.base, "read");
    const layers: LayerDevices[] = [];
    for (const [index, layer] of options.layers.entries()) {
      layers.push(await openDevices(layer, index === options.layers.length - 1 ? "write" : "read", context));
    }
    // What a table would say after layers were put on top. The word to overwrite something is said once.
    let now = { ...options, force: false };
    const block = options.aliased_block_size;
    return openStack(
      { base, baseOffset: options.base_offset * SECTOR, layers, sectors: size / SECTOR },
      {
        name,
        environment,
        aliasedBlockSize: block === undefined ? undefined : (Number(block) as AliasedBlockSize),
        autocommit: options.autocommit * 1000,
        force: options.force,
        openLayer: (words) => openNewLayer(words, lower),
        frozen: ({ names, offset }) => {
          const layer = { bitmap: names?.bitmap ?? "?", data: names?.data ?? "?", offset: offset / SECTOR };
          now = { ...now, layers: [...now.layers, layer] };
        },
        table: () => cow.print(now),
      },
    );
  },
};

/** A stack of only a base is the base itself. */
async function openBase(
  { base, base_offset }: CowOptions,
  { name, size, lower }: OpenContext,
): Promise<TargetDevice> {
  return new LinearDevice(await lower(base, "write"), base_offset * SECTOR, size, name);
}

async function openDevices(
  { bitmap, data, offset }: LayerOptions,
  access: "read" | "write",
  { lower }: Pick<OpenContext, "lower">,
): Promise<LayerDevices> {
  return { bitmap: await lower(bitmap, access), data: await lower(data, access), offset: offset * SECTOR };
}

/** `<bitmap> <data> [<offset> [force]]` of the message `freeze`. */
async function openNewLayer(words: readonly string[], lower: OpenContext["lower"]): Promise<NewLayer> {
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
  const devices = await openDevices(layer, "write", { lower });
  return { ...devices, names: { bitmap, data }, force: word === "force" };
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
        hint: `Options after the layers: ${namedOptions.join(", ")}.`,
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
