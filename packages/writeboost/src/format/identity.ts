/**
 * The identity record: dmkit's own, in sector 8 of the cache device (old drivers ignore it and write zeroes
 * there only when they format), with a copy of its first half on the plog device, the name of that: in its last sector
 * where there is room behind the plog segments, else in its first one (plog-place.ts). One sector, so it is written
 * whole or not at all.
 *
 *      0    magic, 8 bytes "dmkitWB1"
 *      8    crc u32          CRC-32C of the sector with this field zero
 *      12   version u8       2; 1 is read, and has zeroes in what is marked with (2)
 *      13   dialect u8       0 classic, 1 v2
 *      14   clean u8         1: closed in order, nothing has changed since
 *      15   order u8
 *      16   cache uuid, 16 bytes
 *      32   plog uuid, 16 bytes, zero without a plog
 *      48   backing size u64, bytes: all blocks in the log lie in front of it; the device may be larger
 *      56   backing sample u32   version 1: CRC-32C over blocks of the backing device; counts only when clean
 *      60   plog segments u32    P when it was last written, 0 without a plog
 *      64   covered id u64   segments up to here have been on the cache device when it was flushed
 *      72   last id u64      of the log when it was closed; counts only when clean
 *      80   recorded id u64   copy of the superblock record, which has no checksum; written together with it
 *      88   slots u64        (2) N; the cache device may be larger
 *      96   plog size u64    (2) bytes of the plog device that are in use, its name in the last sector of them; else zero
 *      104  name u8           (2) 1: the name of the plog is in the plog's first sector; 0: in the last one, if anywhere
 *      105  left u8           (2) 1: left behind by an exchange by force, as the header says as well (superblock.ts); any
 *                            record that is written after that has 0
 *      106  through u8        (2) 1: written through: unless it is closed in order, nothing in the log counts, since the backing
 *                            device has all that was acknowledged, and may have been used since without the cache
 *      107  zero
 *      112  witness, 32 bytes    (2) of the first `backing size` bytes of the backing device (block-io's witness.ts);
 *                            zero: none was taken; counts only when clean
 *      144  archive, 16 bytes    (2) what the cache is called in the archive of its log; zero: there is none
 *      160  zero
 */
import { crc32c, getU32, getU8, isZero, setU32, setU64, setU8, tryU64 } from "@dmkit/block-io";
import type { Dialect } from "./checksum.ts";
import { BLOCK } from "./geometry.ts";

/** Bytes; sectors 8 … 15 of the cache device. */
export const IDENTITY_START = 4096;

const MAGIC = Buffer.from("dmkitWB1", "latin1");

/** What the identity record says of a cache: which devices belong together, and how far its log was known to be whole. */
export interface Identity {
  readonly version: 1 | 2;
  readonly dialect: Dialect;
  readonly order: number;
  readonly clean: boolean;
  /** 32 hexadecimal digits. */
  readonly cache: string;
  /** 32 hexadecimal digits; all zero without a plog. */
  readonly plog: string;
  /** Bytes. */
  readonly backingSize: number;
  /** Of version 1. */
  readonly backingSample: number;
  readonly plogSegments: number;
  readonly coveredId: number;
  readonly lastId: number;
  readonly recordedId: number;
  /** N; 0: not known. */
  readonly slots: number;
  /** Bytes; 0: there is no plog, or its size is not known. */
  readonly plogSize: number;
  /** The plog has its name in its first sector. */
  readonly nameAtStart: boolean;
  /** 64 hexadecimal digits; {@link NO_WITNESS}: none. */
  readonly witness: string;
  /** 32 hexadecimal digits; {@link NO_UUID}: its log is not archived. */
  readonly archive: string;
  /** It was left behind by an exchange by force, and nobody has written to it since. */
  readonly left?: true;
  /** The backing device has all that was acknowledged. */
  readonly through?: boolean;
}

export const NO_WITNESS: string = "0".repeat(64);

export const NO_UUID: string = "0".repeat(32);

/** 4 KiB, the record in its first sector. @param left whether the cache is being left behind. */
export function encodeIdentity(identity: Identity, left = false): Buffer {
  const block = Buffer.alloc(BLOCK);
  MAGIC.copy(block);
  setU8(block, 12, identity.version);
  setU8(block, 13, identity.dialect === "classic" ? 0 : 1);
  setU8(block, 14, identity.clean ? 1 : 0);
  setU8(block, 15, identity.order);
  Buffer.from(identity.cache, "hex").copy(block, 16, 0, 16);
  Buffer.from(identity.plog, "hex").copy(block, 32, 0, 16);
  setU64(block, 48, identity.backingSize);
  setU32(block, 56, identity.backingSample);
  setU32(block, 60, identity.plogSegments);
  setU64(block, 64, identity.coveredId);
  setU64(block, 72, identity.lastId);
  setU64(block, 80, identity.recordedId);
  setU64(block, 88, identity.slots);
  setU64(block, 96, identity.plogSize);
  setU8(block, 104, identity.nameAtStart ? 1 : 0);
  setU8(block, 105, left ? 1 : 0);
  setU8(block, 106, identity.through === true ? 1 : 0);
  Buffer.from(identity.witness, "hex").copy(block, 112, 0, 32);
  Buffer.from(identity.archive, "hex").copy(block, 144, 0, 16);
  setU32(block, 8, crc32c(block.subarray(0, 512)));
  return block;
}

/** The cache uuid of a record that may be damaged. */
export function uuidAt(block: Buffer): string {
  return block.toString("hex", 16, 32);
}

/**
 * What is where the record should be. `blank`: all zero. `foreign`: something else is there, or it is damaged; it is
 * left alone. `unreadable`: the device does not give it.
 */
export type StoredIdentity = Identity | "blank" | "foreign" | "unreadable";

export function decodeIdentity(block: Buffer): Exclude<StoredIdentity, "unreadable"> {
  const sector = Buffer.from(block.subarray(0, 512));
  if (isZero(block, 0, Math.min(block.length, BLOCK))) return "blank";
  const crc = getU32(sector, 8);
  setU32(sector, 8, 0);
  const version = getU8(sector, 12);
  const isKnown = version === 1 || version === 2;
  if (!sector.subarray(0, 8).equals(MAGIC) || crc32c(sector) !== crc || !isKnown) return "foreign";
  const coveredId = tryU64(sector, 64);
  const lastId = tryU64(sector, 72);
  const recordedId = tryU64(sector, 80);
  const backingSize = tryU64(sector, 48);
  // Nothing was there in version 1, and nothing that may be there now counts.
  const slots = version === 1 ? 0 : tryU64(sector, 88);
  const plogSize = version === 1 ? 0 : tryU64(sector, 96);
  const numbers = [coveredId, lastId, recordedId, backingSize, slots, plogSize];
  if (numbers.some(Number.isNaN)) return "foreign";
  return {
    version,
    dialect: getU8(sector, 13) === 1 ? "v2" : "classic",
    order: getU8(sector, 15),
    clean: getU8(sector, 14) === 1,
    cache: sector.toString("hex", 16, 32),
    plog: sector.toString("hex", 32, 48),
    backingSize,
    backingSample: getU32(sector, 56),
    plogSegments: getU32(sector, 60),
    coveredId,
    lastId,
    recordedId,
    slots,
    plogSize,
    nameAtStart: version !== 1 && getU8(sector, 104) === 1,
    witness: version === 1 ? NO_WITNESS : sector.toString("hex", 112, 144),
    archive: version === 1 ? NO_UUID : sector.toString("hex", 144, 160),
    ...(version !== 1 && getU8(sector, 105) === 1 ? { left: true } : {}),
    ...(version !== 1 && getU8(sector, 106) === 1 ? { through: true } : {}),
  };
}
