/**
 * The identity of a layer: one sector of its bitmap device, written whole or not at all. Little-endian.
 *
 *      byte    size
 *         0       8   magic 0x00BABE0EAABABE11             on disk: 11 be ba aa 0e be ba 00
 *         8       8   bmap_len, sectors                     the original ends here, all else is zero
 *        16       8   "dmkitcow"
 *        24       4   version, 1 … 4: the first that has all fields in which there is something
 *        28       4   flags; bit 0: frozen; since version 2 bit 1: data offset known, bit 2: base offset known,
 *                     bit 3: the data device has a label, see label.ts
 *        32      16   UUID of this layer
 *        48      16   UUID of the layer below; zero: the base; all ones: a layer without a UUID
 *        64       8   sectors of the target
 *        72       8   version 2: sector of the data device where the layer's data starts
 *        80       8   version 2: sector of the base where the target starts, in a layer that lies on the base
 *        88       4   version 2: how many samples
 *        92       4   zero
 *        96  16 · 16  version 2: samples of the data, see samples.ts
 *       352      16   version 3: name of what is in the layer, new with each commit into it; zero: there was none
 *       368      16   version 3: UUID of the layer that was committed into it last: it has all that this has changed
 *       384      16   version 3: the same name of the layer below, as it is known to this one
 *       400      16   version 3: witness of the base, in a layer that lies on it; zero: none
 *       416      72   version 4: the snapshot that the layer is, see snapshot.ts; the layer is frozen then
 *       488      20   zero
 *       508       4   CRC-32C of bytes 0 … 507
 *
 * dmkit once wrote another number there, 0x00BAEB0EAABABE11. Such a layer is known by its tag and its checksum, and
 * is as good as any other; the right magic is written with the next identity.
 */
import { SECTOR, crc32c, getU32, isZero, setU32, setU64, tryU64, uuidBytes, uuidText } from "@dmkit/block-io";
import { bitmapLength, identityOffset } from "./geometry.ts";
import { SAMPLES, type Sample, getSamples, putSamples } from "./samples.ts";
import { type Snapshot, getSnapshot, putSnapshot } from "./snapshot.ts";
import type { Uuid } from "./uuid.ts";

/** 0x00BABE0EAABABE11, and what was once written in its place. */
const MAGIC = magic(0x00ba_be0e, 0xaaba_be11);
const OLD_MAGIC = magic(0x00ba_eb0e, 0xaaba_be11);
const TAG = Buffer.from("dmkitcow", "latin1");
const FROZEN = 1;
const HAS_DATA_OFFSET = 2;
const HAS_BASE_OFFSET = 4;
const LABELLED = 8;
const SECOND = FROZEN | HAS_DATA_OFFSET | HAS_BASE_OFFSET | LABELLED;
/** By version. */
const knownFlags: Readonly<Record<number, number>> = { 1: FROZEN, 2: SECOND, 3: SECOND, 4: SECOND };
const SAMPLES_AT = 96;
/** Names of 16 bytes, not there where they are zero. */
const NAMES_AT = { contents: 352, changedBy: 368, contentsBelow: 384 } as const;
const WITNESS_AT = 400;
const WITNESS_BYTES = 16;
const SNAPSHOT_AT = 416;
const CRC_AT = 508;

/** The parent of a layer that lies on the base. */
export const BASE_UUID: Uuid = "00000000-0000-0000-0000-000000000000";

/** The parent of a layer that lies on one made by the original, which has no UUID. */
export const UNNAMED_UUID: Uuid = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/** What a layer says of itself: who it is, on what it lies, whether it is frozen. */
export interface Identity {
  readonly uuid: Uuid;
  readonly parent: Uuid;
  /** Sectors of the target. */
  readonly sectors: number;
  /** Another layer lies on this one: it must not be written any more. */
  readonly frozen: boolean;
  /** Sector of the data device where the layer's data starts; undefined where nobody has recorded it yet. */
  readonly dataOffset?: number | undefined;
  /** Sector of the base where the target starts, in a layer that lies on the base; undefined: not recorded. */
  readonly baseOffset?: number | undefined;
  /** The data device says whose it is. */
  readonly labelled?: boolean | undefined;
  /** Of sectors that are in the layer, stable, and not written while they are named here. */
  readonly samples?: readonly Sample[] | undefined;
  /** A name of what is in the layer, new with each commit into it; undefined: there was none. See core/reliance.ts. */
  readonly contents?: Uuid | undefined;
  /** The layer that was committed into this one last: it has all that this has changed here. */
  readonly changedBy?: Uuid | undefined;
  /** The `contents` of the layer below that this one lies on. */
  readonly contentsBelow?: Uuid | undefined;
  /** Of the base, in a layer that lies on it: 32 hexadecimal digits; undefined: not recorded. */
  readonly baseWitness?: string | undefined;
  /** The layer is a snapshot; then it is frozen. */
  readonly snapshot?: Snapshot | undefined;
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
export function encodeIdentity(identity: Identity): Buffer {
  const {
    uuid,
    parent,
    sectors,
    frozen,
    dataOffset,
    baseOffset,
    labelled,
    samples = [],
    baseWitness,
    snapshot,
  } = identity;
  if (snapshot !== undefined && !frozen) throw new Error("identity: a snapshot that can be written");
  const sector = Buffer.alloc(SECTOR);
  const flags =
    (dataOffset === undefined ? 0 : HAS_DATA_OFFSET) |
    (baseOffset === undefined ? 0 : HAS_BASE_OFFSET) |
    (labelled === true ? LABELLED : 0);
  MAGIC.copy(sector, 0);
  setU64(sector, 8, bitmapLength(sectors));
  TAG.copy(sector, 16);
  // Earlier programs go on knowing what has nothing that they would not understand.
  setU32(sector, 24, versionOf(identity, flags));
  setU32(sector, 28, flags | (frozen ? FROZEN : 0));
  uuidBytes(uuid).copy(sector, 32);
  uuidBytes(parent).copy(sector, 48);
  setU64(sector, 64, sectors);
  setU64(sector, 72, dataOffset ?? 0);
  setU64(sector, 80, baseOffset ?? 0);
  setU32(sector, 88, samples.length);
  putSamples(sector, SAMPLES_AT, samples);
  for (const [field, at] of named) {
    const name = identity[field];
    if (name !== undefined) uuidBytes(name).copy(sector, at);
  }
  if (baseWitness !== undefined) sector.write(baseWitness, WITNESS_AT, WITNESS_BYTES, "hex");
  if (snapshot !== undefined) putSnapshot(sector, SNAPSHOT_AT, snapshot);
  setU32(sector, CRC_AT, crc32c(sector.subarray(0, CRC_AT)));
  return sector;
}

const named = Object.entries(NAMES_AT) as [keyof typeof NAMES_AT, number][];

/** The first version that has all fields in which there is something. */
function versionOf(identity: Identity, flags: number): number {
  if (identity.snapshot !== undefined) return 4;
  if (hasThird(identity)) return 3;
  return flags === 0 && (identity.samples ?? []).length === 0 ? 1 : 2;
}

/** Whether anything is in the fields of version 3. */
function hasThird(identity: Identity): boolean {
  return identity.baseWitness !== undefined || named.some(([field]) => identity[field] !== undefined);
}

/** One sector, as the original wrote it. */
export function encodeOriginal(bitmapLength: number): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector, 0);
  setU64(sector, 8, bitmapLength);
  return sector;
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
  const known = knownFlags[version];
  if (known === undefined) return damaged(`version ${version} is not known`);
  const flags = getU32(block, 28);
  if ((flags & ~known) !== 0) return damaged(`flags ${flags} are not known`);
  const sectors = tryU64(block, 64);
  if (!(sectors >= 1) || bitmapLength(sectors) !== length) {
    return damaged(`${sectors} sectors do not go with a bitmap of ${length}`);
  }
  const identity = {
    uuid: uuidText(block.subarray(32, 48)),
    parent: uuidText(block.subarray(48, 64)),
    sectors,
    frozen: (flags & FROZEN) !== 0,
  };
  if (version === 1) return { kind: "layer", identity };
  const found = decodeSecond(block, version === 2 ? identity : { ...identity, ...decodeThird(block) }, flags);
  return version < 4 || found.kind !== "layer" ? found : decodeFourth(block, found.identity);
}

/** What version 4 has added. Programs that do not know it would commit over what a snapshot shows. */
function decodeFourth(block: Buffer, identity: Identity): IdentityBlock {
  const snapshot = getSnapshot(block, SNAPSHOT_AT);
  if (typeof snapshot === "string") return damaged(snapshot);
  if (!identity.frozen) return damaged("a snapshot can be written");
  return { kind: "layer", identity: { ...identity, snapshot } };
}

/** What version 3 has added. */
function decodeThird(block: Buffer): Partial<Identity> {
  const names = named
    .filter(([, at]) => !isZero(block, at, at + 16))
    .map(([field, at]) => [field, uuidText(block.subarray(at, at + 16))]);
  const hasWitness = !isZero(block, WITNESS_AT, WITNESS_AT + WITNESS_BYTES);
  const baseWitness = block.toString("hex", WITNESS_AT, WITNESS_AT + WITNESS_BYTES);
  return { ...Object.fromEntries(names), ...(hasWitness ? { baseWitness } : {}) };
}

/** What version 2 has added. */
function decodeSecond(block: Buffer, identity: Identity, flags: number): IdentityBlock {
  const offsets = [72, 80].map((at) => tryU64(block, at)) as [number, number];
  if (!offsets.every((offset) => offset <= Number.MAX_SAFE_INTEGER / SECTOR))
    return damaged("an offset is too large");
  const count = getU32(block, 88);
  if (count > SAMPLES) return damaged(`${count} samples are too many`);
  const samples = getSamples(block, SAMPLES_AT, count, identity.sectors);
  if (samples === undefined) return damaged("the samples are not in order");
  return {
    kind: "layer",
    identity: {
      ...identity,
      ...((flags & HAS_DATA_OFFSET) === 0 ? {} : { dataOffset: offsets[0] }),
      ...((flags & HAS_BASE_OFFSET) === 0 ? {} : { baseOffset: offsets[1] }),
      ...((flags & LABELLED) === 0 ? {} : { labelled: true }),
      ...(count === 0 ? {} : { samples }),
    },
  };
}

/** Whether a sector found at byte `offset` is an identity that belongs there. */
export function isIdentityAt(sector: Buffer, offset: number): boolean {
  const found = decodeIdentity(sector.subarray(0, SECTOR));
  if (found.kind === "original") return identityOffset(found.bitmapLength) === offset;
  return found.kind === "layer" && identityOffset(bitmapLength(found.identity.sectors)) === offset;
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
