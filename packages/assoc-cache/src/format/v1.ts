/**
 * The historical metadata (version 1), at the end of the cache device, little-endian. It is written at a clean
 * close only. Sectors, counted from the end of the device:
 *
 *      size - 1 - T … size - 2   the table: frames × u64, the source *sector* of the block in each frame, 0 = empty;
 *                                T = ceil(frames · 8 / 512); the slack after it is uninitialised, but summed
 *      size - 1                  the configuration:
 *          0    u64   frames
 *          8    u32   sectors of a block
 *          12   u32   ways of a set
 *          16   u32   policy: 0 write-through, 1 write-back
 *          20   u32   checksum of the table, slack included
 *          24         uninitialised; dmkit writes the mark "dmkit v1" and zeroes. While it uses the cache the mark stands
 *                     alone, behind zeroes, which are no configuration
 *
 * Frame i's data is at sector i · block size. Source block 0 cannot be remembered.
 *
 * The checksum is the kernel's partial ones-complement sum of 32 bits, and the original compares all 32. As x86
 * computes it (32-bit or 64-bit words, in any pieces, carries added in again) it is the sum of the table's 32-bit
 * words modulo 2^32 - 1; of the two ways to write 0 there it is 0 where all words are 0, else 0xFFFFFFFF. That is
 * what is written. Elsewhere only the fold to 16 bits is sure, where 0 and 0xFFFF are the same; versions of dmkit
 * stored the fold itself. So that is enough for reading, but {@link checksumMatchV1} tells which it was.
 */
import { SECTOR, getU32, setU32, setU64, tryU64 } from "@dmkit/block-io";
import { type Geometry, geometryProblem } from "./geometry.ts";

export interface ConfigurationV1 {
  readonly geometry: Geometry;
  readonly writeBack: boolean;
  /** As stored; see {@link checksumMatchV1}. */
  readonly checksum: number;
}

/** Where the original left things as they were; tells an empty cache from other people's small numbers. */
const MARK = Buffer.from("dmkit v1", "latin1");
const MARK_AT = 24;

/** Sectors of the table. */
export function tableSectorsV1(frames: number): number {
  return Math.ceil((frames * 8) / SECTOR);
}

/** Sectors the device must have at least: frames, table and configuration. */
export function requiredSectorsV1({ frames, blockSectors }: Geometry): number {
  return frames * blockSectors + tableSectorsV1(frames) + 1;
}

/** The configuration in a sector, or in words why it is none. A sector of zeroes is none. */
export function decodeConfigurationV1(bytes: Buffer, deviceSectors: number): ConfigurationV1 | string {
  const geometry: Geometry = {
    frames: tryU64(bytes, 0),
    blockSectors: getU32(bytes, 8),
    ways: getU32(bytes, 12),
  };
  const problem = geometryProblem(geometry);
  if (problem !== undefined) return problem;
  if (requiredSectorsV1(geometry) > deviceSectors) return "the cache does not fit the device";
  const policy = getU32(bytes, 16);
  if (policy > 1) return `policy ${policy} is not known`;
  return { geometry, writeBack: policy === 1, checksum: getU32(bytes, 20) };
}

/** One sector. */
export function encodeConfigurationV1({ geometry, writeBack, checksum }: ConfigurationV1): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  setU64(bytes, 0, geometry.frames);
  setU32(bytes, 8, geometry.blockSectors);
  setU32(bytes, 12, geometry.ways);
  setU32(bytes, 16, writeBack ? 1 : 0);
  setU32(bytes, 20, checksum);
  bytes.set(MARK, MARK_AT);
  return bytes;
}

/** One sector: a cache in use, or not closed. Nothing in it counts, and it is ours to be made anew. */
export function encodeInUseV1(): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  bytes.set(MARK, MARK_AT);
  return bytes;
}

/** Whether dmkit wrote a configuration, or is using the cache. */
export function hasMarkV1(bytes: Buffer): boolean {
  return bytes.subarray(MARK_AT, MARK_AT + MARK.length).equals(MARK);
}

/** The source sector in the table's entry, 0 for an empty frame, NaN if it is out of range. */
export function sectorInTableV1(table: Buffer, frame: number): number {
  return tryU64(table, frame * 8);
}

export function putSectorInTableV1(table: Buffer, frame: number, sector: number): void {
  setU64(table, frame * 8, sector);
}

const CARRY = 0x1_0000_0000;

/** The checksum of a table of whole sectors, as the original computes and compares it; 32 bits. */
export function checksumV1(table: Uint8Array): number {
  let sum = 0;
  for (let sector = 0; sector < table.length; sector += SECTOR) {
    for (let at = sector; at < sector + SECTOR; at += 4) sum += getU32(table, at);
    // Adding carries in again never makes 0 of what is not 0.
    while (sum >= CARRY) sum = (sum % CARRY) + Math.floor(sum / CARRY);
  }
  return sum;
}

/**
 * How a stored checksum agrees with the table: `whole`, which the original takes; `folded` to 16 bits only, which
 * it refuses; undefined: not at all.
 */
export type ChecksumMatch = "whole" | "folded";

export function checksumMatchV1(stored: number, table: Uint8Array): ChecksumMatch | undefined {
  const sum = checksumV1(table);
  if (stored === sum) return "whole";
  return foldV1(stored) === foldV1(sum) ? "folded" : undefined;
}

/** The 16-bit fold of a sum. 0 and 0xFFFF mean the same: both fold to 0. */
export function foldV1(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 0x1_0000) + Math.floor(folded / 0x1_0000);
  return folded === 0xffff ? 0 : folded;
}
