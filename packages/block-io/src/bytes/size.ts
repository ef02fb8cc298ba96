/** Sizes as people write them: `4096`, `512`, `64K`, `1.5M`, `10G`, `2TiB`. */
import { SECTOR } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";

// K, M, G … are powers of 1024, as in every tool this one is used beside. `s` is a sector.
const units: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  s: SECTOR,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
};

/** Bytes; throws `EPARSE` for anything that is not a whole number of bytes in 0 … 2^53 - 1. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]?)(?:i?b)?$/i.exec(text.trim());
  const unit = units[match?.[2]?.toLowerCase() ?? "?"];
  const bytes = unit === undefined ? Number.NaN : Number(match?.[1]) * unit;
  if (Number.isSafeInteger(bytes)) return bytes;
  const refuse = (reason: string, hint: string): BlockIoError =>
    new BlockIoError(`"${text}" ${reason}`, { code: "EPARSE", op: "parse", hint });
  if (bytes > Number.MAX_SAFE_INTEGER)
    throw refuse("is too large for a size", `Sizes are 0 … ${Number.MAX_SAFE_INTEGER} bytes.`);
  if (Number.isFinite(bytes)) throw refuse("is no whole number of bytes", "Write it in a smaller unit.");
  throw refuse(
    "is not a size",
    "Write a number of bytes, or one with a unit: 512, 64K, 1.5M, 10G, 2T; 8s is 8 sectors of 512 bytes.",
  );
}

/** The shortest exact way to write a size: 65536 is `64K`, 1000 is `1000`. */
export function formatSize(bytes: number): string {
  for (const unit of ["P", "T", "G", "M", "K"]) {
    const factor = units[unit.toLowerCase()] as number;
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return String(bytes);
}

/** For people, rounded: `1.5 GiB`. */
export function describeSize(bytes: number): string {
  const names = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < names.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(value < 10 ? 2 : 1)} ${names[index] ?? ""}`;
}
