/**
 * LZO1X, bitstream version 0: the constants both directions share, and the stream's byte tables.
 *
 * A stream is a sequence of instructions. An instruction copies a *match* (bytes already produced, `distance`
 * back) or a *run* (literal bytes that follow in the stream). What a byte below 16 means depends on how many
 * literals the instruction before it copied; `s` counts them: 0 after a match with none, 1 … 3 after a match
 * with some, 4 after a run.
 *
 * ```
 * first byte of an instruction    then     what it does
 * 0000LLLL  and s = 0             ext      run of L + 3 literals                                  s becomes 4
 * 0000DDSS  and s = 1 … 3         H        match of 2, distance (H << 2) + D + 1       (1 … 1024)
 * 0000DDSS  and s = 4             H        match of 3, distance (H << 2) + D + 2049    (2049 … 3072)
 * 0001HLLL                        ext W    match of L + 2, distance 16384 + (H << 14) + D (16384 … 49151)
 * 001LLLLL                        ext W    match of L + 2, distance D + 1              (1 … 16384)
 * 01LDDDSS                        H        match of L + 3, distance (H << 3) + D + 1   (1 … 2048)
 * 1LLDDDSS                        H        match of L + 5, distance (H << 3) + D + 1   (1 … 2048)
 * ```
 *
 * | part | bytes |
 * |---|---|
 * | ext | only where L = 0: any number of 00 bytes, then one byte x ≠ 0. L = (largest value of the L bits) + 255 × (number of 00 bytes) + x |
 * | W | 16 bits, little-endian: DDDDDDDD DDDDDDSS |
 * | SS | this many literals, 0 … 3, follow the instruction at once; s becomes SS |
 *
 * | where | bytes | meaning |
 * |---|---|---|
 * | start only | 12 … 14 (hex) | 1 … 3 literals follow; s = their number |
 * | start only | 15 … ff (hex) | 4 … 238 literals follow (byte − 17); s = 4 |
 * | start only | 00 … 11 (hex) | an ordinary instruction, with s = 0 |
 * | end | 11 00 00 | 0001HLLL with distance 16384: end of the stream |
 *
 * Version 1 of the bitstream ("lzo-rle") opens with the bytes 11 01. It is another format: here the 11 reads as
 * a match before any output, and is refused.
 */

/** Farthest match of 01LDDDSS and 1LLDDDSS, and their longest. */
export const NEAR_DISTANCE = 0x0800;
export const NEAR_LENGTH = 8;
/** Farthest match of 001LLLLL; also what is added to the distance of 0001HLLL. */
export const MIDDLE_DISTANCE = 0x4000;
/** Farthest match of 0001HLLL. */
export const FAR_DISTANCE = 0xbfff;

/** Lengths at which an extension becomes necessary: one more than the field of L bits can say. */
export const MIDDLE_FIELD = 31;
export const FAR_FIELD = 7;
export const RUN_FIELD = 15;

/** What L counts from. */
export const MATCH_BASE = 2;
export const RUN_BASE = 3;

/** A first byte above this one holds a number of literals, counted from it. */
export const FIRST_RUN = 17;
/** The most literals the first byte can announce. */
export const FIRST_RUN_MAX = 238;

/** Bytes of the end mark 11 00 00. */
export const END_LENGTH = 3;
