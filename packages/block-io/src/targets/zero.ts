/** `zero`: reads as zeroes, forgets writes. */
import { ZeroDevice } from "../devices/zero.ts";
import type { Target } from "../target.ts";

export const zeroOptions = {} as const;

export type ZeroOptions = Readonly<Record<string, never>>;

export const zero: Target<ZeroOptions> = {
  name: "zero",
  version: [1, 0, 0],
  summary: "reads as zeroes, forgets writes",
  synopsis: "",
  options: zeroOptions,
  parse: () => ({}),
  print: () => [],
  open: async (_options, { name, size }) => new ZeroDevice(size, name),
};
