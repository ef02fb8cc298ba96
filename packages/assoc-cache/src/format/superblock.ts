/**
 * The superblock, version 2: one sector, little-endian, stored at both ends of the cache device.
 *
 *      0    8 bytes    magic "DMKASSOC"
 *      8    u32        version, 2; or 3: the same, and the source went on without dirty blocks that are here
 *      12   u32        flags: 1 = clean shutdown, 2 = needs check, 4 = fingerprint is valid, 8 = witness is valid
 *      16   16 bytes   UUID of the cache
 *      32   16 bytes   UUID of the source, as the administrator gave it; zero: none
 *      48   u64        generation: the valid copy with the higher one counts
 *      56   u64        sectors of the source that are cached (the length of the table line)
 *      64   u64        frames
 *      72   u32        sectors of a block
 *      76   u32        ways of a set
 *      80   u32        policy, see `policyNumbers`
 *      84   u32        zero
 *      88   u64        first entry sector
 *      96   u64        first sector of frame 0
 *      104  u64        sectors of the cache device when it was formatted: the second copy is in the last of them; the
 *                      device may be larger
 *      112  u64        dirty frames; meaningful after a clean shutdown
 *      120  u32        fingerprint of the source at the clean shutdown (CRC-32C of sampled sectors); of before there
 *                      was a witness, read only
 *      124  u32        zero
 *      128  32 bytes   witness of the source at the clean shutdown (block-io's witness.ts)
 *      160  348 bytes  zero
 *      508  u32        CRC-32C of bytes 0 … 507
 *
 * While a dump is being restored, the first sector is the magic, then "restoring" at byte 16: neither a cache nor blank.
 */
import { SECTOR, UUID_BYTES, crc32c, getU32, setU32, setU64, tryU64 } from "@dmkit/block-io";
import { type Geometry, geometryProblem } from "./geometry.ts";
import { layoutOf } from "./layout.ts";
import { uuidFromText, uuidToText } from "./uuid.ts";

/** How writes and misses are treated. */
export type Policy = "write-through" | "write-back" | "write-around" | "pass-through" | "cleaner";

/** As stored. The first two are also the numbers of the historical table argument and metadata. */
export const policyNumbers: Readonly<Record<Policy, number>> = {
  "write-through": 0,
  "write-back": 1,
  "write-around": 2,
  "pass-through": 3,
  cleaner: 4,
};

export const policies: readonly Policy[] = Object.keys(policyNumbers) as Policy[];

export interface Superblock {
  readonly clean: boolean;
  readonly needsCheck: boolean;
  /** Lower-case text. */
  readonly uuid: string;
  /** Lower-case text, empty if none was given. */
  readonly sourceUuid: string;
  readonly generation: number;
  readonly sourceSectors: number;
  readonly geometry: Geometry;
  readonly policy: Policy;
  readonly entryStart: number;
  readonly dataStart: number;
  readonly deviceSectors: number;
  readonly dirty: number;
  /** Of caches that were closed before there was a witness. */
  readonly fingerprint: number | undefined;
  /** 64 hexadecimal digits; undefined where none was taken. */
  readonly witness: string | undefined;
  /** Its table was exchanged by force while blocks were dirty: they are older than what the source may have by now. */
  readonly left?: true | undefined;
}

const MAGIC = Buffer.from("DMKASSOC", "latin1");
const RESTORING = Buffer.from("restoring\0", "latin1");
const VERSION = 2;
/** Programs that know only the other one refuse it. */
const LEFT = 3;
const CRC_AT = 508;
const flagBits = { clean: 1, needsCheck: 2, fingerprint: 4, witness: 8 } as const;

/** One sector. */
export function encodeSuperblock(superblock: Superblock): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  const { clean, needsCheck, fingerprint, witness, geometry } = superblock;
  bytes.set(MAGIC, 0);
  setU32(bytes, 8, superblock.left ? LEFT : VERSION);
  setU32(
    bytes,
    12,
    (clean ? flagBits.clean : 0) |
      (needsCheck ? flagBits.needsCheck : 0) |
      (fingerprint === undefined ? 0 : flagBits.fingerprint) |
      (witness === undefined ? 0 : flagBits.witness),
  );
  bytes.set(uuidFromText(superblock.uuid) ?? Buffer.alloc(UUID_BYTES), 16);
  bytes.set(uuidFromText(superblock.sourceUuid) ?? Buffer.alloc(UUID_BYTES), 32);
  setU64(bytes, 48, superblock.generation);
  setU64(bytes, 56, superblock.sourceSectors);
  setU64(bytes, 64, geometry.frames);
  setU32(bytes, 72, geometry.blockSectors);
  setU32(bytes, 76, geometry.ways);
  setU32(bytes, 80, policyNumbers[superblock.policy]);
  setU64(bytes, 88, superblock.entryStart);
  setU64(bytes, 96, superblock.dataStart);
  setU64(bytes, 104, superblock.deviceSectors);
  setU64(bytes, 112, superblock.dirty);
  setU32(bytes, 120, fingerprint ?? 0);
  if (witness !== undefined) Buffer.from(witness, "hex").copy(bytes, 128, 0, 32);
  setU32(bytes, CRC_AT, crc32c(bytes.subarray(0, CRC_AT)));
  return bytes;
}

/** Whether these bytes want to be a superblock, valid or not. */
export function hasMagic(bytes: Buffer): boolean {
  return bytes.length >= SECTOR && bytes.subarray(0, 8).equals(MAGIC);
}

/** One sector in the place of the first superblock: a dump is being restored, and nothing counts until that is done. */
export function encodeRestoring(): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  bytes.set(MAGIC, 0);
  bytes.set(RESTORING, 16);
  return bytes;
}

/** The superblock, or in words what is wrong with it. */
export function decodeSuperblock(bytes: Buffer): Superblock | string {
  if (!hasMagic(bytes)) return "there is no superblock";
  if (bytes.subarray(16, 16 + RESTORING.length).equals(RESTORING))
    return "the restore of a dump was interrupted: restore it again";
  if (getU32(bytes, CRC_AT) !== crc32c(bytes.subarray(0, CRC_AT))) return "the checksum is wrong";
  const version = getU32(bytes, 8);
  if (version !== VERSION && version !== LEFT) return `version ${version} is not known`;
  const geometry: Geometry = {
    frames: tryU64(bytes, 64),
    blockSectors: getU32(bytes, 72),
    ways: getU32(bytes, 76),
  };
  const problem = geometryProblem(geometry);
  if (problem !== undefined) return problem;
  const policy = policies.find((name) => policyNumbers[name] === getU32(bytes, 80));
  if (policy === undefined) return `policy ${getU32(bytes, 80)} is not known`;
  const flags = getU32(bytes, 12);
  const superblock: Superblock = {
    clean: (flags & flagBits.clean) !== 0,
    needsCheck: (flags & flagBits.needsCheck) !== 0,
    uuid: uuidToText(bytes.subarray(16, 16 + UUID_BYTES)),
    sourceUuid: uuidToText(bytes.subarray(32, 32 + UUID_BYTES)),
    generation: tryU64(bytes, 48),
    sourceSectors: tryU64(bytes, 56),
    geometry,
    policy,
    entryStart: tryU64(bytes, 88),
    dataStart: tryU64(bytes, 96),
    deviceSectors: tryU64(bytes, 104),
    dirty: tryU64(bytes, 112),
    fingerprint: (flags & flagBits.fingerprint) === 0 ? undefined : getU32(bytes, 120),
    witness: (flags & flagBits.witness) === 0 ? undefined : bytes.toString("hex", 128, 160),
    ...(version === LEFT && { left: true }),
  };
  return placementProblem(superblock) ?? superblock;
}

function placementProblem(superblock: Superblock): string | undefined {
  const { geometry, generation, sourceSectors, entryStart, dataStart, deviceSectors, dirty } = superblock;
  if ([generation, sourceSectors, dirty].some(Number.isNaN) || superblock.uuid === "") {
    return "a value is out of range";
  }
  const layout = layoutOf(geometry);
  if (entryStart !== layout.entryStart || dataStart !== layout.dataStart) {
    return "the entries or the data are not where this version puts them";
  }
  if (!(deviceSectors >= layout.requiredSectors)) return "the cache does not fit the device it was made for";
  if (dirty > geometry.frames) return "more dirty blocks than frames";
  return undefined;
}
