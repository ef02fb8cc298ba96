/**
 * Format 2: a journal record, at the start of one of the two slots; little-endian.
 *
 *      byte   0   u32  CRC-32C of bytes 4 … end of the changes, begun with the UUID and the record's number
 *             4   u32  0x4c4e524a: "JRNL"
 *             8   u64  number of the record, from 1; it lies in slot (number mod 2)
 *            16   u32  changes
 *            20   u32  sectors of payloads
 *            24   u32  CRC-32C of the payloads
 *            28   u32  zero
 *            32        changes of 16 bytes each, then zeroes up to a whole sector
 *                      payloads, in the order of the changes that have one
 *
 *      change 0   u32  first block
 *             4   u32  blocks
 *             8   u32  checksum of the payload, as in the metadata
 *            12   u16  payload sectors
 *            14   u8   kind: 0 never written, 1 extent with its payload in the record, 2 extent whose payload is
 *                      in place already, 3 contents are lost
 *            15   u8   zero
 *
 * A record is valid if both checksums are: one torn by a crash is not, and was never acknowledged.
 */
import {
  SECTOR,
  crc32c,
  getU32,
  getU8,
  setU16,
  setU32,
  setU64,
  setU8,
  tryU64,
  getU16,
} from "@dmkit/block-io";
import { salt } from "./metadata-v2.ts";

const MAGIC = 0x4c4e_524a;
const HEADER = 32;
const CHANGE = 16;

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

export interface Header {
  readonly number: number;
  readonly changes: readonly Change[];
  readonly payloadSectors: number;
  readonly payloadSum: number;
}

/** Bytes of header and changes, a multiple of 512. */
export function headerLength(changes: number): number {
  return Math.ceil((HEADER + changes * CHANGE) / SECTOR) * SECTOR;
}

/** Writes the header in front of the payloads that are in `record` already. */
export function encodeHeader(record: Buffer, uuid: Buffer, number: number, changes: readonly Change[]): void {
  const start = headerLength(changes.length);
  record.fill(0, 0, start);
  setU32(record, 4, MAGIC);
  setU64(record, 8, number);
  setU32(record, 16, changes.length);
  setU32(record, 20, (record.length - start) / SECTOR);
  setU32(record, 24, crc32c(record.subarray(start)));
  for (const [index, { kind, first, blocks, sectors, sum }] of changes.entries()) {
    const at = HEADER + index * CHANGE;
    setU32(record, at, first);
    setU32(record, at + 4, blocks);
    setU32(record, at + 8, sum);
    setU16(record, at + 12, sectors);
    setU8(record, at + 14, kind);
  }
  setU32(record, 0, crc32c(record.subarray(4, HEADER + changes.length * CHANGE), salt(uuid, number)));
}

/** Bytes of header and changes as the first sector of a slot tells, or undefined if it cannot begin a record. */
export function announcedLength(firstSector: Buffer, slotLength: number): number | undefined {
  const changes = getU32(firstSector, 16);
  if (getU32(firstSector, 4) !== MAGIC || changes > slotLength / CHANGE) return undefined;
  const length = headerLength(changes);
  return length > slotLength ? undefined : length;
}

/** @param header as many bytes as {@link announcedLength} said. Undefined if it does not check. */
export function decodeHeader(header: Buffer, uuid: Buffer): Header | undefined {
  const number = tryU64(header, 8);
  const count = getU32(header, 16);
  const end = HEADER + count * CHANGE;
  if (Number.isNaN(number) || end > header.length) return undefined;
  if (getU32(header, 0) !== crc32c(header.subarray(4, end), salt(uuid, number))) return undefined;
  const changes: Change[] = [];
  for (let at = HEADER; at < end; at += CHANGE) {
    changes.push({
      first: getU32(header, at),
      blocks: getU32(header, at + 4),
      sum: getU32(header, at + 8),
      sectors: getU16(header, at + 12),
      kind: getU8(header, at + 14) as ChangeKind,
    });
  }
  return { number, changes, payloadSectors: getU32(header, 20), payloadSum: getU32(header, 24) };
}
