/**
 * The outer structure of a Zstandard frame (RFC 8878), walked before a byte is handed to the library: so that
 * the size of the output is known and bounded beforehand, nothing follows the frame, and no hostile frame can
 * ask for a large window.
 *
 * ```
 * magic 28 b5 2f fd | header | block … block | checksum, 4 bytes, if announced
 *
 * header:  descriptor | window, 1 byte unless single segment | dictionary's number | content size, 0 1 2 4 or 8 bytes
 *
 * descriptor:  bits 7-6  size of the content size: 0 (1 if single segment), 2, 4, 8 bytes
 *              bit  5    single segment: the window is the content
 *              bit  4    unused
 *              bit  3    reserved, 0
 *              bit  2    a checksum follows the last block
 *              bits 1-0  size of a dictionary's number: 0, 1, 2, 4 bytes, behind the window; 0 where none is used,
 *                        or one that has no number
 * window:      bits 7-3  exponent e, bits 2-0 mantissa m: (8 + m) × 2^(e + 7) bytes
 * block:       3 bytes, little-endian: bit 0 last block, bits 2-1 type, bits 23-3 size; then its bytes
 * type:        0 stored (size bytes), 1 one byte repeated (1 byte), 2 compressed (size bytes), 3 reserved
 * ```
 */
import { corrupt } from "../errors.ts";

const NAME = "zstd";
const MAGIC = [0x28, 0xb5, 0x2f, 0xfd] as const;
/** What every decoder is advised to support; levels up to 19 stay within it. */
const MAX_WINDOW = 8 * 1024 * 1024;
const MAX_BLOCK = 128 * 1024;

/**
 * The length of the frame's content, in bytes, as the frame states it.
 *
 * @throws CompressorError `EFORMAT`: `src` is not exactly one frame whose content is `limit` bytes or less, or
 *   the frame does not state the size of its content, or needs a dictionary (unless there is one) or a window above 8 MiB.
 */
export function zstdContentSize(src: Uint8Array, limit: number, hasDictionary = false): number {
  const header = parseHeader(src, hasDictionary);
  if (header.contentSize > limit) throw corrupt(NAME, "the output is longer than its buffer", 4);
  const end = walkBlocks(src, header.end) + (header.checksum ? 4 : 0);
  if (end !== src.length) {
    throw corrupt(NAME, end > src.length ? "the input ends inside the frame" : "bytes follow the frame", end);
  }
  return header.contentSize;
}

interface Header {
  readonly contentSize: number;
  readonly checksum: boolean;
  /** Where the first block begins. */
  readonly end: number;
}

function parseHeader(src: Uint8Array, hasDictionary: boolean): Header {
  if (src.length < 5 || !MAGIC.every((byte, at) => src[at] === byte)) {
    throw corrupt(NAME, "the input does not begin like a frame", 0);
  }
  const descriptor = src[4] as number;
  const single = (descriptor & 0x20) !== 0;
  const sizeLength = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6] as number;
  if ((descriptor & 0x08) !== 0) throw corrupt(NAME, "a reserved bit is set", 4);
  const numberLength = [0, 1, 2, 4][descriptor & 0x03] as number;
  if (numberLength > 0 && !hasDictionary) throw corrupt(NAME, "the frame needs a dictionary", 4);
  if (sizeLength === 0) throw corrupt(NAME, "the frame does not state the size of its content", 4);

  let at = 5;
  if (!single) {
    const window = src[at] ?? 0xff;
    if ((8 + (window & 7)) * 2 ** ((window >>> 3) + 7) > MAX_WINDOW) {
      throw corrupt(NAME, "the frame's window is too large", at);
    }
    at += 1;
  }
  at += numberLength;
  if (sizeLength > src.length - at) throw corrupt(NAME, "the input ends inside the frame's header", at);
  let contentSize = sizeLength === 2 ? 256 : 0;
  for (let i = 0; i < sizeLength; i += 1) contentSize += (src[at + i] as number) * 256 ** i;
  return { contentSize, checksum: (descriptor & 0x04) !== 0, end: at + sizeLength };
}

/** Where the last block ends; may lie beyond `src`, by less than a block. */
function walkBlocks(src: Uint8Array, start: number): number {
  let at = start;
  for (;;) {
    if (src.length - at < 3) throw corrupt(NAME, "the input ends without a last block", at);
    const block = (src[at] as number) | ((src[at + 1] as number) << 8) | ((src[at + 2] as number) << 16);
    const type = (block >>> 1) & 3;
    const size = block >>> 3;
    if (type === 3) throw corrupt(NAME, "a block is of a reserved type", at);
    if (size > MAX_BLOCK) throw corrupt(NAME, "a block is longer than blocks may be", at);
    at += 3 + (type === 1 ? 1 : size);
    if ((block & 1) !== 0) return at;
  }
}
