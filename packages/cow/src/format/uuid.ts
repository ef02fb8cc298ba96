/** UUIDs of layers: 16 bytes on disk, in the order of their digits. */

/** 32 hexadecimal digits in groups of 8, 4, 4, 4, 12, separated by dashes. */
export type Uuid = string;

/** Whether a value that came from outside is a UUID as this format writes it. */
export function isUuid(value: unknown): value is Uuid {
  return typeof value === "string" && /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/.test(value);
}

/** A random UUID (version 4). @param random floats in [0, 1). */
export function randomUuid(random: () => number): Uuid {
  const bytes = Buffer.from(Array.from({ length: 16 }, () => Math.floor(random() * 256)));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return uuidText(bytes);
}

export function uuidBytes(uuid: Uuid): Buffer {
  const digits = uuid.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/.test(digits)) throw new RangeError(`"${uuid}" is no UUID`);
  return Buffer.from(digits, "hex");
}

export function uuidText(bytes: Buffer): Uuid {
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
