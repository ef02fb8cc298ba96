/**
 * Format 2: the superblock, one sector, in blocks 0 and 1; little-endian.
 *
 *      byte   0   8    magic            "dmkitCP2"
 *             8   u32  version          2
 *            12   u32  CRC-32C of the sector, this field taken as zero
 *            16   16   UUID; salts the checksums of everything else
 *            32   u64  generation       counts up with each time it is written
 *            40   u64  blocks of the device
 *            48   u64  journal start    56   u64  journal blocks
 *            64   u64  metadata start   72   u64  metadata blocks
 *            80   u64  data start       88   u64  data blocks
 *            96   u64  applied          journal records up to this number are in place
 *           104   u32  features that must be known to open it; none so far
 *           108   u32  1: closed; whoever commits a record clears it first
 *           112   32   algorithm, ASCII, filled up with zeroes
 *           144        zero
 *
 * A sector is written whole or not at all, so a copy that does not check is damaged, not torn.
 */
import { SECTOR, crc32c, getU32, setU32, setU64, tryU64 } from "@dmkit/block-io";
import type { LayoutV2 } from "./layout-v2.ts";
import { checkOrMend } from "./single-bit.ts";

const MAGIC = Buffer.from("dmkitCP2");
const VERSION = 2;
const CLOSED = 1;

export interface SuperblockV2 {
  readonly layout: LayoutV2;
  /** 16 bytes. */
  readonly uuid: Buffer;
  readonly generation: number;
  readonly applied: number;
  /** Everything is in place, and nothing was committed since: of a superblock, both copies have to say so. */
  readonly closed: boolean;
  readonly features: number;
  readonly algorithm: string;
}

export type Decoded =
  | { readonly kind: "sound"; readonly superblock: SuperblockV2 }
  /** `version`: made by a later program; `unreadable`: the device below does not give it. */
  | { readonly kind: "absent" | "damaged" | "version" | "unreadable" };

const layoutFields = [
  ["totalBlocks", 40],
  ["journalStart", 48],
  ["journalBlocks", 56],
  ["metaStart", 64],
  ["metaBlocks", 72],
  ["dataStart", 80],
  ["dataBlocks", 88],
] as const;

/** A sector that nobody takes for a superblock, nor for an empty device: work on it is unfinished. */
export function unfinishedSuperblock(): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector);
  sector.write("unfinished", 112, "latin1");
  return sector;
}

/** @returns one sector. */
export function encodeSuperblockV2({
  layout,
  uuid,
  generation,
  applied,
  closed,
  features,
  algorithm,
}: SuperblockV2): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector);
  setU32(sector, 8, VERSION);
  uuid.copy(sector, 16, 0, 16);
  setU64(sector, 32, generation);
  for (const [field, at] of layoutFields) setU64(sector, at, layout[field]);
  setU64(sector, 96, applied);
  setU32(sector, 104, features);
  setU32(sector, 108, closed ? CLOSED : 0);
  sector.write(algorithm, 112, 32, "latin1");
  setU32(sector, 12, crc32c(sector));
  return sector;
}

/** The superblock that a damaged copy was, if a single flipped bit explains it: to be proved by other means. */
export function mendSuperblockV2(from: Buffer): SuperblockV2 | undefined {
  const sector = Buffer.from(from.subarray(0, SECTOR));
  const sum = getU32(sector, 12);
  setU32(sector, 12, 0);
  if (!checkOrMend(sector, 0, sum)) return undefined;
  setU32(sector, 12, 0);
  setU32(sector, 12, crc32c(sector));
  const decoded = decodeSuperblockV2(sector);
  return decoded.kind === "sound" ? decoded.superblock : undefined;
}

export function decodeSuperblockV2(from: Buffer): Decoded {
  const sector = Buffer.from(from.subarray(0, SECTOR));
  const looks = sector.subarray(0, 8).equals(MAGIC);
  const sum = getU32(sector, 12);
  setU32(sector, 12, 0);
  // A flipped bit in the magic must not make a device look empty.
  if (sum !== crc32c(sector)) return { kind: looks ? "damaged" : "absent" };
  if (!looks) return { kind: "absent" };
  const features = getU32(sector, 104);
  if (getU32(sector, 8) !== VERSION || features !== 0) return { kind: "version" };
  const layout = Object.fromEntries(
    layoutFields.map(([field, at]) => [field, tryU64(sector, at)]),
  ) as unknown as LayoutV2;
  const name = sector.toString("latin1", 112, 144);
  const algorithm = name.slice(0, (name + "\0").indexOf("\0"));
  const uuid = Buffer.from(sector.subarray(16, 32));
  const generation = tryU64(sector, 32);
  const applied = tryU64(sector, 96);
  const closed = (getU32(sector, 108) & CLOSED) !== 0;
  return { kind: "sound", superblock: { layout, uuid, generation, applied, closed, features, algorithm } };
}
