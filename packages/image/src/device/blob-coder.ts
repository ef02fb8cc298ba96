/**
 * Blobs to bytes and back. What comes back was compared with its digest: nothing leaves here that is not what was
 * published. Compression libraries are loaded with the first blob that needs them.
 */
import { createHash } from "node:crypto";
import { type Compressor, createCompressor } from "@dmkit/compressor";
import type { BodyMemory } from "@dmkit/object-store";
import { BLOB_HEAD, type BlobCodec, MAX_BLOB, decodeBlob, encodeBlobHead } from "../format/blob.ts";
import type { Digest } from "../format/digest.ts";

// How much is tried of what is large, in bytes.
const PIECES = 16;
const PIECE = 4096;

/** Memory that is left to the garbage collector. */
export const newMemory: BodyMemory = { take: (length) => Buffer.allocUnsafeSlow(length), give: () => {} };

/** The digest of plain bytes. */
export function digestOf(bytes: Uint8Array): Digest {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Makes blobs of plain bytes, and plain bytes of blobs. */
export class BlobCoder {
  readonly #compressors = new Map<string, Promise<Compressor>>();

  /** A blob ready for the store; stored plain where compressing saves less than a sixteenth. */
  async encode(plain: Buffer, codec: BlobCodec): Promise<Buffer> {
    const packed = await this.#compress(plain, codec, 0);
    return packed ?? Buffer.concat([encodeBlobHead("none", plain.length), plain], BLOB_HEAD + plain.length);
  }

  /**
   * The same where the caller wants `room` bytes in front, to fill them: of the plain bytes behind `room` + {@link BLOB_HEAD}
   * in `body`, which is what is returned if they do not get smaller. So large ones need not be moved. Whether they get
   * smaller is judged by some pieces: lz4 takes longer to find out about all of it than everything else that is done here
   * (1.7 of 3.0 ms a MiB; 4 KiB writes with an archive). What does get smaller lies in what `memory` gives.
   */
  async encodeBehind(
    room: number,
    body: Buffer,
    codec: BlobCodec,
    memory: BodyMemory = newMemory,
  ): Promise<Buffer> {
    const plain = body.subarray(room + BLOB_HEAD);
    const packed = (await this.#promises(plain, codec)) && (await this.#compress(plain, codec, room, memory));
    if (packed) return packed;
    encodeBlobHead("none", plain.length).copy(body, room);
    return body;
  }

  /**
   * The plain bytes of a blob; undefined unless they are those that `digest` names. They are a part of `body`, or in what
   * `memory` gives, which gets back what is not returned.
   */
  async decode(body: Buffer, digest: Digest, memory: BodyMemory = newMemory): Promise<Buffer | undefined> {
    const blob = decodeBlob(body);
    if (blob === undefined) return undefined;
    const plain = await this.#plain(blob.codec, blob.contents, blob.length, memory);
    if (plain === undefined || digestOf(plain) === digest) return plain;
    if (plain !== blob.contents) memory.give(plain);
    return undefined;
  }

  async close(): Promise<void> {
    const compressors = [...this.#compressors.values()];
    this.#compressors.clear();
    await Promise.all(compressors.map(async (compressor) => (await compressor).close()));
  }

  async #plain(
    codec: BlobCodec,
    contents: Buffer,
    length: number,
    memory: BodyMemory,
  ): Promise<Buffer | undefined> {
    if (codec === "none") return contents;
    const compressor = await this.#compressor(codec);
    const into = memory.take(length);
    try {
      if ((await compressor.decompress(contents, into)) === length) return into;
      memory.give(into);
      return undefined;
    } catch (error) {
      memory.give(into);
      // Bytes that are no compressed stream; anything else is a fault of ours.
      if ((error as { code?: string }).code === "EFORMAT") return undefined;
      throw error;
    }
  }

  /** Whether pieces of it, all over, get smaller by as much as the whole has to. */
  async #promises(plain: Buffer, codec: BlobCodec): Promise<boolean> {
    if (codec === "none") return false;
    if (plain.length <= PIECES * PIECE) return true;
    const stream = await (await this.#compressor(codec)).acquire();
    try {
      let bytes = 0;
      const apart = Math.floor((plain.length - PIECE) / (PIECES - 1));
      for (let n = 0; n < PIECES; n += 1) {
        const length = stream.compressSync(plain.subarray(n * apart, n * apart + PIECE), PIECE);
        bytes += length < 0 ? PIECE : length;
      }
      return bytes <= (PIECES * PIECE * 15) / 16;
    } finally {
      stream.release();
    }
  }

  /** A compressed blob behind `room` bytes; undefined where that does not save enough. */
  async #compress(
    plain: Buffer,
    codec: BlobCodec,
    room: number,
    memory: BodyMemory = newMemory,
  ): Promise<Buffer | undefined> {
    if (codec === "none") return undefined;
    const stream = await (await this.#compressor(codec)).acquire();
    try {
      const length = await stream.compress(plain, plain.length - (plain.length >> 4));
      if (length < 0) return undefined;
      const body = memory.take(room + BLOB_HEAD + length);
      encodeBlobHead(codec, plain.length).copy(body, room);
      stream.output.copy(body, room + BLOB_HEAD, 0, length);
      return body;
    } finally {
      stream.release();
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
