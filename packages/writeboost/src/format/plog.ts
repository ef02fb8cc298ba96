/**
 * A plog segment: records one after the other, each in front of its data.
 *
 *      byte 0   id u64          of the segment the write belongs to
 *           8   sector u64      exact first sector of the write on the backing device
 *           16  checksum u32    over the data, see checksum.ts (always classic: there is no plog in v2)
 *           20  idx u8          block in the segment, 0 … B - 1
 *           21  len u8          sectors of data, 1 … 8, not beyond the end of the 4 KiB block
 *           22  zero to 512
 *           512 data, len × 512 bytes
 *
 * Records end at the first that does not fit, has another id or a wrong checksum. Whoever writes makes sure that
 * what follows the last record cannot be taken for one more: it is zero, or records and data of an earlier segment
 * in which no sector resembles a record of a later one.
 */
import { getU32, getU8, setU32, setU64, setU8, tryU64 } from "@dmkit/block-io";
import { checksum } from "./checksum.ts";

const RECORD = 512;

export interface PlogRecord {
  readonly id: number;
  readonly sector: number;
  readonly index: number;
  /** Sectors. */
  readonly length: number;
  /** Where its data begins in the plog segment. */
  readonly dataAt: number;
}

/** Bytes a record with `bytes` of data takes. */
export function recordSize(bytes: number): number {
  return RECORD + bytes;
}

/** Writes record and data at byte `at` of a plog segment's image. `data` is 512 … 4096 bytes. */
export function encodeRecord(
  image: Buffer,
  at: number,
  id: number,
  sector: number,
  index: number,
  data: Buffer,
): void {
  image.fill(0, at, at + RECORD);
  setU64(image, at, id);
  setU64(image, at + 8, sector);
  setU32(image, at + 16, checksum("classic", data));
  setU8(image, at + 20, index);
  setU8(image, at + 21, data.length / 512);
  data.copy(image, at + RECORD);
}

/** A record without its data, as it stands on the device. */
export interface RecordHeader {
  readonly id: number;
  readonly sector: number;
  readonly checksum: number;
  readonly index: number;
  /** Sectors. */
  readonly length: number;
}

/** The header at byte `at`; undefined where {@link encodeRecordHeader} would not give the same bytes again. */
export function decodeRecordHeader(segment: Buffer, at: number): RecordHeader | undefined {
  const header = {
    id: tryU64(segment, at),
    sector: tryU64(segment, at + 8),
    checksum: getU32(segment, at + 16),
    index: getU8(segment, at + 20),
    length: getU8(segment, at + 21),
  };
  if (Number.isNaN(header.id) || Number.isNaN(header.sector)) return undefined;
  return encodeRecordHeader(header).equals(segment.subarray(at, at + RECORD)) ? header : undefined;
}

/** 512 bytes. */
export function encodeRecordHeader({ id, sector, checksum: crc, index, length }: RecordHeader): Buffer {
  const record = Buffer.alloc(RECORD);
  setU64(record, 0, id);
  setU64(record, 8, sector);
  setU32(record, 16, crc);
  setU8(record, 20, index);
  setU8(record, 21, length);
  return record;
}

/** What untrusted records are held against. */
export interface RecordBounds {
  /** B: indexes are below it. */
  readonly blocks: number;
  /** Sectors of the backing device. */
  readonly backing: number;
}

/** The record at byte `at`, or undefined if there is no valid one inside the segment. */
export function decodeRecord(
  segment: Buffer,
  at: number,
  bounds: RecordBounds,
  sound: typeof isSound = isSound,
): PlogRecord | undefined {
  const record = recordAt(segment, at, bounds);
  if (record === undefined) return undefined;
  const { dataAt, length } = record;
  const data = segment.subarray(dataAt, dataAt + length * 512);
  return sound(data, getU32(segment, at + 16)) ? record : undefined;
}

/** What a record at byte `at` says, its data not looked at; undefined for what cannot be one. */
function recordAt(segment: Buffer, at: number, bounds: RecordBounds): PlogRecord | undefined {
  if (at > segment.length - RECORD) return undefined;
  const id = tryU64(segment, at);
  const sector = tryU64(segment, at + 8);
  const index = getU8(segment, at + 20);
  const length = getU8(segment, at + 21);
  if (!(id > 0) || !(sector < bounds.backing) || index >= bounds.blocks) return undefined;
  if (length < 1 || length > 8 - (sector % 8) || length > bounds.backing - sector) return undefined;
  const dataAt = at + RECORD;
  if (length * 512 > segment.length - dataAt) return undefined;
  return { id, sector, index, length, dataAt };
}

/**
 * Whether a sector of user data could be taken for a record of a segment after `id`, if its checksum held. So
 * can hardly any data that is not made for it: 1 sector of random bytes in 100,000.
 */
export function resemblesRecord(data: Buffer, id: number): boolean {
  for (let at = 0; at < data.length; at += 512) {
    const length = getU8(data, at + 21);
    // Not a number: no id.
    if (length >= 1 && length <= 8 && tryU64(data, at) > id) return true;
  }
  return false;
}

/** Whether data is what the checksum of its record was made of. */
export function isSound(data: Buffer, stored: number): boolean {
  return checksum("classic", data) === stored;
}

/** All records of a plog segment that count: those of the first one's id, up to the first that is not valid. */
export function decodeRecords(segment: Buffer, bounds: RecordBounds, sound?: typeof isSound): PlogRecord[] {
  const records: PlogRecord[] = [];
  for (let at = 0; ; ) {
    const record = decodeRecord(segment, at, bounds, sound);
    if (record === undefined || record.id !== (records[0]?.id ?? record.id)) return records;
    records.push(record);
    at = record.dataAt + record.length * 512;
  }
}

/**
 * Where the records of a segment end at something that could not be read: there may be more of them. Undefined if they
 * end at what can be read and is none.
 * @param lost bytes at which sectors begin that could not be read; they are zero in `segment`.
 * @returns where, and the id of the records, 0 where that is not known.
 */
export function recordsCutOff(
  segment: Buffer,
  records: readonly PlogRecord[],
  bounds: RecordBounds,
  lost: readonly number[],
): { readonly at: number; readonly id: number } | undefined {
  const last = records.at(-1);
  const end = last === undefined ? 0 : last.dataAt + last.length * 512;
  const next = recordAt(segment, end, bounds);
  const id = records[0]?.id ?? next?.id ?? 0;
  // A record of another id is not looked at, whatever its data are.
  const until = next === undefined || next.id !== id ? end + RECORD : next.dataAt + next.length * 512;
  const at = lost.find((start) => start >= end && start < until);
  return at === undefined ? undefined : { at, id };
}
