/** Parsers for option values on the command line: each throws what commander prints as a usage error. */
import { parseSize } from "@dmkit/block-io";
import { InvalidArgumentError } from "commander";

/** A whole number in a range. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
  };
}

/** A size in bytes with an optional unit, at least `min` and a multiple of `multiple`. */
export function size(min: number, multiple: number): (text: string) => number {
  return (text) => {
    let value = Number.NaN;
    try {
      value = parseSize(text);
    } catch {
      // Said below, together with the range.
    }
    if (value >= min && value % multiple === 0) return value;
    throw new InvalidArgumentError(
      `Give a size such as 64K or 10G: at least ${min}, a multiple of ${multiple} bytes.`,
    );
  };
}

/** Collects an option that may be given several times. */
export function repeated(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}
