/** What both ways to LZ4 have in common. */

/** Name of the backend. */
export const LZ4 = "lz4";

/** For people. */
export const LZ4_DESCRIPTION =
  "LZ4 blocks through the system's liblz4 or lz4-napi, or slower where neither can be loaded; fast, the default";

/** The reference library's bound for its fast mode. */
export function lz4Bound(length: number): number {
  return length + Math.floor(length / 255) + 16;
}
