/**
 * Parsers for option values on the command line: each throws what commander prints, with the option and the value, as a
 * usage error. What is out of range is told the range.
 */
import { BlockIoError, formatSize, parseSize } from "@dmkit/block-io";
import { InvalidArgumentError } from "commander";

/** A whole number in a range. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
  };
}

/** A size in bytes with an optional unit, a multiple of `multiple`; `max` is the largest number there is by default. */
export function size(
  min: number,
  multiple: number,
  max: number = Number.MAX_SAFE_INTEGER,
): (text: string) => number {
  const most = max - (max % multiple);
  const range = `from ${formatSize(min)} to ${formatSize(most)}, a multiple of ${multiple} bytes`;
  return (text) => {
    const value = bytesOf(text);
    if (value >= min && value <= most && value % multiple === 0) return value;
    throw new InvalidArgumentError(`Give a size such as 64K or 10G: ${range}.`);
  };
}

/** A size in bytes that is a power of two. */
export function powerOfTwo(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = bytesOf(text);
    if (value >= min && value <= max && Number.isInteger(Math.log2(value))) return value;
    throw new InvalidArgumentError(`Give a power of two from ${formatSize(min)} to ${formatSize(max)}.`);
  };
}

/** `NaN` for what is no size; the range is said together with what else is wrong. */
function bytesOf(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    if (error instanceof BlockIoError) return Number.NaN;
    throw error;
  }
}

/** Collects an option that may be given several times. */
export function repeated(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}
