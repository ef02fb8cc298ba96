/** The declaration of the target `zram`. */
import { BlockIoError, type TableArguments, type Target, parseOptions } from "@dmkit/block-io";
import { openZram } from "./open.ts";
import { type NamedOption, type ZramOptions, namedOptions, zramOptions } from "./options.ts";

export const zram: Target<ZramOptions> = {
  name: "zram",
  version: [1, 0, 0],
  summary: "compressed disk in RAM",
  synopsis: "[<algorithm> [<#words> (<key> <value>)…]]",
  options: zramOptions,
  parse(args) {
    const values: Record<string, unknown> = {};
    if (args.remaining > 0) values["comp_algorithm"] = args.text("algorithm", zramOptions.comp_algorithm);
    readNamed(args.counted("words"), values);
    args.end();
    return parseOptions(zramOptions, values, "zram");
  },
  print(options) {
    const named = namedOptions.flatMap((name) => printNamed(name, options));
    const words = [options.comp_algorithm];
    return named.length === 0 ? words : [...words, String(named.length), ...named];
  },
  open: openZram,
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
    values[name] = args.option(name, zramOptions[name]);
  }
}

function printNamed(name: NamedOption, options: ZramOptions): string[] {
  const spec = zramOptions[name];
  const value = options[name];
  if (value === undefined || ("default" in spec && value === spec.default)) return [];
  return [name, String(value)];
}
