/** The declaration of the target `compression` (alias `compress`). */
import { type Target, parseOptions, printNamed } from "@dmkit/block-io";
import { compressionControls } from "./device/counters.ts";
import { type CompressionOptions, compressionOptions, namedOptions, useOf } from "./options.ts";

/**
 * The target `compression`: a device that is stored compressed. Errors of `open`: `EFORMAT`, `EINVAL`, `EROFS`, those
 * of the device.
 */
export const compression: Target<CompressionOptions> = {
  name: "compression",
  aliases: ["compress"],
  version: [2, 0, 0],
  summary: "transparent in-place compression: fewer bytes are written, the capacity stays",
  synopsis: "<device> writethrough | writeback <seconds> [<#words> (<key> <value>)…]",
  options: compressionOptions,
  ...compressionControls,
  image: async () => (await import("./image.ts")).compressionImages,
  footprint: async () => (await import("./offline/footprint.ts")).compressionFootprint,
  parse(args) {
    const values: Record<string, unknown> = {
      device: args.text("device", compressionOptions.device),
      mode: args.text("mode", compressionOptions.mode),
    };
    if (values["mode"] === "writeback")
      values["interval"] = args.number("seconds", compressionOptions.interval);
    Object.assign(values, args.counted("words").named(namedOptions, compressionOptions));
    args.end();
    return parseOptions(compressionOptions, values, "compression");
  },
  print(options) {
    const { device, mode, interval } = options;
    const words = mode === "writeback" ? [device, mode, String(interval)] : [device, mode];
    return [...words, ...printNamed(namedOptions, compressionOptions, options)];
  },
  uses: (options) => [useOf(options)],
  check: async (options, context) => (await import("./open/open.ts")).checkCompression(options, context),
  open: async (options, context) => (await import("./open/open.ts")).openCompression(options, context),
};
