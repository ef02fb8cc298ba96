/** `zero`: reads as zeroes, forgets writes. */
import { ZeroDevice } from "../devices/zero.ts";
import { parseOptions } from "../dm/options.ts";
import type { Target } from "../dm/target.ts";

export const zeroOptions = {} as const;

/** None. */
export type ZeroOptions = Readonly<Record<string, never>>;

/** The target `zero`: reads as zeroes, forgets what is written. */
export const zero: Target<ZeroOptions> = {
  name: "zero",
  version: [1, 0, 0],
  summary: "reads as zeroes, forgets writes",
  synopsis: "",
  options: zeroOptions,
  parse: () => ({}),
  print: () => [],
  async open(given, { name, size }) {
    parseOptions(zeroOptions, given, "zero");
    return new ZeroDevice(size, name);
  },
};
