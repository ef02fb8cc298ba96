/** Strings on the wire: UTF-8 without NUL, at most 4096 bytes, their length beside them. */
import { BlockIoError, didYouMean, printable } from "@dmkit/block-io";
import { MAX_STRING } from "./constants.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** What a peer sent does not follow the protocol. */
export function protocolError(reason: string, cause?: unknown): BlockIoError {
  return new BlockIoError(reason, { code: "EPROTO", cause });
}

/** Throws `EPROTO` if the bytes are longer than 4096, not UTF-8, or contain a NUL. */
export function decodeText(bytes: Uint8Array, what: string): string {
  if (bytes.length > MAX_STRING) {
    throw protocolError(`${what} of ${bytes.length} bytes is longer than ${MAX_STRING}`);
  }
  if (bytes.includes(0)) throw protocolError(`${what} contains a NUL byte`);
  try {
    return decoder.decode(bytes);
  } catch (error) {
    throw protocolError(`${what} is not valid UTF-8`, error);
  }
}

/** For text that is only shown: as much of it as can be read, and whether that is all and exact. */
export function readText(bytes: Uint8Array): { readonly text: string; readonly exact: boolean } {
  const clipped = bytes.subarray(0, MAX_STRING);
  try {
    if (bytes.length <= MAX_STRING && !bytes.includes(0)) return { text: decoder.decode(bytes), exact: true };
  } catch {
    // Told as well as it can be.
  }
  return { text: lenient.decode(clipped), exact: false };
}

/** Throws `EINVAL` if `text` is longer than 4096 bytes or contains a NUL: it cannot be sent. */
export function encodeText(text: string, what: string): Buffer {
  const bytes = Buffer.from(text, "utf8");
  if (bytes.length > MAX_STRING || bytes.includes(0)) {
    throw new BlockIoError(`${what} is longer than ${MAX_STRING} bytes or contains a NUL`, {
      code: "EINVAL",
    });
  }
  return bytes;
}

/** A text for human eyes, cut at a character boundary if it is longer than `limit` bytes. */
export function clipText(text: string, limit: number = MAX_STRING): Buffer {
  const bytes = Buffer.from(text, "utf8");
  if (bytes.length <= limit) return bytes;
  let end = limit;
  // Bytes 10xxxxxx continue a character.
  while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}

// Of many names a person reads the first.
const SHOWN = 12;

/** A hint for whoever gave a name that nobody knows; undefined where there are no names. */
export function knownNames(name: string, names: readonly string[]): string | undefined {
  if (names.length === 0) return undefined;
  const shown = names.slice(0, SHOWN).map((one) => (one === "" ? '""' : one));
  const more = names.length > SHOWN ? ` … (${names.length})` : "";
  return printable(`${didYouMean(name, names)}There are: ${shown.join(", ")}${more}.`);
}
