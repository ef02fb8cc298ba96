/** Checking of options. This package knows no other, so it has a check of its own. */
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

/** Throws `EINVAL` for an option there is not: one that is misspelt would be a default that nobody asked for. */
export function requireKnown(backend: string, known: readonly string[], options: unknown): void {
  const hint = `Options: ${known.join(", ")}`;
  if (typeof options !== "object" || options === null)
    throw new CompressorError(`the options are ${String(options)}`, { code: "EINVAL", backend, hint });
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw new CompressorError(`there is no option ${unknown}`, { code: "EINVAL", backend, hint });
}
