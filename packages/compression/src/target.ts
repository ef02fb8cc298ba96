/** The declaration of the target `compression` (alias `compress`). */
import { BlockIoError, type TableArguments, type Target, parseOptions } from "@dmkit/block-io";
import { openCompression } from "./open.ts";
import { type CompressionOptions, type NamedOption, compressionOptions, namedOptions } from "./options.ts";

export const compression: Target<CompressionOptions> = {
  name: "compression",
  aliases: ["compress"],
  version: [2, 0, 0],
  summary: "transparent in-place compression: fewer bytes are written, the capacity stays",
  synopsis: "<device> writethrough | writeback <seconds> [<#words> (<key> <value>)…]",
  options: compressionOptions,
  parse(args) {
    const values: Record<string, unknown> = {
      device: args.text("device", compressionOptions.device),
      mode: args.text("mode", compressionOptions.mode),
    };
    if (values["mode"] === "writeback")
      values["interval"] = args.number("seconds", compressionOptions.interval);
    readNamed(args.counted("words"), values);
    args.end();
    return parseOptions(compressionOptions, values, "compression");
  },
  print(options) {
    const { device, mode, interval } = options;
    const words = mode === "writeback" ? [device, mode, String(interval)] : [device, mode];
    const named = namedOptions.flatMap((name) => printNamed(name, options));
    return named.length === 0 ? words : [...words, String(named.length), ...named];
  },
  open: (options, context) => openCompression(options, context),
};

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
    values[name] = args.option(name, compressionOptions[name]);
  }
}

function printNamed(name: NamedOption, options: CompressionOptions): string[] {
  const spec = compressionOptions[name];
  const value = options[name];
  if (value === undefined || ("default" in spec && value === spec.default)) return [];
  return [name, typeof value === "boolean" ? (value ? "1" : "0") : String(value)];
}
