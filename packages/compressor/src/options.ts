/** Checking of numeric options. */
import { CompressorError } from "./errors.ts";

/** `value`, or `fallback` where it is undefined; throws `EINVAL` unless it is an integer in min … max. */
export function integerOption(
  backend: string,
  option: string,
  value: number | undefined,
  min: number,
  max: number,
  fallback: number,
): number {
  if (value === undefined) return fallback;
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  const range = min === max ? `only ${min}` : `an integer in ${min} … ${max}`;
  throw new CompressorError(`${option} is ${String(value)}`, {
    code: "EINVAL",
    backend,
    hint: `It can be ${range} here`,
  });
}
