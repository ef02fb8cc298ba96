/** UUIDs as 16 bytes on disk and as text: big-endian groups of 4, 2, 2, 2 and 6 bytes. */

export const UUID_BYTES = 16;

const PATTERN = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

/** Lower-case text form; sixteen zero bytes are the empty string: no UUID. */
export function uuidToText(bytes: Uint8Array): string {
  if (bytes.every((byte) => byte === 0)) return "";
  const digits = Buffer.from(bytes).toString("hex");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Sixteen bytes, or undefined if `text` is no UUID. The empty string gives zeroes. */
export function uuidFromText(text: string): Buffer | undefined {
  if (text === "") return Buffer.alloc(UUID_BYTES);
  return PATTERN.test(text) ? Buffer.from(text.replaceAll("-", ""), "hex") : undefined;
}

/** A random (version 4) UUID as text; `random` gives floats in [0, 1). */
export function randomUuid(random: () => number): string {
  const bytes = Buffer.from(Array.from({ length: UUID_BYTES }, () => Math.floor(random() * 256)));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return uuidToText(bytes);
}
