/**
 * The manifest of an image. Little-endian; its digest is the SHA-256 of everything before the last 32 bytes, stands there,
 * and is its name in the store. So equal contents published twice are one manifest.
 *
 *      byte    size
 *         0       8   "dmkitimg"
 *         8       4   version, 1
 *        12       4   zero
 *        16       8   size of the image in bytes, a multiple of 512
 *        24       4   bytes of a chunk: a power of two, 64 KiB … 4 MiB
 *        28       4   chunks of a page, 4096
 *        32       4   pages P: as many as the chunks need
 *        36       4   chunks in the hot list, 0 … 65536
 *        40      32   digest of the parent's manifest, or zero
 *        72      32   digest of the hot list, or zero
 *       104    32·P   digest of each page, zero: all its chunks are zero
 *    104+32·P    32   SHA-256 of all before
 *
 * A page is a blob of 4096 digests (the last page of fewer): the plain bytes of each chunk; zero: the chunk is zero. The
 * last chunk of an image ends with the image. The hot list is a blob of u32: numbers of chunks, in the order in which to
 * fetch them.
 */
import { getU32, isZero, setU32, setU64, tryU64 } from "@dmkit/block-io";
import { DIGEST, type Digest, digestAt, putDigest } from "./digest.ts";

const MAGIC = Buffer.from("dmkitimg", "latin1");
const VERSION = 1;
const HEAD = 104;

/** Chunks of a page. */
export const PAGE_CHUNKS = 4096;
/** Bytes of a chunk at the least and at the most, and unless told otherwise. */
export const MIN_CHUNK: number = 64 * 1024;
/** Bytes of a chunk at most. */
export const MAX_CHUNK: number = 4 * 1024 * 1024;
/** Bytes of a chunk, unless told otherwise. */
export const DEFAULT_CHUNK: number = 512 * 1024;
/** The most chunks of a hot list. */
export const MAX_HOT = 65_536;
/** The most pages of an image: 16 MiB of digests; 1 PiB at the default chunk size. */
export const MAX_PAGES: number = 2 ** 19;
/** The most bytes of a manifest. */
export const MAX_MANIFEST: number = HEAD + DIGEST * (MAX_PAGES + 1);

/** An image: what its device needs to know before the first read. */
export interface Manifest {
  /** Bytes, a multiple of 512. */
  readonly size: number;
  /** Bytes. */
  readonly chunkSize: number;
  readonly parent: Digest | undefined;
  readonly hotList: Digest | undefined;
  /** Chunks in the hot list. */
  readonly hotCount: number;
  /** One for each page; undefined where all its chunks are zero. */
  readonly pages: readonly (Digest | undefined)[];
}

/** Chunks of an image. */
export function chunkCount(size: number, chunkSize: number): number {
  return Math.ceil(size / chunkSize);
}

/** Pages of an image. */
export function pageCount(size: number, chunkSize: number): number {
  return Math.ceil(chunkCount(size, chunkSize) / PAGE_CHUNKS);
}

/** The manifest but for its last 32 bytes, which are the digest of these. */
export function encodeManifest({ size, chunkSize, parent, hotList, hotCount, pages }: Manifest): Buffer {
  const head = Buffer.alloc(HEAD + DIGEST * pages.length);
  MAGIC.copy(head);
  setU32(head, 8, VERSION);
  setU64(head, 16, size);
  setU32(head, 24, chunkSize);
  setU32(head, 28, PAGE_CHUNKS);
  setU32(head, 32, pages.length);
  setU32(head, 36, hotCount);
  putDigest(head.subarray(40), 0, parent);
  putDigest(head.subarray(72), 0, hotList);
  for (const [index, page] of pages.entries()) putDigest(head.subarray(HEAD), index, page);
  return head;
}

/**
 * What a manifest says, or why it says nothing: `damaged`, or of a `version` this one cannot read. The digest at its end
 * has been compared by the caller.
 */
export function decodeManifest(body: Buffer): Manifest | "damaged" | "version" {
  if (body.length < HEAD + DIGEST || !body.subarray(0, 8).equals(MAGIC)) return "damaged";
  if (getU32(body, 8) !== VERSION || !isZero(body.subarray(12, 16))) return "version";
  const size = tryU64(body, 16);
  const chunkSize = getU32(body, 24);
  const count = getU32(body, 32);
  const hotCount = getU32(body, 36);
  if (size === undefined || !isImageSize(size) || !isChunkSize(chunkSize)) return "damaged";
  if (getU32(body, 28) !== PAGE_CHUNKS) return "version";
  if (count > MAX_PAGES || count !== pageCount(size, chunkSize)) return "damaged";
  if (body.length !== HEAD + DIGEST * (count + 1)) return "damaged";
  const hotList = digestAt(body.subarray(72), 0);
  if (hotCount > MAX_HOT || (hotCount === 0) !== (hotList === undefined)) return "damaged";
  const table = body.subarray(HEAD);
  const pages = Array.from({ length: count }, (_, index) => digestAt(table, index));
  return { size, chunkSize, parent: digestAt(body.subarray(40), 0), hotList, hotCount, pages };
}

/** A hot list as a blob has it. */
export function encodeHotList(chunks: readonly number[]): Buffer {
  const list = Buffer.alloc(chunks.length * 4);
  for (const [index, chunk] of chunks.entries()) setU32(list, index * 4, chunk);
  return list;
}

/** The chunks of a hot list; numbers that are none of the image's `count` chunks are left out. */
export function decodeHotList(list: Buffer, count: number): number[] {
  return Array.from({ length: list.length >> 2 }, (_, index) => getU32(list, index * 4)).filter(
    (chunk) => chunk < count,
  );
}

/** Whether an image can have this many bytes. */
export function isImageSize(size: number): boolean {
  return Number.isSafeInteger(size) && size > 0 && size % 512 === 0;
}

/** Whether chunks can have this many bytes. */
export function isChunkSize(size: number): boolean {
  return size >= MIN_CHUNK && size <= MAX_CHUNK && Number.isInteger(Math.log2(size));
}
