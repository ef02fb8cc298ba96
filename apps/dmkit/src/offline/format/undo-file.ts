/**
 * An undo file: a header, then records. Nothing in it is changed once it was written; all integers are
 * little-endian.
 *
 * Header, padded with zeroes to a multiple of 4096 bytes:
 *
 *      0   16  magic "dmkit undo file\n"
 *     16    4  version, 2; 1 is read
 *     20    4  length of the header with its padding, at most 1 MiB
 *     24   16  UUID of the file, repeated in every record
 *     40    8  when it was made, milliseconds since 1970
 *     48    4  number of devices, 1 … 16
 *     52    4  length of the command
 *     56    4  CRC-32C of the whole header with these four bytes zero
 *     60    4  zero
 *     64       the command (UTF-8), padded to a multiple of 8; then the devices
 *
 * Device, padded to a multiple of 8:
 *
 *      0    8  size in bytes
 *      8    4  n, number of samples, at most 4096 (version 1: 64)
 *     12    2  length of its role
 *     14    2  length of its path
 *     16  12n  of each sampled block of 4 KiB (see sample.ts), as it was before anything was overwritten:
 *              offset in bytes u64, the first four bytes of its SHA-256
 *              (version 1: 4n, CRC-32C of each; the blocks are spread evenly from the first to the last)
 *              role and path (UTF-8)
 *
 * Record, padded with zeroes to a multiple of 512 bytes:
 *
 *      0    8  magic "undo rec"
 *      8    4  CRC-32C of bytes 0 … 79 with these four bytes zero
 *     12    4  kind: 1 data, 2 zeroes, 3 after, 4 begun, 5 undone
 *     16   16  UUID of the file
 *     32    8  number of the record, counted from 0
 *     40    4  device, counted from 0
 *     44    4  CRC-32C of the payload
 *     48    8  data, zeroes: offset in bytes, multiple of 512. after: first record it speaks of
 *     56    8  data, zeroes: length in bytes, multiple of 512. after: how many records it speaks of
 *     64    8  length of the payload: that of data; 4 bytes a record for after; otherwise 0. At most 1 MiB
 *     72    8  how much of the file was on stable storage when this record was written
 *     80       payload
 *
 * `data` and `zeroes`: what a range held. `after`: the first four bytes of the SHA-256 (version 1: CRC-32C) of the
 * start (up to 1 MiB) of the range of each data and zeroes record, when the work had ended; there once it has ended
 * orderly. `begun`, `undone`: restoring.
 *
 * A CRC cannot tell whether a superblock has changed that ends with its own CRC, as those of ext4 do.
 */
import { createHash } from "node:crypto";
import { BlockIoError, crc32c, getU16, getU32, setU16, setU32, setU64, tryU64 } from "@dmkit/block-io";

export const RECORD_ALIGNMENT = 512;
/** Bytes: the most a record holds. */
export const MAX_PAYLOAD: number = 1024 * 1024;
export const MAX_DEVICES = 16;
export const MAX_SAMPLES = 4096;
/** Bytes: the unit of saving, and of sampling. */
export const GRANULE = 4096;
/** Bytes of a header that are enough to know its length. */
export const HEADER_START = 64;

const HEADER_ALIGNMENT = 4096;
const MAX_HEADER = 1024 * 1024;
const RECORD_HEADER = 80;
const VERSION = 2;
const MAX_SAMPLES_V1 = 64;
const FILE_MAGIC = Buffer.from("dmkit undo file\n");
const RECORD_MAGIC = Buffer.from("undo rec");

export interface UndoDeviceFacts {
  readonly role: string;
  /** Absolute, or a URI. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly samples: readonly UndoSample[];
}

/** A block of {@link GRANULE} bytes, less at the end of a device. */
export interface UndoSample {
  /** Bytes. */
  readonly offset: number;
  readonly checksum: number;
}

/** How checksums of contents are made in a file. */
export type UndoVersion = 1 | 2;

export interface UndoHeader {
  readonly version: UndoVersion;
  /** 16 bytes. */
  readonly uuid: Buffer;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly command: string;
  readonly devices: readonly UndoDeviceFacts[];
}

export const recordKinds = { data: 1, zeroes: 2, after: 3, begun: 4, undone: 5 } as const;
export type RecordKind = keyof typeof recordKinds;

const kindNames = new Map<number, RecordKind>(
  Object.entries(recordKinds).map(([name, number]) => [number, name as RecordKind]),
);

/** A record without its payload. */
export interface UndoRecord {
  readonly kind: RecordKind;
  readonly number: number;
  readonly device: number;
  readonly offset: number;
  readonly length: number;
  readonly durable: number;
}

/** A record as it stands in a file. */
export interface StoredRecord extends UndoRecord {
  readonly payload: number;
  readonly payloadCrc: number;
}

function padded(length: number, alignment: number): number {
  return Math.ceil(length / alignment) * alignment;
}

/** Of the version that is written. */
export function encodeHeader({ uuid, time, command, devices }: Omit<UndoHeader, "version">): Buffer {
  const text = Buffer.from(command);
  const parts = devices.map(encodeDevice);
  const start = HEADER_START + padded(text.length, 8);
  const length = padded(
    parts.reduce((sum, part) => sum + part.length, start),
    HEADER_ALIGNMENT,
  );
  const header = Buffer.alloc(length);
  FILE_MAGIC.copy(header);
  setU32(header, 16, VERSION);
  setU32(header, 20, length);
  uuid.copy(header, 24, 0, 16);
  setU64(header, 40, time);
  setU32(header, 48, devices.length);
  setU32(header, 52, text.length);
  text.copy(header, HEADER_START);
  let at = start;
  for (const part of parts) at += part.copy(header, at);
  setU32(header, 56, crc32c(header));
  return header;
}

function encodeDevice({ role, path, size, samples }: UndoDeviceFacts): Buffer {
  const [roleText, pathText] = [Buffer.from(role), Buffer.from(path)];
  const start = 16 + samples.length * 12;
  const part = Buffer.alloc(padded(start + roleText.length + pathText.length, 8));
  setU64(part, 0, size);
  setU32(part, 8, samples.length);
  setU16(part, 12, roleText.length);
  setU16(part, 14, pathText.length);
  for (const [index, { offset, checksum }] of samples.entries()) {
    setU64(part, 16 + index * 12, offset);
    setU32(part, 24 + index * 12, checksum);
  }
  roleText.copy(part, start);
  pathText.copy(part, start + roleText.length);
  return part;
}

/** Bytes of the whole header, from its first {@link HEADER_START} bytes. Throws `EFORMAT`. */
export function headerLength(start: Buffer): number {
  if (start.length < HEADER_START || !start.subarray(0, 16).equals(FILE_MAGIC)) {
    throw refusal("this is not an undo file", "Give the file that was named by --undo.");
  }
  const version = getU32(start, 16);
  if (version !== 1 && version !== VERSION) {
    throw refusal(`undo files of version ${version} are not known`, "Use a newer dmkit.");
  }
  const length = getU32(start, 20);
  if (length < HEADER_ALIGNMENT || length > MAX_HEADER || length % HEADER_ALIGNMENT !== 0) throw damaged();
  return length;
}

/** Throws `EFORMAT`. @param header all of it. */
export function decodeHeader(header: Buffer): UndoHeader {
  if (headerLength(header) !== header.length || getU32(header, 56) !== crcWithout(header, 56))
    throw damaged();
  const count = getU32(header, 48);
  const commandLength = getU32(header, 52);
  if (count < 1 || count > MAX_DEVICES || commandLength > header.length - HEADER_START) throw damaged();
  const version = getU32(header, 16) === 1 ? 1 : 2;
  const devices: UndoDeviceFacts[] = [];
  let at = HEADER_START + padded(commandLength, 8);
  for (let index = 0; index < count; index += 1) {
    const { facts, length } = decodeDevice(header.subarray(at), version);
    devices.push(facts);
    at += length;
  }
  return {
    version,
    uuid: Buffer.from(header.subarray(24, 40)),
    time: whole(tryU64(header, 40)),
    command: header.toString("utf8", HEADER_START, HEADER_START + commandLength),
    devices,
  };
}

function decodeDevice(part: Buffer, version: UndoVersion): { facts: UndoDeviceFacts; length: number } {
  if (part.length < 16) throw damaged();
  const count = getU32(part, 8);
  const [roleLength, pathLength] = [getU16(part, 12), getU16(part, 14)];
  if (count > (version === 1 ? MAX_SAMPLES_V1 : MAX_SAMPLES)) throw damaged();
  const start = 16 + count * (version === 1 ? 4 : 12);
  const end = start + roleLength + pathLength;
  if (end > part.length) throw damaged();
  const size = whole(tryU64(part, 0));
  const samples = version === 1 ? samplesV1(part, count, size) : samplesV2(part, count, size);
  const facts = {
    role: part.toString("utf8", start, start + roleLength),
    path: part.toString("utf8", start + roleLength, end),
    size,
    samples,
  };
  return { facts, length: padded(end, 8) };
}

function samplesV2(part: Buffer, count: number, size: number): UndoSample[] {
  return Array.from({ length: count }, (_, index) => {
    const offset = whole(tryU64(part, 16 + index * 12));
    if (offset >= size) throw damaged();
    return { offset, checksum: getU32(part, 24 + index * 12) };
  });
}

/** The first block, the last, and others evenly between. */
function samplesV1(part: Buffer, count: number, size: number): UndoSample[] {
  const blocks = Math.ceil(size / GRANULE);
  if (count !== Math.min(MAX_SAMPLES_V1, blocks)) throw damaged();
  return Array.from({ length: count }, (_, index) => ({
    offset: (count === 1 ? 0 : Math.floor((index * (blocks - 1)) / (count - 1))) * GRANULE,
    checksum: getU32(part, 16 + index * 4),
  }));
}

/** The checksum of contents as a file of this version has it. */
export function contentsChecksum(bytes: Buffer, version: UndoVersion): number {
  if (version === 1) return crc32c(bytes);
  return getU32(createHash("sha256").update(bytes).digest(), 0);
}

/** Header, payload and padding. @param payload at most {@link MAX_PAYLOAD}. */
export function encodeRecord(uuid: Buffer, record: UndoRecord, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(recordLength(payload.length));
  RECORD_MAGIC.copy(bytes);
  setU32(bytes, 12, recordKinds[record.kind]);
  uuid.copy(bytes, 16, 0, 16);
  setU64(bytes, 32, record.number);
  setU32(bytes, 40, record.device);
  setU32(bytes, 44, crc32c(payload));
  setU64(bytes, 48, record.offset);
  setU64(bytes, 56, record.length);
  setU64(bytes, 64, payload.length);
  setU64(bytes, 72, record.durable);
  payload.copy(bytes, RECORD_HEADER);
  setU32(bytes, 8, crc32c(bytes.subarray(0, RECORD_HEADER)));
  return bytes;
}

/** Bytes a record with a payload of `payload` bytes takes in the file. */
export function recordLength(payload: number): number {
  return padded(RECORD_HEADER + payload, RECORD_ALIGNMENT);
}

/** Where the payload of a record that starts at `at` starts. */
export function payloadStart(at: number): number {
  return at + RECORD_HEADER;
}

/** A record's header, or undefined if there is none of this file here. @param bytes at least 512. */
export function decodeRecord(uuid: Buffer, bytes: Buffer): StoredRecord | undefined {
  if (bytes.length < RECORD_ALIGNMENT || !bytes.subarray(0, 8).equals(RECORD_MAGIC)) return undefined;
  const header = bytes.subarray(0, RECORD_HEADER);
  if (!header.subarray(16, 32).equals(uuid) || getU32(header, 8) !== crcWithout(header, 8)) return undefined;
  const kind = kindNames.get(getU32(header, 12));
  const record = {
    number: tryU64(header, 32),
    device: getU32(header, 40),
    offset: tryU64(header, 48),
    length: tryU64(header, 56),
    payload: tryU64(header, 64),
    durable: tryU64(header, 72),
  };
  if (kind === undefined || Object.values(record).some((value) => Number.isNaN(value))) return undefined;
  if (record.payload !== payloadOf(kind, record.length) || record.payload > MAX_PAYLOAD) return undefined;
  return { kind, ...record, payloadCrc: getU32(header, 44) };
}

function payloadOf(kind: RecordKind, length: number): number {
  return kind === "data" ? length : kind === "after" ? length * 4 : 0;
}

/** Checksums as the payload of an `after` record. */
export function encodeChecksums(checksums: readonly number[]): Buffer {
  const bytes = Buffer.alloc(checksums.length * 4);
  for (const [index, checksum] of checksums.entries()) setU32(bytes, index * 4, checksum);
  return bytes;
}

export function decodeChecksums(payload: Buffer): number[] {
  return Array.from({ length: Math.floor(payload.length / 4) }, (_, index) => getU32(payload, index * 4));
}

// The CRC stands in what it covers: counted as zero there.
function crcWithout(bytes: Buffer, at: number): number {
  const rest = crc32c(NO_CRC, crc32c(bytes.subarray(0, at)));
  return crc32c(bytes.subarray(at + 4), rest);
}

const NO_CRC = Buffer.alloc(4);

function whole(value: number): number {
  if (Number.isNaN(value)) throw damaged();
  return value;
}

function damaged(): BlockIoError {
  return refusal(
    "the header of the undo file is damaged",
    "Nothing was written. Restore the file from a copy.",
  );
}

function refusal(reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EFORMAT", hint });
}
