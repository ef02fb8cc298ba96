/**
 * The log of a log-writes device: the format of the kernel's dm-log-writes, so that its tools read ours, with
 * an extension in bytes they ignore, which tells the order of events. Integers are little-endian, a sector has
 * 512 bytes.
 *
 *      sector 0    superblock
 *                    0  u64  magic 0x6a736677736872
 *                    8  u64  version 1
 *                   16  u64  number of entries; brought up to date at each flush and at close
 *                   24  u32  sector size: 512
 *                  504  u32  session, of all entries of this log
 *      sector 1 …  entries, one behind the other: a header, then the data of a write
 *                    0  u64  first sector
 *                    8  u64  sectors; 0 for flushes and marks
 *                   16  u64  flags: 1 flush, 2 FUA, 4 discard, 8 mark
 *                   24  u64  bytes of data; for a mark, of the text that follows at once (at most 448)
 *                   32       text of a mark
 *                  480  u32  magic of the extension, "dmlw"
 *                  484  u32  CRC-32C of the header with this field zero
 *                  488  u64  tick at which the request was submitted
 *                  496  u64  tick at which it was answered
 *                  504  u32  session
 *                  508  u32  1 if it failed, else 0
 *
 * Ticks count events over all log-writes devices of one environment. Entries come in order of answers. Entries
 * beyond the number in the superblock count as long as extension, CRC and session are right: the process that
 * wrote the log may have been killed.
 */
import { getU32, setU32, setU64, tryU64 } from "../bytes/bytes.ts";
import { crc32c } from "../bytes/crc32c.ts";
import { BlockIoError } from "../contract/errors.ts";

const SECTOR = 512;
// Its two halves: as a whole it is beyond 2^53.
const MAGIC_LOW = 0x7773_6872;
const MAGIC_HIGH = 0x006a_7366;
const VERSION = 1;
const EXTENSION = 0x776c_6d64;
const FLUSH = 1;
const FUA = 2;
const DISCARD = 4;
const MARK = 8;
/** Bytes of a mark's text, at most. */
export const MARK_LIMIT = 448;

export interface WriteLogSuperblock {
  readonly entries: number;
  /** 0 … 2^32 - 1. */
  readonly session: number;
}

/** One logged request. Offsets and lengths in bytes, of the logged device. */
export interface WriteLogEntry {
  readonly kind: "write" | "flush" | "discard" | "mark";
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly text: string;
  readonly submitted: number;
  readonly answered: number;
  readonly failed: boolean;
}

export function encodeSuperblock({ entries, session }: WriteLogSuperblock): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  setU32(bytes, 0, MAGIC_LOW);
  setU32(bytes, 4, MAGIC_HIGH);
  setU64(bytes, 8, VERSION);
  setU64(bytes, 16, entries);
  setU32(bytes, 24, SECTOR);
  setU32(bytes, 504, session);
  return bytes;
}

/** Whether a log begins so, of whatever version. */
export function isWriteLog(bytes: Buffer): boolean {
  return getU32(bytes, 0) === MAGIC_LOW && getU32(bytes, 4) === MAGIC_HIGH;
}

/** Throws `EFORMAT` if this is no log, or one with other sectors. */
export function decodeSuperblock(bytes: Buffer): WriteLogSuperblock {
  if (!isWriteLog(bytes) || tryU64(bytes, 8) !== VERSION || getU32(bytes, 24) !== SECTOR) {
    throw new BlockIoError("this is not a write log of 512-byte sectors", {
      code: "EFORMAT",
      hint: "Give the log of a log-writes device.",
    });
  }
  return { entries: tryU64(bytes, 16), session: getU32(bytes, 504) };
}

/** The header of an entry. */
export function encodeEntry(entry: WriteLogEntry, session: number): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  const text = Buffer.from(entry.text);
  setU64(bytes, 0, entry.offset / SECTOR);
  setU64(bytes, 8, entry.length / SECTOR);
  setU64(bytes, 16, flagsOf(entry));
  setU64(bytes, 24, entry.kind === "mark" ? text.length : entry.kind === "write" ? entry.length : 0);
  text.copy(bytes, 32, 0, MARK_LIMIT);
  setU32(bytes, 480, EXTENSION);
  setU64(bytes, 488, entry.submitted);
  setU64(bytes, 496, entry.answered);
  setU32(bytes, 504, session);
  setU32(bytes, 508, entry.failed ? 1 : 0);
  setU32(bytes, 484, crc32c(bytes));
  return bytes;
}

/** The entry of this session whose header this is, or undefined: the log ends here. */
export function decodeEntry(bytes: Buffer, session: number): WriteLogEntry | undefined {
  if (getU32(bytes, 480) !== EXTENSION || getU32(bytes, 504) !== session) return undefined;
  const zeroed = Buffer.from(bytes);
  setU32(zeroed, 484, 0);
  if (crc32c(zeroed) !== getU32(bytes, 484)) return undefined;
  const [first, sectors, flags, length] = [0, 8, 16, 24].map((at) => tryU64(bytes, at)) as FourNumbers;
  const submitted = tryU64(bytes, 488);
  const answered = tryU64(bytes, 496);
  const mark = (flags & MARK) !== 0;
  // A comparison with NaN is false: what is out of range is refused here.
  if (!(first < 2 ** 44 && sectors < 2 ** 32 && submitted >= 0 && answered >= submitted)) return undefined;
  if (mark ? !(length <= MARK_LIMIT) : !(length === 0 || length === sectors * SECTOR)) return undefined;
  return {
    kind: mark ? "mark" : flags & DISCARD ? "discard" : flags & FLUSH ? "flush" : "write",
    offset: first * SECTOR,
    length: sectors * SECTOR,
    fua: (flags & FUA) !== 0,
    text: mark ? bytes.toString("utf8", 32, 32 + length) : "",
    submitted,
    answered,
    failed: getU32(bytes, 508) !== 0,
  };
}

type FourNumbers = [number, number, number, number];

/** Sectors of the log an entry takes. */
export function sectorsOfEntry({ kind, length }: WriteLogEntry): number {
  return 1 + (kind === "write" ? length / SECTOR : 0);
}

function flagsOf({ kind, fua }: WriteLogEntry): number {
  const flags = { write: 0, flush: FLUSH, discard: DISCARD, mark: MARK };
  return flags[kind] | (fua ? FUA : 0);
}
