/**
 * LZ4 blocks in plain JavaScript, for where the native library cannot be loaded: what it writes any decoder reads, and it
 * reads what any encoder writes. Slower, and a block is a little longer. The format: lz4-decode.ts; besides, the last five
 * bytes are literals, and the last match begins twelve bytes before the end at the latest.
 *
 * Invariant of the decoder: nothing is copied before its length was compared with what is left of both buffers.
 */
import { copyLiterals, copyMatch } from "./copy.ts";

const SHORTEST = 4;
const LAST_LITERALS = 5;
const LAST_MATCH = 12;
const FARTHEST = 65_535;
const HASH_BITS = 13;

/** One whole block. */
export function lz4Compress(src: Uint8Array): Buffer {
  const dst = Buffer.allocUnsafe(src.length + Math.floor(src.length / 255) + 16);
  // Where four bytes of a hash were seen last, counted from 1.
  const seen = new Int32Array(1 << HASH_BITS);
  let op = 0;
  let anchor = 0;
  for (let ip = 0; ip <= src.length - LAST_MATCH; ) {
    const four = fourBytes(src, ip);
    const hash = Math.imul(four, 0x9e37_79b1) >>> (32 - HASH_BITS);
    const from = (seen[hash] as number) - 1;
    seen[hash] = ip + 1;
    if (from < 0 || ip - from > FARTHEST || fourBytes(src, from) !== four) {
      // Where nothing repeats, fewer places are looked at.
      ip += 1 + ((ip - anchor) >>> 6);
      continue;
    }
    const most = src.length - LAST_LITERALS - ip;
    let length = SHORTEST;
    while (length < most && src[from + length] === src[ip + length]) length += 1;
    op = putLiterals(dst, op, src.subarray(anchor, ip), Math.min(15, length - SHORTEST));
    dst[op] = ip - from;
    dst[op + 1] = (ip - from) >>> 8;
    op = putLength(dst, op + 2, length - SHORTEST);
    ip += length;
    anchor = ip;
  }
  return dst.subarray(0, putLiterals(dst, op, src.subarray(anchor), 0));
}

/** Decodes one whole block. @returns bytes written to `dst`; -1: no block, or it yields more than `dst` holds. */
export function lz4Decompress(src: Uint8Array, dst: Uint8Array): number {
  let ip = 0;
  let op = 0;
  let length = 0;
  /** Adds what follows a full half of a token; false: it goes on behind the end. */
  const more = (): boolean => {
    for (;;) {
      const byte = src[ip];
      if (byte === undefined) return false;
      ip += 1;
      length += byte;
      if (byte !== 255) return true;
    }
  };
  for (;;) {
    const token = src[ip];
    if (token === undefined) return -1;
    ip += 1;
    length = token >>> 4;
    if (length === 15 && !more()) return -1;
    if (length > src.length - ip || length > dst.length - op) return -1;
    copyLiterals(src, ip, dst, op, length);
    ip += length;
    op += length;
    if (ip === src.length) return op;
    if (src.length - ip < 2) return -1;
    const distance = (src[ip] as number) | ((src[ip + 1] as number) << 8);
    ip += 2;
    length = token & 15;
    if (length === 15 && !more()) return -1;
    length += SHORTEST;
    if (distance === 0 || distance > op || length > dst.length - op) return -1;
    copyMatch(dst, op, distance, length);
    op += length;
  }
}

function fourBytes(src: Uint8Array, at: number): number {
  return (
    (src[at] as number) |
    ((src[at + 1] as number) << 8) |
    ((src[at + 2] as number) << 16) |
    ((src[at + 3] as number) << 24)
  );
}

/** A token, what its upper half does not hold of the length, and the literals; returns where they end. */
function putLiterals(dst: Uint8Array, op: number, literals: Uint8Array, match: number): number {
  dst[op] = (Math.min(15, literals.length) << 4) | match;
  const at = putLength(dst, op + 1, literals.length);
  dst.set(literals, at);
  return at + literals.length;
}

/** What half a token does not hold of a length. */
function putLength(dst: Uint8Array, op: number, length: number): number {
  let at = op;
  if (length < 15) return at;
  let left = length - 15;
  for (; left >= 255; left -= 255, at += 1) dst[at] = 255;
  dst[at] = left;
  return at + 1;
}
