/**
 * The identity of a layer: one sector of its bitmap device, written whole or not at all. Little-endian.
 *
 *      byte    size
 *         0       8   magic 0x00BABE0EAABABE11             on disk: 11 be ba aa 0e be ba 00
 *         8       8   bmap_len, sectors                     the original ends here, all else is zero
 *        16       8   "dmkitcow"
 *        24       4   version, 1
 *        28       4   flags; bit 0: frozen
 *        32      16   UUID of this layer
 *        48      16   UUID of the layer below; zero: the base; all ones: a layer without a UUID
 *        64       8   sectors of the target
 *        72     436   zero
 *       508       4   CRC-32C of bytes 0 … 507
 *
 * dmkit once wrote another number there, 0x00BAEB0EAABABE11. Such a layer is known by its tag and its checksum, and
 * is as good as any other; the right magic is written with the next identity.
 */
import { SECTOR, crc32c, getU32, isZero, setU32, setU64, tryU64 } from "@dmkit/block-io";
import { bitmapLength, identityOffset } from "./geometry.ts";

/** 0x00BABE0EAABABE11, and what was once written in its place. */
const MAGIC = magic(0x00ba_be0e, 0xaaba_be11);
const OLD_MAGIC = magic(0x00ba_eb0e, 0xaaba_be11);
const TAG = Buffer.from("dmkitcow", "latin1");
const VERSION = 1;
const FROZEN = 1;
const CRC_AT = 508;

/** 32 hexadecimal digits in groups of 8, 4, 4, 4, 12, separated by dashes. */
export type Uuid = string;

/** The parent of a layer that lies on the base. */
export const BASE_UUID: Uuid = "00000000-0000-0000-0000-000000000000";

/** The parent of a layer that lies on one made by the original, which has no UUID. */
export const UNNAMED_UUID: Uuid = "ffffffff-ffff-ffff-ffff-ffffffffffff";

export interface Identity {
  readonly uuid: Uuid;
  readonly parent: Uuid;
  /** Sectors of the target. */
  readonly sectors: number;
  /** Another layer lies on this one: it must not be written any more. */
  readonly frozen: boolean;
}

/**
 * What an identity block says.
 * `new`: nothing yet. `original`: made by the original, so its bitmap is aliased. `layer`: made by dmkit.
 * `foreign`: no identity at all. `damaged`: one that must not be trusted.
 */
export type IdentityBlock =
  | { readonly kind: "new" }
  | { readonly kind: "original"; readonly bitmapLength: number }
  /** `oldMagic`: it begins with the wrong number that was once written. */
  | { readonly kind: "layer"; readonly identity: Identity; readonly oldMagic?: true }
  | { readonly kind: "foreign"; readonly reason: string }
  | { readonly kind: "damaged"; readonly reason: string };

/** One sector, ready to be written. */
export function encodeIdentity({ uuid, parent, sectors, frozen }: Identity): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector, 0);
  setU64(sector, 8, bitmapLength(sectors));
  TAG.copy(sector, 16);
  setU32(sector, 24, VERSION);
  setU32(sector, 28, frozen ? FROZEN : 0);
  uuidBytes(uuid).copy(sector, 32);
  uuidBytes(parent).copy(sector, 48);
  setU64(sector, 64, sectors);
  setU32(sector, CRC_AT, crc32c(sector.subarray(0, CRC_AT)));
  return sector;
}

/** One sector, as the original wrote it. */
export function encodeOriginal(bitmapLength: number): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector, 0);
  setU64(sector, 8, bitmapLength);
  return sector;
}

/** Whether a value that came from outside is a UUID as this format writes it. */
export function isUuid(value: unknown): value is Uuid {
  return typeof value === "string" && /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/.test(value);
}

/**
 * Judges an identity block.
 * @param block at least one sector; what lies behind it must be zero for the block to be `new`.
 */
export function decodeIdentity(block: Buffer): IdentityBlock {
  if (isZero(block)) return { kind: "new" };
  const oldMagic = block.subarray(0, 8).equals(OLD_MAGIC) && block.subarray(16, 24).equals(TAG);
  if (!oldMagic && !block.subarray(0, 8).equals(MAGIC)) {
    return { kind: "foreign", reason: "there is something else where the identity of a layer should be" };
  }
  const length = tryU64(block, 8);
  if (isZero(block, 16, SECTOR)) {
    if (!(length >= 1)) return damaged(`the length of the bitmap is ${length} sectors`);
    return { kind: "original", bitmapLength: length };
  }
  const found = decodeExtended(block, length);
  return found.kind === "layer" && oldMagic ? { ...found, oldMagic } : found;
}

function decodeExtended(block: Buffer, length: number): IdentityBlock {
  if (getU32(block, CRC_AT) !== crc32c(block.subarray(0, CRC_AT))) return damaged("its checksum is wrong");
  // What follows has been written by somebody who knows the checksum.
  if (!block.subarray(16, 24).equals(TAG)) return damaged("it is not one of dmkit");
  const version = getU32(block, 24);
  if (version !== VERSION) return damaged(`version ${version} is not known`);
  const flags = getU32(block, 28);
  if ((flags & ~FROZEN) !== 0) return damaged(`flags ${flags} are not known`);
  const sectors = tryU64(block, 64);
  if (!(sectors >= 1) || bitmapLength(sectors) !== length) {
    return damaged(`${sectors} sectors do not go with a bitmap of ${length}`);
  }
  return {
    kind: "layer",
    identity: {
      uuid: uuidText(block.subarray(32, 48)),
      parent: uuidText(block.subarray(48, 64)),
      sectors,
      frozen: (flags & FROZEN) !== 0,
    },
  };
}

/** Whether a sector found at byte `offset` is an identity that belongs there. */
export function isIdentityAt(sector: Buffer, offset: number): boolean {
  const found = decodeIdentity(sector.subarray(0, SECTOR));
  if (found.kind === "original") return identityOffset(found.bitmapLength) === offset;
  return found.kind === "layer" && identityOffset(bitmapLength(found.identity.sectors)) === offset;
}

/** A random UUID (version 4). @param random floats in [0, 1). */
export function randomUuid(random: () => number): Uuid {
  const bytes = Buffer.from(Array.from({ length: 16 }, () => Math.floor(random() * 256)));
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return uuidText(bytes);
}

/** A number of 64 bits, as it lies on the disk. */
function magic(high: number, low: number): Buffer {
  const bytes = Buffer.alloc(8);
  setU32(bytes, 0, low);
  setU32(bytes, 4, high);
  return bytes;
}

function damaged(reason: string): IdentityBlock {
  return { kind: "damaged", reason: `the identity of the layer is damaged: ${reason}` };
}

function uuidBytes(uuid: Uuid): Buffer {
  const digits = uuid.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/.test(digits)) throw new RangeError(`"${uuid}" is no UUID`);
  return Buffer.from(digits, "hex");
}

function uuidText(bytes: Buffer): Uuid {
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
