/**
 * Reads an undo file: all of it is verified before anything is written anywhere.
 *
 * What is torn at the end of a file was never relied on, see recorder.ts. Every record says how much of the file
 * was stable when it was written: so damage before that is told from a torn end, and refused.
 */
import { BlockIoError, crc32c } from "@dmkit/block-io";
import {
  HEADER_START,
  RECORD_ALIGNMENT,
  type StoredRecord,
  type UndoHeader,
  decodeChecksums,
  decodeHeader,
  decodeRecord,
  headerLength,
  payloadStart,
  recordLength,
} from "../format/undo-file.ts";
import type { Range } from "./sample.ts";
import type { UndoStorage } from "./storage.ts";

/** A range that was saved. */
export interface SavedRange extends Range {
  readonly device: number;
  /** Where its contents stand in the file; undefined: it was all zeroes. */
  readonly payload: number | undefined;
  readonly checksum: number;
  /** Checksum of its start when the work had ended, as the version of the file has it. */
  after: number | undefined;
}

export interface UndoFile {
  readonly header: UndoHeader;
  readonly ranges: readonly SavedRange[];
  /** `saved`: nobody has begun to restore. */
  readonly state: "saved" | "begun" | "undone";
  /** The work that was saved for ended orderly. */
  readonly complete: boolean;
  /** Where the next record goes. */
  readonly end: number;
  /** How many records there are. */
  readonly records: number;
  /** Bytes behind the last record that are torn. */
  readonly torn: number;
}

const CHUNK = 1024 * 1024;

/** Throws `EFORMAT` for what is no undo file, or a damaged one. @param path for messages. */
export async function readUndoFile(storage: UndoStorage, path: string): Promise<UndoFile> {
  try {
    return await readAll(storage);
  } catch (error) {
    if (!(error instanceof BlockIoError) || error.device !== undefined) throw error;
    const { reason, code, hint } = error;
    throw new BlockIoError(reason, { code, device: path, hint, cause: error });
  }
}

async function readAll(storage: UndoStorage): Promise<UndoFile> {
  const header = await readHeader(storage);
  const { size, uuid, start } = { size: await storage.size(), uuid: header.uuid, start: header.length };
  const ranges: SavedRange[] = [];
  let state: UndoFile["state"] = "saved";
  let at = start;
  let number = 0;
  let spoken = 0;
  for (;;) {
    const found = await readRecord(storage, uuid, at);
    if (found === undefined || found.record.number !== number) break;
    const { record, payload } = found;
    if (record.kind === "data" || record.kind === "zeroes") {
      ranges.push(savedRange(record, header.header, at));
    } else if (record.kind === "after") {
      spoken += noteAfter(ranges, record, payload);
    } else {
      state = record.kind;
    }
    at += recordLength(record.payload);
    number += 1;
  }
  await refuseHole(storage, uuid, at, size);
  refuseOverlaps(ranges);
  const complete = ranges.length > 0 && spoken === ranges.length;
  return { header: header.header, ranges, state, complete, end: at, records: number, torn: size - at };
}

async function readHeader(
  storage: UndoStorage,
): Promise<{ header: UndoHeader; length: number; uuid: Buffer }> {
  const start = Buffer.alloc(HEADER_START);
  const count = await storage.read(0, start);
  const bytes = Buffer.alloc(headerLength(start.subarray(0, count)));
  await storage.read(0, bytes);
  const header = decodeHeader(bytes);
  return { header, length: bytes.length, uuid: header.uuid };
}

/** A whole record with a sound payload, or undefined. */
async function readRecord(
  storage: UndoStorage,
  uuid: Buffer,
  at: number,
): Promise<{ record: StoredRecord; payload: Buffer } | undefined> {
  const head = Buffer.alloc(RECORD_ALIGNMENT);
  await storage.read(at, head);
  const record = decodeRecord(uuid, head);
  if (record === undefined) return undefined;
  const payload = Buffer.allocUnsafeSlow(record.payload);
  const count = await storage.read(payloadStart(at), payload);
  return count === payload.length && crc32c(payload) === record.payloadCrc ? { record, payload } : undefined;
}

function savedRange(record: StoredRecord, { devices }: UndoHeader, at: number): SavedRange {
  const { device, offset, length, kind, payloadCrc } = record;
  const size = devices[device]?.size;
  if (size === undefined || length === 0 || offset > size || length > size - offset) throw damaged(at);
  return {
    device,
    offset,
    length,
    payload: kind === "data" ? payloadStart(at) : undefined,
    checksum: payloadCrc,
    after: undefined,
  };
}

function noteAfter(ranges: readonly SavedRange[], { offset }: StoredRecord, payload: Buffer): number {
  let count = 0;
  for (const [index, checksum] of decodeChecksums(payload).entries()) {
    const range = ranges[offset + index];
    if (range === undefined) continue;
    range.after = checksum;
    count += 1;
  }
  return count;
}

/** Behind the last record that can be read there must be none that relied on more. */
async function refuseHole(storage: UndoStorage, uuid: Buffer, end: number, size: number): Promise<void> {
  const chunk = Buffer.alloc(CHUNK);
  for (let at = end; at < size; at += CHUNK) {
    const count = await storage.read(at, chunk);
    for (let within = 0; within + RECORD_ALIGNMENT <= count; within += RECORD_ALIGNMENT) {
      const record = decodeRecord(uuid, chunk.subarray(within, within + RECORD_ALIGNMENT));
      if (record !== undefined && record.durable > end) throw damaged(end);
    }
  }
}

/** What was saved once is not saved again. */
function refuseOverlaps(ranges: readonly SavedRange[]): void {
  let last: SavedRange | undefined;
  for (const range of ranges.toSorted((a, b) => a.device - b.device || a.offset - b.offset)) {
    if (last?.device === range.device && last.offset + last.length > range.offset) {
      throw damaged(range.payload ?? 0);
    }
    last = range;
  }
}

function damaged(at: number): BlockIoError {
  return new BlockIoError(`the undo file is damaged at byte ${at}`, {
    code: "EFORMAT",
    hint: "Nothing was written. Restore the file from a copy: without it the image stays as it is.",
  });
}
