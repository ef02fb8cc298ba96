/** The declaration of the target `cache` (alias `assoc-cache`). */
import { type Target, parseOptions, printNamed, restOf } from "@dmkit/block-io";
import { type CacheOptions, cacheOptions, namedOptions, usesOf } from "./options.ts";
import { cacheControls } from "./device/messages.ts";

const positional = ["persistence", "block_size", "cache_size", "associativity", "write_policy"] as const;

/**
 * The target `cache`: blocks of a slow device on a fast one. Options: {@link cacheOptions}; errors of `open`:
 * `EINVAL`, `EBUSY`, `EFORMAT`, `EROFS`, those of the devices.
 */
export const assocCache: Target<CacheOptions> = {
  name: "cache",
  aliases: ["assoc-cache"],
  version: [1, 0, 0],
  summary: "set-associative block cache of a source on a faster device: write-through or write-back",
  synopsis:
    "<source> <cache> [<persistence> [<block size> [<cache size> [<associativity> [<write policy> [<#words> (<key> <value>)…]]]]]]",
  options: cacheOptions,
  ...cacheControls,
  image: async () => (await import("./image.ts")).assocCacheImages,
  stack: {
    // A cache smaller than the default associativity has one set, as in tables.
    // And a server that is started again goes on with the cache it made the first time.
    defaults: ({ cache_size: size }) => ({
      persistence: 2,
      ...(typeof size === "number" && size < cacheOptions.associativity.default
        ? { associativity: size }
        : {}),
    }),
    length: ({ source }) => restOf(source),
  },
  parse(args) {
    const values: Record<string, unknown> = {
      source: args.text("source", cacheOptions.source),
      cache: args.text("cache", cacheOptions.cache),
    };
    for (const name of positional) {
      if (args.remaining > 0) values[name] = args.number(name, cacheOptions[name]);
    }
    // The stored configuration wins, so words that will not be looked at may well be out of step.
    if (values["persistence"] !== 1) defaultAssociativity(values);
    Object.assign(values, args.counted("words").named(namedOptions, cacheOptions));
    return parseOptions(cacheOptions, values, "cache");
  },
  print(options) {
    const words = [options.source, options.cache, ...positional.map((name) => String(options[name]))];
    return [...words, ...printNamed(namedOptions, cacheOptions, options)];
  },
  async retire({ cache }, { lower }) {
    const { eraseSuperblocks } = await import("./device/metadata/superblocks.ts");
    await eraseSuperblocks(await lower(cache, "owns"));
  },
  async leave({ cache }, { lower }) {
    const { markLeft } = await import("./device/metadata/superblocks.ts");
    await markLeft(await lower(cache, "owns"));
  },
  uses: (options, size) => Object.values(usesOf(options, size)),
  check: async (options, context) => (await import("./open/open.ts")).checkCache(options, context),
  open: async (options, context) => (await import("./open/open.ts")).openCache(options, context),
};

/** A cache smaller than the default associativity has one set, if nothing else was asked for. */
function defaultAssociativity(values: Record<string, unknown>): void {
  const size = values["cache_size"];
  if (typeof size === "number" && values["associativity"] === undefined) {
    values["associativity"] = Math.min(size, cacheOptions.associativity.default);
  }
}
