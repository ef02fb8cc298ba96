/**
 * A digest: SHA-256, 32 bytes; as text 64 lower-case hexadecimal digits. 32 zero bytes stand for "all zeroes" or "none":
 * no input is known that hashes to them.
 */
import { BlockIoError, isZero } from "@dmkit/block-io";

/** Bytes of a digest. */
export const DIGEST = 32;

/** As text: the name of what has it. */
export type Digest = string;

/** Whether `text` is a digest. */
export function isDigest(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text);
}

/** Throws `EINVAL` for what is no digest. */
export function requireDigest(text: string): Digest {
  if (typeof text === "string" && isDigest(text)) return text;
  throw new BlockIoError(`${JSON.stringify(text)} is no digest`, {
    code: "EINVAL",
    hint: "A digest has 64 hexadecimal digits, in lower case.",
  });
}

/** The digest at a place of a table, undefined where there is none. */
export function digestAt(table: Buffer, index: number): Digest | undefined {
  const bytes = table.subarray(index * DIGEST, (index + 1) * DIGEST);
  return isZero(bytes) ? undefined : bytes.toString("hex");
}

/** The digests in a table, in order. */
export function* digestsOf(table: Buffer): Generator<Digest> {
  for (let index = 0; index < table.length / DIGEST; index += 1) {
    const digest = digestAt(table, index);
    if (digest !== undefined) yield digest;
  }
}

/** Writes a digest to a place of a table; undefined as zeroes. */
export function putDigest(table: Buffer, index: number, digest: Digest | undefined): void {
  if (digest === undefined) table.fill(0, index * DIGEST, (index + 1) * DIGEST);
  else table.write(digest, index * DIGEST, DIGEST, "hex");
}
