/**
 * Format 2: a journal record, at the start of one of the two slots; little-endian.
 *
 * ```
 * header sectors    the header, cut into pieces of 508 bytes, each followed by its CRC-32C (u32), begun with the
 *                   UUID and the number of the piece (u64); the last one filled up with zeroes
 * payload sectors   payloads, in the order of the changes that have one, then zeroes
 * ```
 *
 *      header   0   u32  CRC-32C of bytes 4 … end, begun with the UUID and the record's number (u64)
 *               4   u32  0x4c4e524a: "JRNL"
 *               8   u64  number of the record, from 1; it lies in slot (number mod 2)
 *              16   u32  changes
 *              20   u32  payload sectors
 *              24   u32  CRC-32C of all payload sectors
 *              28   u32  zero
 *              32        changes of 16 bytes each
 *                        CRC-32C of each payload sector (u32)
 *
 *      change   0   u32  first block
 *               4   u32  blocks
 *               8   u32  checksum of the payload, as in the metadata
 *              12   u16  payload sectors
 *              14   u8   kind: 0 never written, 1 extent with its payload in the record, 2 extent whose payload is
 *                        in place already, 3 contents are lost
 *              15   u8   zero
 *
 * A record is valid if all checksums are: one torn by a crash is not, and was never acknowledged. So that a record
 * that *was* acknowledged is not taken for a torn one because a bit has rotted, every sector has a checksum of its
 * own, by which a single flipped bit in it is put right; then the checksums over all decide.
 */
import {
  SECTOR,
  crc32c,
  getU16,
  getU32,
  getU8,
  setU16,
  setU32,
  setU64,
  setU8,
  tryU64,
} from "@dmkit/block-io";
import { salt } from "./metadata-v2.ts";
import { checkOrMend } from "./single-bit.ts";

const MAGIC = 0x4c4e_524a;
const FIXED = 32;
const CHANGE = 16;
const PIECE = SECTOR - 4;

export const changeKinds = { drop: 0, payload: 1, inPlace: 2, lost: 3 } as const;
export type ChangeKind = (typeof changeKinds)[keyof typeof changeKinds];

export interface Change {
  readonly kind: ChangeKind;
  readonly first: number;
  readonly blocks: number;
  /** Payload sectors; 0 unless it is an extent. */
  readonly sectors: number;
  readonly sum: number;
}

export interface DecodedRecord {
  readonly number: number;
  readonly changes: readonly Change[];
  /** In the order of the changes that have one. */
  readonly payloads: Buffer;
}

/** Bytes of the header sectors. */
export function headerLength(changes: number, payloadSectors: number): number {
  return Math.ceil((FIXED + changes * CHANGE + payloadSectors * 4) / PIECE) * SECTOR;
}

/** Writes the header in front of the payloads that are in `record` already, from byte `start`. */
export function encodeHeader(
  record: Buffer,
  start: number,
  uuid: Buffer,
  number: number,
  changes: readonly Change[],
): void {
  const sectors = (record.length - start) / SECTOR;
  const header = Buffer.alloc(FIXED + changes.length * CHANGE + sectors * 4);
  setU32(header, 4, MAGIC);
  setU64(header, 8, number);
  setU32(header, 16, changes.length);
  setU32(header, 20, sectors);
  setU32(header, 24, crc32c(record.subarray(start)));
  for (const [index, { kind, first, blocks, sectors: own, sum }] of changes.entries()) {
    const at = FIXED + index * CHANGE;
    setU32(header, at, first);
    setU32(header, at + 4, blocks);
    setU32(header, at + 8, sum);
    setU16(header, at + 12, own);
    setU8(header, at + 14, kind);
  }
  const sums = FIXED + changes.length * CHANGE;
  for (let sector = 0; sector < sectors; sector += 1) {
    const at = start + sector * SECTOR;
    setU32(header, sums + sector * 4, crc32c(record.subarray(at, at + SECTOR)));
  }
  setU32(header, 0, crc32c(header.subarray(4), salt(uuid, number)));
  record.fill(0, 0, start);
  for (let piece = 0; piece * SECTOR < start; piece += 1) {
    const into = record.subarray(piece * SECTOR, piece * SECTOR + PIECE);
    header.copy(into, 0, piece * PIECE, (piece + 1) * PIECE);
    setU32(record, piece * SECTOR + PIECE, crc32c(into, salt(uuid, piece)));
  }
}

/** The number of the record that begins here, as its first sector has it; undefined if none of this device does. */
export function announcedNumber(slotStart: Buffer, uuid: Buffer): number | undefined {
  const first = piece(slotStart, 0, uuid);
  return first === undefined || getU32(first, 4) !== MAGIC ? undefined : tryU64(first, 8);
}

/** Bytes of a record as the start of a slot tells; undefined if no record of this device begins there. */
export function announcedLength(slotStart: Buffer, uuid: Buffer, slotLength: number): number | undefined {
  const first = piece(slotStart, 0, uuid);
  if (first === undefined || getU32(first, 4) !== MAGIC) return undefined;
  const sectors = getU32(first, 20);
  const changes = getU32(first, 16);
  if (sectors > slotLength / SECTOR || changes > slotLength / CHANGE) return undefined;
  const length = headerLength(changes, sectors) + sectors * SECTOR;
  return length > slotLength ? undefined : length;
}

/** @param record as many bytes as {@link announcedLength} said; mended. Undefined if it is not valid. */
export function decodeRecord(record: Buffer, uuid: Buffer): DecodedRecord | undefined {
  const first = piece(record, 0, uuid);
  if (first === undefined) return undefined;
  const count = getU32(first, 16);
  const sectors = getU32(first, 20);
  const start = headerLength(count, sectors);
  const header = Buffer.alloc((start / SECTOR) * PIECE);
  for (let index = 0; index * SECTOR < start; index += 1) {
    const bytes = piece(record, index, uuid);
    if (bytes === undefined) return undefined;
    bytes.copy(header, index * PIECE);
  }
  const number = tryU64(header, 8);
  const sums = FIXED + count * CHANGE;
  const end = sums + sectors * 4;
  if (Number.isNaN(number) || getU32(header, 0) !== crc32c(header.subarray(4, end), salt(uuid, number))) {
    return undefined;
  }
  const payloads = record.subarray(start, start + sectors * SECTOR);
  for (let sector = 0; sector < sectors; sector += 1) {
    const bytes = payloads.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    if (!checkOrMend(bytes, 0, getU32(header, sums + sector * 4))) return undefined;
  }
  if (crc32c(payloads) !== getU32(header, 24)) return undefined;
  return { number, changes: decodeChanges(header, count), payloads };
}

function decodeChanges(header: Buffer, count: number): Change[] {
  const changes: Change[] = [];
  for (let at = FIXED; at < FIXED + count * CHANGE; at += CHANGE) {
    changes.push({
      first: getU32(header, at),
      blocks: getU32(header, at + 4),
      sum: getU32(header, at + 8),
      sectors: getU16(header, at + 12),
      kind: getU8(header, at + 14) as ChangeKind,
    });
  }
  return changes;
}

function piece(record: Buffer, index: number, uuid: Buffer): Buffer | undefined {
  const at = index * SECTOR;
  const bytes = record.subarray(at, at + PIECE);
  return checkOrMend(bytes, salt(uuid, index), getU32(record, at + PIECE)) ? bytes : undefined;
}
