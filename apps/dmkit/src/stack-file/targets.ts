/**
 * What stack files know of a target besides its table of options. All of it is optional: a target that is not listed
 * here has its own defaults, and a device of it says its size.
 */
import { cacheOptions } from "@dmkit/assoc-cache";
import { friendlyTunables } from "@dmkit/writeboost";
import type { LengthRule } from "./plan.ts";

export type Options = Readonly<Record<string, unknown>>;

export interface StackTarget {
  /** Values of options that are not given, where a stack file should differ from a table. */
  readonly defaults?: (given: Options) => Options;
  /** What is wrong between options that are right by themselves: the option, and what to do. */
  readonly conflict?: (options: Options) => { readonly option: string; readonly what: string } | undefined;
  /** How long a device is that does not say its size; options as they are checked. */
  readonly length?: (options: Options) => LengthRule;
}

function rest(device: string, offset?: string): (options: Options) => LengthRule {
  return (options) => ({
    parts: [
      { of: options[device] as string, offset: offset === undefined ? 0 : (options[offset] as number) },
    ],
    multiple: 1,
  });
}

export const stackTargets: Readonly<Record<string, StackTarget>> = {
  linear: { length: rest("device", "offset") },
  delay: { length: rest("device", "offset") },
  flakey: { length: rest("device", "offset") },
  "log-writes": { length: rest("device") },
  striped: {
    length: ({ chunk, stripes }) => ({
      parts: (stripes as readonly { device: string; offset: number }[]).map(({ device, offset }) => ({
        of: device,
        offset,
      })),
      multiple: chunk as number,
    }),
  },
  writeboost: {
    defaults: (given) => ({ type: given["plog"] === undefined ? 0 : 1, ...friendlyTunables(given) }),
    conflict: ({ type, plog }) =>
      (type === 1) === (plog !== undefined)
        ? undefined
        : { option: "type", what: type === 1 ? "type 1 needs a plog" : "type 0 has no plog" },
    length: rest("backing"),
  },
  cache: {
    // A cache smaller than the default associativity has one set, as in tables.
    // And a server that is started again goes on with the cache it made the first time.
    defaults: ({ cache_size: size }) => ({
      persistence: 2,
      ...(typeof size === "number" && size < cacheOptions.associativity.default
        ? { associativity: size }
        : {}),
    }),
    length: rest("source"),
  },
  cow: { length: rest("base", "base_offset") },
  image: {
    length: ({ image }) => ({ parts: [{ of: `image:${image as string}`, offset: 0 }], multiple: 1 }),
  },
};
