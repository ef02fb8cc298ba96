/**
 * LZO1X decompressor for hostile input. The stream is described in lzo1x.ts.
 *
 * Invariants, checked before every access and never by adding to an untrusted number:
 * - `ip <= src.length` and `op <= dst.length` always;
 * - a byte is read only where `ip < src.length`; `n` bytes are copied only where `n <= src.length - ip` and
 *   `n <= dst.length - op`; a match is copied only where `distance <= op`;
 * - every turn of the loop consumes at least one byte of `src`, so it ends;
 * - success means that the end mark was the last three bytes of `src`: a stream that is cut short, or that has
 *   bytes after its end, is an error.
 */
import { corrupt } from "../errors.ts";
import { copyLiterals, copyMatch } from "./copy.ts";
import {
  FAR_FIELD,
  FIRST_RUN,
  MATCH_BASE,
  MIDDLE_DISTANCE,
  MIDDLE_FIELD,
  RUN_BASE,
  RUN_FIELD,
} from "./lzo1x.ts";

const NAME = "lzo";

/**
 * Decompresses one LZO1X stream that fills the whole of `src`.
 *
 * @returns the number of bytes written to `dst`, from its start.
 * @throws CompressorError `EFORMAT`: the bytes are not one well-formed stream, or yield more than `dst` holds.
 *   `dst` then holds an undefined mixture.
 */
export function lzo1xDecompress(src: Uint8Array, dst: Uint8Array): number {
  const ipEnd = src.length;
  const opEnd = dst.length;
  let ip = 0;
  let op = 0;
  /** Literals copied by the previous instruction, 0 … 4: see the table of instructions. */
  let state = 0;
  /** Literals to copy before the next instruction. */
  let run = 0;

  const first = ipEnd > 0 ? (src[0] as number) : 0;
  if (first > FIRST_RUN) {
    ip = 1;
    run = first - FIRST_RUN;
    state = run < 4 ? run : 4;
  }

  for (;;) {
    if (run > 0) {
      if (run > ipEnd - ip) throw corrupt(NAME, "the input ends inside a run of literals", ip);
      if (run > opEnd - op) throw corrupt(NAME, "the output is longer than its buffer", ip);
      copyLiterals(src, ip, dst, op, run);
      ip += run;
      op += run;
    }

    if (ip >= ipEnd) throw corrupt(NAME, "the input ends without an end mark", ip);
    const code = src[ip] as number;
    ip += 1;
    let length: number;
    let distance: number;

    if (code < 16 && state === 0) {
      run = code;
      if (code === 0) {
        const zeroes = countZeroes(src, ip);
        ip += zeroes + 1;
        if (ip > ipEnd) throw corrupt(NAME, "the input ends inside a length", ip);
        run = RUN_FIELD + zeroes * 255 + (src[ip - 1] as number);
      }
      run += RUN_BASE;
      state = 4;
      continue;
    }

    if (code >= 64 || code < 16) {
      if (ip >= ipEnd) throw corrupt(NAME, "the input ends inside a match", ip);
      const high = src[ip] as number;
      ip += 1;
      run = code & 3;
      if (code >= 64) {
        length = (code >>> 5) + 1;
        distance = (high << 3) + ((code >>> 2) & 7) + 1;
      } else {
        length = state === 4 ? 3 : 2;
        distance = (high << 2) + (code >>> 2) + (state === 4 ? 2049 : 1);
      }
    } else {
      const field = code >= 32 ? MIDDLE_FIELD : FAR_FIELD;
      length = code & field;
      if (length === 0) {
        const zeroes = countZeroes(src, ip);
        ip += zeroes + 1;
        if (ip > ipEnd) throw corrupt(NAME, "the input ends inside a length", ip);
        length = field + zeroes * 255 + (src[ip - 1] as number);
      }
      length += MATCH_BASE;
      if (ipEnd - ip < 2) throw corrupt(NAME, "the input ends inside a match", ip);
      const word = (src[ip] as number) | ((src[ip + 1] as number) << 8);
      ip += 2;
      run = word & 3;
      distance = (word >>> 2) + 1;
      if (code < 32) {
        distance += MIDDLE_DISTANCE - 1 + ((code & 8) << 11);
        if (distance === MIDDLE_DISTANCE) {
          if (length !== 3 || run !== 0) throw corrupt(NAME, "the end mark is malformed", ip);
          if (ip !== ipEnd) throw corrupt(NAME, "bytes follow the end mark", ip);
          return op;
        }
      }
    }

    if (distance > op) throw corrupt(NAME, "a match reaches back before the start of the output", ip);
    if (length > opEnd - op) throw corrupt(NAME, "the output is longer than its buffer", ip);
    copyMatch(dst, op, distance, length);
    op += length;
    state = run;
  }
}

/** How many 00 bytes there are from `at` on. */
function countZeroes(src: Uint8Array, at: number): number {
  let end = at;
  while (end < src.length && src[end] === 0) end += 1;
  return end - at;
}
