/**
 * The superblock, version 1: 8192 bytes, little-endian, stored twice.
 *
 *      0     8 bytes    magic "DMKTRACK"
 *      8     u32        version, 1
 *      12    u32        flags: 1 = closed cleanly, 2 = the witness is valid
 *      16    16 bytes   UUID, made anew whenever the bitmaps are made anew
 *      32    u64        generation: the valid copy with the higher one counts
 *      40    u64        bytes that are tracked
 *      48    u64        bytes of a chunk, a power of two
 *      56    u32        slots
 *      60    u32        zero
 *      64    u64        number of the next epoch; no number is used twice
 *      72    8 bytes    zero
 *      80    32 bytes   witness of the data device at the clean close (block-io's witness.ts)
 *      112   400 bytes  zero
 *      512   64 × 96    the slots' epochs:
 *            +0   u64       number; 0: the slot is free, and the rest of the entry zero
 *            +8   u64       milliseconds since 1970 when it began
 *            +16  u32       flags: 1 = more is marked than has changed
 *            +20  u8        bytes of the name, 1 … 63
 *            +21  63 bytes  the name, UTF-8, then zeroes
 *            +84  12 bytes  zero
 *      6656  1532 bytes zero
 *      8188  u32        CRC-32C of bytes 0 … 8187
 */
import {
  UUID_BYTES,
  crc32c,
  getU32,
  getU8,
  nameProblem,
  setU32,
  setU64,
  setU8,
  tryU64,
  uuidBytes,
  uuidText,
} from "@dmkit/block-io";
import { type Geometry, MAX_SLOTS, SUPERBLOCK_BYTES, geometryProblem } from "./geometry.ts";

/** One epoch, as the superblock has it. */
export interface EpochRecord {
  readonly slot: number;
  /** Never used twice on one bitmap device; at least 1. */
  readonly number: number;
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly begun: number;
  /** Something was lost, or changed unseen, and is marked as a whole. */
  readonly excess: boolean;
}

/** What the bitmap device says of itself and of its epochs. */
export interface Superblock {
  /** Lower-case text. */
  readonly uuid: string;
  readonly generation: number;
  readonly clean: boolean;
  /** 64 hexadecimal digits; undefined where none was taken. */
  readonly witness: string | undefined;
  readonly geometry: Geometry;
  readonly nextNumber: number;
  /** By slot. */
  readonly epochs: readonly EpochRecord[];
}

const MAGIC = Buffer.from("DMKTRACK", "latin1");
const VERSION = 1;
const ENTRIES_AT = 512;
const ENTRY_BYTES = 96;
const NAME_AT = 21;
const CRC_AT = SUPERBLOCK_BYTES - 4;
const flagBits = { clean: 1, witness: 2 } as const;
const EXCESS = 1;

/** {@link SUPERBLOCK_BYTES} bytes. */
export function encodeSuperblock(superblock: Superblock): Buffer {
  const { geometry, clean, witness, epochs } = superblock;
  const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
  bytes.set(MAGIC, 0);
  setU32(bytes, 8, VERSION);
  setU32(bytes, 12, (clean ? flagBits.clean : 0) | (witness === undefined ? 0 : flagBits.witness));
  bytes.set(uuidBytes(superblock.uuid), 16);
  setU64(bytes, 32, superblock.generation);
  setU64(bytes, 40, geometry.size);
  setU64(bytes, 48, geometry.chunk);
  setU32(bytes, 56, geometry.slots);
  setU64(bytes, 64, superblock.nextNumber);
  if (witness !== undefined) Buffer.from(witness, "hex").copy(bytes, 80, 0, 32);
  for (const { slot, number, name, begun, excess } of epochs) {
    const at = ENTRIES_AT + slot * ENTRY_BYTES;
    setU64(bytes, at, number);
    setU64(bytes, at + 8, begun);
    setU32(bytes, at + 16, excess ? EXCESS : 0);
    setU8(bytes, at + 20, Buffer.byteLength(name));
    bytes.write(name, at + NAME_AT, "utf8");
  }
  setU32(bytes, CRC_AT, crc32c(bytes.subarray(0, CRC_AT)));
  return bytes;
}

/** Whether these bytes want to be a superblock, valid or not. */
export function hasMagic(bytes: Buffer): boolean {
  return bytes.subarray(0, MAGIC.length).equals(MAGIC);
}

/** The superblock, or in words what is wrong with it. */
export function decodeSuperblock(bytes: Buffer): Superblock | string {
  if (bytes.length < SUPERBLOCK_BYTES || !hasMagic(bytes)) return "there is no superblock";
  if (getU32(bytes, CRC_AT) !== crc32c(bytes.subarray(0, CRC_AT))) return "the checksum is wrong";
  const version = getU32(bytes, 8);
  if (version !== VERSION) return `version ${version} is not known: another dmkit has made it`;
  const flags = getU32(bytes, 12);
  if ((flags & ~(flagBits.clean | flagBits.witness)) !== 0) return `flags ${flags} are not known`;
  const geometry = { size: tryU64(bytes, 40), chunk: tryU64(bytes, 48), slots: getU32(bytes, 56) };
  const problem = geometryProblem(geometry);
  if (problem !== undefined) return problem;
  const generation = tryU64(bytes, 32);
  const nextNumber = tryU64(bytes, 64);
  if (Number.isNaN(generation) || !(nextNumber >= 1)) return "a value is out of range";
  const epochs: EpochRecord[] = [];
  for (let slot = 0; slot < MAX_SLOTS; slot += 1) {
    const epoch = decodeEntry(bytes, slot);
    if (typeof epoch === "string") return `slot ${slot}: ${epoch}`;
    if (epoch === undefined) continue;
    if (slot >= geometry.slots) return `slot ${slot} is behind the last one`;
    if (epoch.number >= nextNumber) return `slot ${slot}: the epoch has a number that was not given yet`;
    const double = epochs.find(({ name, number }) => name === epoch.name || number === epoch.number);
    if (double !== undefined) return `slot ${slot}: the epoch is that of slot ${double.slot}`;
    epochs.push(epoch);
  }
  return {
    uuid: uuidText(bytes.subarray(16, 16 + UUID_BYTES)),
    generation,
    clean: (flags & flagBits.clean) !== 0,
    witness: (flags & flagBits.witness) === 0 ? undefined : bytes.toString("hex", 80, 112),
    geometry,
    nextNumber,
    epochs,
  };
}

function decodeEntry(bytes: Buffer, slot: number): EpochRecord | string | undefined {
  const at = ENTRIES_AT + slot * ENTRY_BYTES;
  const number = tryU64(bytes, at);
  if (number === 0) return undefined;
  const begun = tryU64(bytes, at + 8);
  const flags = getU32(bytes, at + 16);
  if (Number.isNaN(number) || Number.isNaN(begun)) return "a value is out of range";
  if ((flags & ~EXCESS) !== 0) return `flags ${flags} are not known`;
  const stored = bytes.subarray(at + NAME_AT, at + NAME_AT + getU8(bytes, at + 20));
  const name = stored.toString("utf8");
  const problem = stored.equals(Buffer.from(name)) ? nameProblem(name) : "the name is no UTF-8";
  if (problem !== undefined) return problem;
  return { slot, number, name, begun, excess: (flags & EXCESS) !== 0 };
}
