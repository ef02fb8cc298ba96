/** UUIDs: 16 bytes on disk, in the order of their digits; as text groups of 8, 4, 4, 4 and 12 digits. */
import type { Random } from "../contract/environment.ts";

/** Bytes of a UUID on disk. */
export const UUID_BYTES = 16;

/** Whether it is one as {@link uuidText} writes them: in lower case. */
export function isUuid(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/.test(value);
}

/** @param bytes 16 of them. */
export function uuidText(bytes: Uint8Array): string {
  const digits = Buffer.from(bytes).toString("hex");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** The bytes of a text, with or without dashes. Throws `RangeError` for what is no UUID: texts from outside are checked. */
export function uuidBytes(text: string): Buffer {
  const digits = text.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/i.test(digits)) throw new RangeError(`"${text}" is no UUID`);
  return Buffer.from(digits, "hex");
}

/** A random one (version 4), as text. */
export function randomUuid(random: Random): string {
  const bytes = Buffer.from(Array.from({ length: UUID_BYTES }, () => Math.floor(random.next() * 256)));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return uuidText(bytes);
}

/** 32 random hexadecimal digits, all of them: no UUID of any version. */
export function randomDigits(random: Random): string {
  return Array.from({ length: 2 * UUID_BYTES }, () => Math.floor(random.next() * 16).toString(16)).join("");
}
