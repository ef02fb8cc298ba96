/**
 * A log object: segments of the log, whole and in the order of their ids. Little-endian.
 *
 *      byte  size
 *         0     8   "dmkitlog"
 *         8     4   version, 1
 *        12     4   CRC-32C of the first 128 bytes, with this field zero
 *        16     8   epoch, and
 *        24     8   n: as in the key
 *        32     8   id of the first segment; those of the others follow. Ids begin at 1 and go on from epoch to epoch
 *        40     8   what the first segment was called on the cache it came from; those of the others follow
 *        48    16   token of that cache
 *        64    16   nonce of the epoch's record: two writers never write the same bytes
 *        80     8   time of the last segment
 *        88     4   segments, 1 or more
 *        92     4   zero
 *        96    32   SHA-256 of the plain contents
 *       128         the contents, as a blob of an image (codec, length, contents; at most 4 MiB plain)
 *
 * The contents are one segment behind the other:
 *
 *         0     8   time at which it was closed: what was acknowledged up to then is in it, or before it
 *         8     4   blocks B, 0 or more
 *        12     4   zero
 *        16  16·B   of each block: its first sector u64, a multiple of 8; sectors that count u8, bit j for sector j, not 0;
 *                   7 zero bytes. A block comes once in a segment
 *     16+16·B 4096·B their data; what stands for a sector that does not count means nothing
 */
import assert from "node:assert";
import { getU32, getU8, isZero, setU32, setU64, setU8, tryU64, crc32c } from "@dmkit/block-io";
import { type LogEnd, type Token, isRecord, setTime } from "./records.ts";
import type { Position } from "./keys.ts";

/** Bytes of a block. */
export const BLOCK = 4096;
/** Bytes in front of the contents. */
export const LOG_HEAD = 128;
/** Plain bytes of the contents at the most. */
export const MAX_CONTENTS: number = 4 * 1024 * 1024;

const MAGIC = "dmkitlog";
const SEGMENT_HEAD = 16;
const ENTRY = 16;

/** A part of the log that stands by itself: the disk is consistent after each. */
export interface LogSegment {
  /** Milliseconds since 1970-01-01 UTC. */
  readonly time: number;
  /** First sectors of blocks: multiples of 8. */
  readonly sectors: readonly number[];
  /** Which sectors of each block count: 1 … 255. */
  readonly bits: readonly number[];
  /** 4096 bytes of each block. */
  readonly data: Buffer;
}

/** What stands before the contents. */
export interface LogHead {
  readonly position: Position;
  /** Of the first segment. */
  readonly id: number;
  /** Of the first segment, on its cache. */
  readonly local: number;
  readonly token: Token;
  readonly nonce: Token;
  /** Of the last segment. */
  readonly time: number;
  readonly segments: number;
  /** Digest of the contents. */
  readonly digest: string;
}

/** The last segment of a log object. */
export function endOf({ position, id, local, segments, token, time }: LogHead): LogEnd {
  return { position, id: id + segments - 1, local: local + segments - 1, token, time };
}

/** Plain bytes of a segment of so many blocks. */
export function contentsSize(blocks: number): number {
  return SEGMENT_HEAD + (ENTRY + BLOCK) * blocks;
}

/**
 * Together at most {@link MAX_CONTENTS}; behind `room` bytes with anything in them.
 * @param take gives memory, with anything in it.
 */
export function encodeContents(
  segments: readonly LogSegment[],
  room = 0,
  take: (length: number) => Buffer = (length) => Buffer.allocUnsafeSlow(length),
): Buffer {
  const size = segments.reduce((sum, { sectors }) => sum + contentsSize(sectors.length), room);
  const contents = take(size);
  let at = room;
  for (const { time, sectors, bits, data } of segments) {
    assert.equal(data.length, BLOCK * sectors.length, "data of each block");
    const start = at + SEGMENT_HEAD + ENTRY * sectors.length;
    contents.fill(0, at, start);
    setTime(contents, at, time);
    setU32(contents, at + 8, sectors.length);
    for (const [block, sector] of sectors.entries()) {
      const entry = at + SEGMENT_HEAD + ENTRY * block;
      setU64(contents, entry, sector);
      setU8(contents, entry + 8, bits[block] as number);
    }
    data.copy(contents, start);
    at = start + data.length;
  }
  return contents;
}

/** Undefined for what contradicts itself. @param count segments; @param size bytes of the disk. */
export function decodeContents(contents: Buffer, count: number, size: number): LogSegment[] | undefined {
  const segments: LogSegment[] = [];
  let at = 0;
  while (at < contents.length) {
    if (contents.length - at < SEGMENT_HEAD) return undefined;
    const time = tryU64(contents, at);
    const blocks = getU32(contents, at + 8);
    const end = at + contentsSize(blocks);
    if (Number.isNaN(time) || !isZero(contents.subarray(at + 12, at + 16)) || end > contents.length)
      return undefined;
    const sectors: number[] = [];
    const bits: number[] = [];
    for (let block = 0; block < blocks; block += 1) {
      const entry = at + SEGMENT_HEAD + ENTRY * block;
      const sector = tryU64(contents, entry);
      const valid = getU8(contents, entry + 8);
      // In the short last block of a disk only the sectors that count need fit.
      const last = sector + 32 - Math.clz32(valid);
      if (!(sector % 8 === 0) || valid === 0 || last * 512 > size) return undefined;
      if (!isZero(contents.subarray(entry + 9, entry + ENTRY))) return undefined;
      sectors.push(sector);
      bits.push(valid);
    }
    segments.push({ time, sectors, bits, data: contents.subarray(end - BLOCK * blocks, end) });
    at = end;
  }
  return segments.length === count ? segments : undefined;
}

/** The first {@link LOG_HEAD} bytes. */
export function encodeLogHead(head: LogHead): Buffer {
  const bytes = Buffer.alloc(LOG_HEAD);
  bytes.write(MAGIC, 0, "latin1");
  setU32(bytes, 8, 1);
  setU64(bytes, 16, head.position.epoch);
  setU64(bytes, 24, head.position.n);
  setU64(bytes, 32, head.id);
  setU64(bytes, 40, head.local);
  bytes.write(head.token, 48, 16, "hex");
  bytes.write(head.nonce, 64, 16, "hex");
  setTime(bytes, 80, head.time);
  setU32(bytes, 88, head.segments);
  bytes.write(head.digest, 96, 32, "hex");
  setU32(bytes, 12, crc32c(bytes));
  return bytes;
}

/** Undefined for what is no head. */
export function decodeLogHead(body: Buffer): LogHead | undefined {
  if (!isRecord(body, MAGIC, LOG_HEAD) || !isZero(body.subarray(92, 96))) return undefined;
  const [epoch, n, id] = [tryU64(body, 16), tryU64(body, 24), tryU64(body, 32)];
  const [local, time, segments] = [tryU64(body, 40), tryU64(body, 80), getU32(body, 88)];
  if ([epoch, n, id, local, time].some(Number.isNaN) || segments === 0 || id === 0) return undefined;
  if (!Number.isSafeInteger(id + segments) || !Number.isSafeInteger(local + segments)) return undefined;
  const [token, nonce] = [body.toString("hex", 48, 64), body.toString("hex", 64, 80)];
  const digest = body.toString("hex", 96, LOG_HEAD);
  return { position: { epoch, n }, id, local, token, nonce, time, segments, digest };
}
