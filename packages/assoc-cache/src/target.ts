/** The declaration of the target `cache` (alias `assoc-cache`). */
import { BlockIoError, type TableArguments, type Target, parseOptions } from "@dmkit/block-io";
import { openCache } from "./open.ts";
import { type CacheOptions, cacheOptions, namedOptions, type NamedOption } from "./options.ts";

const positional = ["persistence", "block_size", "cache_size", "associativity", "write_policy"] as const;

export const assocCache: Target<CacheOptions> = {
  name: "cache",
  aliases: ["assoc-cache"],
  version: [1, 0, 0],
  summary: "set-associative block cache of a source on a faster device: write-through or write-back",
  synopsis:
    "<source> <cache> [<persistence> [<block size> [<cache size> [<associativity> [<write policy> [<#words> (<key> <value>)…]]]]]]",
  options: cacheOptions,
  parse(args) {
    const values: Record<string, unknown> = {
      source: args.text("source", cacheOptions.source),
      cache: args.text("cache", cacheOptions.cache),
    };
    for (const name of positional) {
      if (args.remaining > 0) values[name] = args.number(name, cacheOptions[name]);
    }
    // The stored configuration wins, so words that will not be looked at may well be out of step.
    if (values["persistence"] === 0) defaultAssociativity(values);
    readNamed(args.counted("words"), values);
    return parseOptions(cacheOptions, values, "cache");
  },
  print(options) {
    const words = [options.source, options.cache, ...positional.map((name) => String(options[name]))];
    const named = namedOptions.flatMap((name) => printNamed(name, options));
    return named.length === 0 ? words : [...words, String(named.length), ...named];
  },
  open: openCache,
};

/** A cache smaller than the default associativity has one set, if nothing else was asked for. */
function defaultAssociativity(values: Record<string, unknown>): void {
  const size = values["cache_size"];
  if (typeof size === "number" && values["associativity"] === undefined) {
    values["associativity"] = Math.min(size, cacheOptions.associativity.default);
  }
}

function readNamed(args: TableArguments, values: Record<string, unknown>): void {
  while (args.remaining > 0) {
    const word = args.word("option");
    const name = namedOptions.find((known) => known === word);
    if (name === undefined) {
      throw new BlockIoError(`there is no option "${word}"`, {
        code: "EPARSE",
        op: "parse",
        hint: `Known options: ${namedOptions.join(", ")}.`,
      });
    }
    values[name] = args.option(name, cacheOptions[name]);
  }
}

function printNamed(name: NamedOption, options: CacheOptions): string[] {
  const spec = cacheOptions[name];
  const value = options[name];
  if (value === undefined || ("default" in spec && value === spec.default)) return [];
  return [name, typeof value === "boolean" ? (value ? "1" : "0") : String(value)];
}
