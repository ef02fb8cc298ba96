/**
 * A blob: one chunk of an image, a page of its chunk table, or a hot list. Its key is the SHA-256 of the plain bytes, so
 * whoever reads it can tell whether it is right, and needs no other checksum. Little-endian.
 *
 *      byte    size
 *         0       8   "dmkitblb"
 *         8       1   codec: 0 plain, 1 zstd, 2 lz4 (a raw block)
 *         9       3   zero
 *        12       4   bytes of the plain contents, 1 … 4 MiB
 *        16           contents
 */
import { getU32, getU8, isZero, setU32, setU8 } from "@dmkit/block-io";

/** Bytes before the contents. */
export const BLOB_HEAD = 16;

/** The most plain bytes a blob has. */
export const MAX_BLOB: number = 4 * 1024 * 1024;

const MAGIC = Buffer.from("dmkitblb", "latin1");

/** How contents are stored; the place in this list is the number on disk. */
export const blobCodecs = ["none", "zstd", "lz4"] as const;

/** How blobs are compressed. */
export type BlobCodec = (typeof blobCodecs)[number];

/** A blob as it lies in the store. */
export interface StoredBlob {
  readonly codec: BlobCodec;
  /** Bytes of the plain contents. */
  readonly length: number;
  readonly contents: Buffer;
}

/** The bytes before contents that `codec` made of `length` plain bytes. */
export function encodeBlobHead(codec: BlobCodec, length: number): Buffer {
  const head = Buffer.alloc(BLOB_HEAD);
  MAGIC.copy(head);
  setU8(head, 8, blobCodecs.indexOf(codec));
  setU32(head, 12, length);
  return head;
}

/** What a body is, or undefined if it is no blob. The contents are not decompressed and not verified. */
export function decodeBlob(body: Buffer): StoredBlob | undefined {
  if (body.length < BLOB_HEAD || !body.subarray(0, 8).equals(MAGIC)) return undefined;
  const codec = blobCodecs[getU8(body, 8)];
  const length = getU32(body, 12);
  const contents = body.subarray(BLOB_HEAD);
  if (codec === undefined || !isZero(body.subarray(9, 12))) return undefined;
  if (length === 0 || length > MAX_BLOB || (codec === "none" && contents.length !== length)) return undefined;
  return { codec, length, contents };
}
