/** The declaration of the target `zram`. */
import { type Target, parseOptions, printNamed } from "@dmkit/block-io";
import { zramControls } from "./device/messages.ts";
import { type ZramOptions, namedOptions, usesOf, zramOptions } from "./options.ts";

/** The target `zram`: a RAM disk that is compressed. */
export const zram: Target<ZramOptions> = {
  name: "zram",
  version: [1, 0, 0],
  summary: "compressed disk in RAM",
  synopsis: "[<algorithm> [<#words> (<key> <value>)…]]",
  options: zramOptions,
  inMemory: ({ snapshot }) => snapshot === undefined,
  ...zramControls,
  footprint: async () => (await import("./device/footprint.ts")).zramFootprint,
  parse(args) {
    const values: Record<string, unknown> = {};
    if (args.remaining > 0) values["comp_algorithm"] = args.text("algorithm", zramOptions.comp_algorithm);
    Object.assign(values, args.counted("words").named(namedOptions, zramOptions));
    args.end();
    return parseOptions(zramOptions, values, "zram");
  },
  print(options) {
    return [options.comp_algorithm, ...printNamed(namedOptions, zramOptions, options)];
  },
  uses: (options) => Object.values(usesOf(options)).filter((use) => use !== undefined),
  check: async (options, context) => (await import("./open/open.ts")).checkZram(options, context),
  open: async (options, context) => (await import("./open/open.ts")).openZram(options, context),
};
