/**
 * An entry sector, version 2: 63 frames' states, 512 bytes, little-endian.
 *
 *      0    63 × u64   block · 4 + state of frame 63 · sector + n; all zero: the frame is empty
 *                      state 1 = clean, 2 = dirty; block = source sector / block size
 *      504  u32        zero
 *      508  u32        CRC-32C over: UUID of the cache (16 bytes), number of this sector (u32), bytes 0 … 507
 *
 * The UUID and the number make a sector of an older cache, or one that was written to the wrong place, invalid.
 */
import { UUID_BYTES, crc32c, getU32, setU32, setU64, tryU64 } from "@dmkit/block-io";

export const ENTRIES_PER_SECTOR = 63;

/** What an entry says of its frame. */
export const entryStates = { empty: 0, clean: 1, dirty: 2 } as const;
export type EntryState = (typeof entryStates)[keyof typeof entryStates];

const CRC_AT = 508;
/** Blocks of one sector on the largest device: beyond this an entry is not believed. */
const MAX_BLOCK = 2 ** 44;

/** Entry sectors of one cache; holds what the checksums are salted with. */
export class EntryCodec {
  readonly #salt: Buffer;

  /** @param uuid the 16 bytes of the cache's UUID. */
  constructor(uuid: Uint8Array) {
    this.#salt = Buffer.alloc(UUID_BYTES + 4);
    this.#salt.set(uuid);
  }

  /** Writes entry `slot` (0 … 62) of the sector at `at`. */
  put(into: Buffer, at: number, slot: number, state: EntryState, block: number): void {
    setU64(into, at + slot * 8, state === entryStates.empty ? 0 : block * 4 + state);
  }

  /** Fills in the checksum of entry sector number `index` at `at`, when all its entries are in place. */
  seal(into: Buffer, at: number, index: number): void {
    setU32(into, at + CRC_AT - 4, 0);
    setU32(into, at + CRC_AT, this.#checksum(into, at, index));
  }

  /** Whether the sector at `at` is entry sector number `index` of this cache, undamaged. */
  intact(from: Buffer, at: number, index: number): boolean {
    return getU32(from, at + CRC_AT) === this.#checksum(from, at, index);
  }

  /** State of entry `slot`; undefined if it is none of the known ones or its block is out of range. */
  state(from: Buffer, at: number, slot: number): EntryState | undefined {
    const value = tryU64(from, at + slot * 8);
    if (value === 0) return entryStates.empty;
    const state = value % 4;
    if (!(Math.floor(value / 4) < MAX_BLOCK)) return undefined;
    return state === entryStates.clean || state === entryStates.dirty ? state : undefined;
  }

  /** Block of entry `slot`; meaningful if its state is clean or dirty. */
  block(from: Buffer, at: number, slot: number): number {
    return Math.floor(tryU64(from, at + slot * 8) / 4);
  }

  #checksum(bytes: Buffer, at: number, index: number): number {
    setU32(this.#salt, UUID_BYTES, index);
    return crc32c(bytes.subarray(at, at + CRC_AT), crc32c(this.#salt));
  }
}

/** Entry sectors `frames` frames need. */
export function entrySectorsFor(frames: number): number {
  return Math.ceil(frames / ENTRIES_PER_SECTOR);
}
