/**
 * The two dialects' checksums. Both are CRC-32C; `classic` leaves out the final inversion.
 *
 *      input               classic       v2
 *      "123456789"         486108540     0xE3069283
 *      3584 zero bytes     4151263722    143703573
 */
import { crc32c, rawCrc32c } from "@dmkit/block-io";

/** `classic`: 2014 to 2.0.1. `v2`: 2.0.2 and later; segment size order 10 only, no plog. */
export type Dialect = "classic" | "v2";

/** All dialects, the one that a new cache has first. */
export const dialects: readonly Dialect[] = ["classic", "v2"];

export function checksum(dialect: Dialect, bytes: Uint8Array): number {
  return dialect === "classic" ? rawCrc32c(bytes) : crc32c(bytes);
}

/** The dialect in which `stored` is the checksum of `bytes`: at most one. */
export function dialectOfChecksum(stored: number, bytes: Uint8Array): Dialect | undefined {
  const plain = rawCrc32c(bytes);
  if (stored === plain) return "classic";
  return stored === ~plain >>> 0 ? "v2" : undefined;
}
