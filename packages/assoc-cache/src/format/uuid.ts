/** UUIDs in the metadata: sixteen zero bytes, and the empty text, are none. */
import { UUID_BYTES, isUuid, isZero, uuidBytes, uuidText } from "@dmkit/block-io";

/** In lower case. */
export function uuidToText(bytes: Buffer): string {
  return isZero(bytes) ? "" : uuidText(bytes);
}

/** Sixteen bytes, or undefined if `text` is no UUID. */
export function uuidFromText(text: string): Buffer | undefined {
  if (text === "") return Buffer.alloc(UUID_BYTES);
  return isUuid(text.toLowerCase()) ? uuidBytes(text) : undefined;
}
