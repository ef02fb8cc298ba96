/**
 * The small objects: what a disk is, who writes in an epoch, fences, checkpoints, moments to keep. Little-endian; all of
 * them begin alike, and have exactly the size given.
 *
 *      byte  size
 *         0     8   magic: "dmkitdsk", "dmkitepo", "dmkitfnc", "dmkitchk" or "dmkitkep"
 *         8     4   version, 1
 *        12     4   CRC-32C of all, with this field zero
 *
 *      disk, 96 bytes
 *        16    16   token of the cache that began it
 *        32     8   size in bytes, a multiple of 512
 *        40     8   time
 *        48    32   digest of the image that it held then
 *        80    16   zero
 *
 *      epoch, 128 bytes
 *        16    16   token of the cache that writes in it
 *        32    16   nonce: random, another one whenever a cache is opened
 *        48     8   time
 *        56    64   host, UTF-8, zero behind it
 *       120     8   zero
 *
 *      fence, 64 bytes: no log object is that short, so the size in a listing tells them apart
 *        16     8   epoch of who has put it there
 *        24    16   its nonce
 *        40    24   zero
 *
 *      checkpoint, 112 bytes
 *        16     8   epoch, and
 *        24     8   n of the last log object that is in it
 *        32     8   id of the last segment in it
 *        40     8   what that segment was called on the cache it came from
 *        48    16   token of that cache
 *        64    32   digest of the image
 *        96     8   time of that segment
 *       104     8   zero
 *
 *      moment, 64 bytes
 *        16     8   epoch, and
 *        24     8   n of the log object with the segment
 *        32     8   id of the segment
 *        40     8   its time
 *        48    16   zero
 *
 * Times are milliseconds since 1970-01-01 UTC by the clock of who wrote. Tokens and nonces are 32 hexadecimal digits.
 */
import { BlockIoError, crc32c, getU32, isZero, setU32, setU64, tryU64 } from "@dmkit/block-io";
import type { Position } from "./keys.ts";

/** 32 hexadecimal digits. */
export type Token = string;

/** The token of nobody. */
export const NOBODY: Token = "0".repeat(32);

/** What a disk is. */
export interface DiskRecord {
  readonly token: Token;
  /** Bytes. */
  readonly size: number;
  readonly time: number;
  /** Digest of the image. */
  readonly base: string;
}

/** Who writes in an epoch. */
export interface EpochRecord {
  readonly token: Token;
  readonly nonce: Token;
  readonly time: number;
  /** At most 64 bytes count. */
  readonly host: string;
}

/** The end of an epoch, put there by a later one. */
export interface Fence {
  readonly epoch: number;
  readonly nonce: Token;
}

/** The last segment of a stretch of the log. */
export interface LogEnd {
  readonly position: Position;
  readonly id: number;
  /** Its id on the cache. */
  readonly local: number;
  readonly token: Token;
  readonly time: number;
}

/** An image that equals the disk after a log object. */
export interface Checkpoint extends LogEnd {
  readonly digest: string;
}

/** A moment to keep. */
export interface Moment {
  readonly position: Position;
  readonly id: number;
  readonly time: number;
}

/** Bytes of a fence; every log object has more. */
export const FENCE_SIZE = 64;
/** Bytes of the largest record. */
export const MAX_RECORD = 128;

const VERSION = 1;

/** Clocks may give fractions. */
export function setTime(into: Buffer, at: number, time: number): void {
  setU64(into, at, Math.floor(time));
}

function begin(magic: string, size: number): Buffer {
  const record = Buffer.alloc(size);
  record.write(magic, 0, "latin1");
  setU32(record, 8, VERSION);
  return record;
}

function seal(record: Buffer): Buffer {
  setU32(record, 12, crc32c(record));
  return record;
}

/** Whether `body` begins as a record of this kind and size; throws `EFORMAT` for one of a later version. */
export function isRecord(body: Buffer, magic: string, size: number): boolean {
  if (body.length < 16 || body.toString("latin1", 0, 8) !== magic) return false;
  if (getU32(body, 8) !== VERSION) {
    throw new BlockIoError("this version of dmkit cannot read the archive", {
      code: "EFORMAT",
      hint: "Update dmkit.",
    });
  }
  const copy = Buffer.from(body.subarray(0, size));
  if (copy.length !== size) return false;
  setU32(copy, 12, 0);
  return crc32c(copy) === getU32(body, 12);
}

function isExactly(body: Buffer, magic: string, size: number, zeroFrom: number): boolean {
  return isRecord(body, magic, size) && body.length === size && isZero(body.subarray(zeroFrom));
}

const areNumbers = (...numbers: number[]): boolean => !numbers.some(Number.isNaN);

export function encodeDisk({ token, size, time, base }: DiskRecord): Buffer {
  const record = begin("dmkitdsk", 96);
  record.write(token, 16, 16, "hex");
  setU64(record, 32, size);
  setTime(record, 40, time);
  record.write(base, 48, 32, "hex");
  return seal(record);
}

/** Undefined for what is no such record. */
export function decodeDisk(body: Buffer): DiskRecord | undefined {
  if (!isExactly(body, "dmkitdsk", 96, 80)) return undefined;
  const [size, time] = [tryU64(body, 32), tryU64(body, 40)];
  if (!areNumbers(size, time) || size === 0 || size % 512 !== 0) return undefined;
  return { token: body.toString("hex", 16, 32), size, time, base: body.toString("hex", 48, 80) };
}

export function encodeEpoch({ token, nonce, time, host }: EpochRecord): Buffer {
  const record = begin("dmkitepo", 128);
  record.write(token, 16, 16, "hex");
  record.write(nonce, 32, 16, "hex");
  setTime(record, 48, time);
  // Whole characters only.
  record.write(host, 56, 64, "utf8");
  return seal(record);
}

/** Undefined for what is no such record. */
export function decodeEpoch(body: Buffer): EpochRecord | undefined {
  if (!isExactly(body, "dmkitepo", 128, 120)) return undefined;
  const time = tryU64(body, 48);
  if (!areNumbers(time)) return undefined;
  const host = body.toString("utf8", 56, 120).replace(/\0.*$/s, "");
  return { token: body.toString("hex", 16, 32), nonce: body.toString("hex", 32, 48), time, host };
}

export function encodeFence({ epoch, nonce }: Fence): Buffer {
  const record = begin("dmkitfnc", FENCE_SIZE);
  setU64(record, 16, epoch);
  record.write(nonce, 24, 16, "hex");
  return seal(record);
}

/** Undefined for what is no such record. */
export function decodeFence(body: Buffer): Fence | undefined {
  if (!isExactly(body, "dmkitfnc", FENCE_SIZE, 40)) return undefined;
  const epoch = tryU64(body, 16);
  return areNumbers(epoch) ? { epoch, nonce: body.toString("hex", 24, 40) } : undefined;
}

export function encodeCheckpoint({ position, id, local, token, digest, time }: Checkpoint): Buffer {
  const record = begin("dmkitchk", 112);
  setU64(record, 16, position.epoch);
  setU64(record, 24, position.n);
  setU64(record, 32, id);
  setU64(record, 40, local);
  record.write(token, 48, 16, "hex");
  record.write(digest, 64, 32, "hex");
  setTime(record, 96, time);
  return seal(record);
}

/** Undefined for what is no such record. */
export function decodeCheckpoint(body: Buffer): Checkpoint | undefined {
  if (!isExactly(body, "dmkitchk", 112, 104)) return undefined;
  const [epoch, n, id] = [tryU64(body, 16), tryU64(body, 24), tryU64(body, 32)];
  const [local, time] = [tryU64(body, 40), tryU64(body, 96)];
  if (!areNumbers(epoch, n, id, local, time)) return undefined;
  const [token, digest] = [body.toString("hex", 48, 64), body.toString("hex", 64, 96)];
  return { position: { epoch, n }, id, local, token, digest, time };
}

export function encodeMoment({ position, id, time }: Moment): Buffer {
  const record = begin("dmkitkep", 64);
  setU64(record, 16, position.epoch);
  setU64(record, 24, position.n);
  setU64(record, 32, id);
  setTime(record, 40, time);
  return seal(record);
}

/** Undefined for what is no such record. */
export function decodeMoment(body: Buffer): Moment | undefined {
  if (!isExactly(body, "dmkitkep", 64, 48)) return undefined;
  const [epoch, n, id, time] = [tryU64(body, 16), tryU64(body, 24), tryU64(body, 32), tryU64(body, 40)];
  return areNumbers(epoch, n, id, time) ? { position: { epoch, n }, id, time } : undefined;
}
