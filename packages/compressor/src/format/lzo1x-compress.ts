/**
 * LZO1X compressor: one pass, greedy, one candidate per hash of four bytes. The stream is described in
 * lzo1x.ts.
 *
 * Invariants:
 * - `op <= dst.length` always: {@link Writer} asks for the room of a whole sequence before it writes a byte;
 * - the output depends on the input alone, not on what was compressed before: positions are stored in the
 *   table with `base` added, `base` grows past all of them from one call to the next, so that entries of
 *   earlier calls are seen to be old (and nothing need be cleared);
 * - the literals before a match, together with their header, are never longer than `length + length / 255 + 3`,
 *   and a match never longer than what it stands for: hence {@link lzo1xBound}.
 */
import { copyLiterals } from "./copy.ts";
import {
  END_LENGTH,
  FAR_DISTANCE,
  FAR_FIELD,
  FIRST_RUN,
  FIRST_RUN_MAX,
  MATCH_BASE,
  MIDDLE_DISTANCE,
  MIDDLE_FIELD,
  NEAR_DISTANCE,
  NEAR_LENGTH,
  RUN_BASE,
  RUN_FIELD,
} from "./lzo1x.ts";

/** Bits of a table index for inputs above {@link SMALL_INPUT}, and for those up to it (fits a level-1 cache). */
const TABLE_BITS = 14;
const SMALL_TABLE_BITS = 12;
const SMALL_INPUT = 8192;

const MIN_MATCH = 4;
/** After 2^this bytes without a match the search begins to skip, ever faster. */
const SKIP_SHIFT = 5;
/** `base` is wound back before positions could leave 31 bits. */
const BASE_LIMIT = 0x3fff_ffff;

/** Working memory: 64 KiB. One compression at a time. */
export interface Lzo1xContext {
  readonly table: Int32Array;
  base: number;
}

export function createLzo1xContext(): Lzo1xContext {
  return { table: new Int32Array(1 << TABLE_BITS), base: 1 };
}

/** The most bytes that compressing `length` bytes can yield; the same bound as liblzo2 states. */
export function lzo1xBound(length: number): number {
  return length + Math.floor(length / 16) + 64 + END_LENGTH;
}

/**
 * Compresses all of `src` into one LZO1X stream.
 *
 * @returns the number of bytes written to `dst`, or -1 if they do not fit (`dst` then holds an undefined
 *   mixture).
 */
export function lzo1xCompress(src: Uint8Array, dst: Uint8Array, context: Lzo1xContext): number {
  const { table } = context;
  const length = src.length;
  if (context.base > BASE_LIMIT - length) {
    table.fill(0);
    context.base = 1;
  }
  const base = context.base;
  context.base += length;

  const shift = 32 - (length > SMALL_INPUT ? TABLE_BITS : SMALL_TABLE_BITS);
  const view = new DataView(src.buffer, src.byteOffset, length);
  const searchEnd = length - MIN_MATCH;
  let op = 0;
  let literals = 0; // where the literals not yet written begin
  let ip = 0;

  while (ip <= searchEnd) {
    const word = view.getInt32(ip, true);
    const slot = Math.imul(word, 0x9e3779b1) >>> shift;
    const candidate = (table[slot] as number) - base;
    table[slot] = ip + base;
    if (candidate < 0 || ip - candidate > FAR_DISTANCE || view.getInt32(candidate, true) !== word) {
      ip += 1 + ((ip - literals) >>> SKIP_SHIFT);
      continue;
    }
    const matched = matchLength(view, candidate, ip, length);
    op = writeLiterals(src, literals, ip - literals, dst, op);
    if (op < 0) return -1;
    op = writeMatch(dst, op, ip - candidate, matched);
    if (op < 0) return -1;
    ip += matched;
    literals = ip;
  }

  op = writeLiterals(src, literals, length - literals, dst, op);
  if (op < 0 || op > dst.length - END_LENGTH) return -1;
  dst[op] = 0x11;
  dst[op + 1] = 0;
  dst[op + 2] = 0;
  return op + END_LENGTH;
}

/** How many bytes from `ip` on equal those from `candidate` on; four are known to. */
function matchLength(view: DataView, candidate: number, ip: number, end: number): number {
  let a = candidate + MIN_MATCH;
  let b = ip + MIN_MATCH;
  while (b <= end - 4 && view.getInt32(a, true) === view.getInt32(b, true)) {
    a += 4;
    b += 4;
  }
  while (b < end && view.getUint8(a) === view.getUint8(b)) {
    a += 1;
    b += 1;
  }
  return b - ip;
}

/** Writes `run` literals of `src` from `from` on; returns the new `op`, or -1 if there is no room. */
function writeLiterals(src: Uint8Array, from: number, run: number, dst: Uint8Array, op: number): number {
  if (run === 0) return op;
  let at = op;
  if (op === 0 && run <= FIRST_RUN_MAX) {
    if (run + 1 > dst.length) return -1;
    dst[at] = FIRST_RUN + run;
    at += 1;
  } else if (op > 0 && run < 4) {
    // They go into the SS bits of the match before: its last byte but one, whatever its kind.
    if (run > dst.length - at) return -1;
    dst[at - 2] = (dst[at - 2] as number) | run;
  } else {
    const field = run - RUN_BASE;
    if (headerSize(field, RUN_FIELD) + run > dst.length - at) return -1;
    at = writeHeader(dst, at, 0, field, RUN_FIELD);
  }
  copyLiterals(src, from, dst, at, run);
  return at + run;
}

/** Writes a match of 4 bytes or more, SS = 0; returns the new `op`, or -1 if there is no room. */
function writeMatch(dst: Uint8Array, op: number, distance: number, length: number): number {
  if (distance <= NEAR_DISTANCE && length <= NEAR_LENGTH) {
    if (dst.length - op < 2) return -1;
    const back = distance - 1;
    dst[op] = ((length - 1) << 5) | ((back & 7) << 2);
    dst[op + 1] = back >>> 3;
    return op + 2;
  }
  const field = length - MATCH_BASE;
  let at: number;
  let back: number;
  if (distance <= MIDDLE_DISTANCE) {
    if (headerSize(field, MIDDLE_FIELD) + 2 > dst.length - op) return -1;
    at = writeHeader(dst, op, 0x20, field, MIDDLE_FIELD);
    back = distance - 1;
  } else {
    if (headerSize(field, FAR_FIELD) + 2 > dst.length - op) return -1;
    back = distance - MIDDLE_DISTANCE;
    at = writeHeader(dst, op, 0x10 | ((back >>> 11) & 8), field, FAR_FIELD);
    back &= MIDDLE_DISTANCE - 1;
  }
  dst[at] = back << 2;
  dst[at + 1] = back >>> 6;
  return at + 2;
}

/** Bytes that an instruction's first byte and its `ext` take for the length field `field`. */
function headerSize(field: number, fieldMax: number): number {
  return field <= fieldMax ? 1 : 2 + Math.floor((field - fieldMax - 1) / 255);
}

/** Writes an instruction's first byte and its `ext`; room for {@link headerSize} is there. */
function writeHeader(dst: Uint8Array, op: number, opcode: number, field: number, fieldMax: number): number {
  if (field <= fieldMax) {
    dst[op] = opcode | field;
    return op + 1;
  }
  dst[op] = opcode;
  let at = op + 1;
  let rest = field - fieldMax;
  for (; rest > 255; rest -= 255) {
    dst[at] = 0;
    at += 1;
  }
  dst[at] = rest;
  return at + 1;
}
