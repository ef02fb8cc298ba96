/**
 * Blobs to bytes and back. What comes back was compared with its digest: nothing leaves here that is not what was
 * published. Compression libraries are loaded with the first blob that needs them.
 */
import { createHash } from "node:crypto";
import { type Compressor, createCompressor } from "@dmkit/compressor";
import { BLOB_HEAD, type BlobCodec, MAX_BLOB, decodeBlob, encodeBlobHead } from "../format/blob.ts";
import type { Digest } from "../format/digest.ts";

/** The digest of plain bytes. */
export function digestOf(bytes: Uint8Array): Digest {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Makes blobs of plain bytes, and plain bytes of blobs. */
export class BlobCoder {
  readonly #compressors = new Map<string, Promise<Compressor>>();

  /** A blob ready for the store; stored plain where compressing saves less than a sixteenth. */
  async encode(plain: Buffer, codec: BlobCodec): Promise<Buffer> {
    if (codec !== "none") {
      const stream = await (await this.#compressor(codec)).acquire();
      try {
        const limit = plain.length - (plain.length >> 4);
        const length = await stream.compress(plain, limit);
        if (length >= 0) {
          return Buffer.concat([encodeBlobHead(codec, plain.length), stream.output.subarray(0, length)]);
        }
      } finally {
        stream.release();
      }
    }
    return Buffer.concat([encodeBlobHead("none", plain.length), plain], BLOB_HEAD + plain.length);
  }

  /** The plain bytes of a blob; undefined unless they are those that `digest` names. */
  async decode(body: Buffer, digest: Digest): Promise<Buffer | undefined> {
    const blob = decodeBlob(body);
    if (blob === undefined) return undefined;
    const plain = await this.#plain(blob.codec, blob.contents, blob.length);
    return plain !== undefined && digestOf(plain) === digest ? plain : undefined;
  }

  async close(): Promise<void> {
    const compressors = [...this.#compressors.values()];
    this.#compressors.clear();
    await Promise.all(compressors.map(async (compressor) => (await compressor).close()));
  }

  async #plain(codec: BlobCodec, contents: Buffer, length: number): Promise<Buffer | undefined> {
    if (codec === "none") return contents;
    const compressor = await this.#compressor(codec);
    const into = Buffer.allocUnsafeSlow(length);
    try {
      return (await compressor.decompress(contents, into)) === length ? into : undefined;
    } catch (error) {
      // Bytes that are no compressed stream; anything else is a fault of ours.
      if ((error as { code?: string }).code === "EFORMAT") return undefined;
      throw error;
    }
  }

  #compressor(codec: BlobCodec): Promise<Compressor> {
    const known = this.#compressors.get(codec);
    if (known !== undefined) return known;
    const made = createCompressor(codec, { maxInput: MAX_BLOB });
    made.catch(() => this.#compressors.delete(codec));
    this.#compressors.set(codec, made);
    return made;
  }
}
