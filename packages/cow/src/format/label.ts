/**
 * The label of a data device: whose data it is. One sector, at the first multiple of 4096 bytes behind the sectors of
 * the target, counted from where they start. `dmkit cow create` leaves room for it; a device that was not made for the
 * purpose has none, because what lies behind the data may be somebody else's. Little-endian.
 *
 *      byte    size
 *         0       8   "dmkitdat"
 *         8       4   version, 1
 *        12       4   zero
 *        16      16   UUID of the layer; zero: free, the first layer that is made with this device takes it
 *        32       8   sectors of the target
 *        40     468   zero
 *       508       4   CRC-32C of bytes 0 … 507
 */
import { SECTOR, crc32c, getU32, setU32, setU64, tryU64, uuidBytes, uuidText } from "@dmkit/block-io";
import type { Uuid } from "./uuid.ts";

const MAGIC = Buffer.from("dmkitdat", "latin1");
const VERSION = 1;
const CRC_AT = 508;
const GRAIN = 4096;

/** Bytes that are left for a label. */
export const LABEL_ROOM: number = GRAIN;

/** The UUID of a label that no layer has taken. */
export const FREE: Uuid = "00000000-0000-0000-0000-000000000000";

export interface Label {
  readonly uuid: Uuid;
  /** Sectors of the target. */
  readonly sectors: number;
}

/** Byte of the data device at which the label of a layer lies. @param offset byte where its data starts. */
export function labelPlace(offset: number, sectors: number): number {
  return offset + Math.ceil((sectors * SECTOR) / GRAIN) * GRAIN;
}

/** Bytes a data device needs from where the data starts, label included. */
export function labelledSize(sectors: number): number {
  return labelPlace(0, sectors) + LABEL_ROOM;
}

/** One sector. */
export function encodeLabel({ uuid, sectors }: Label): Buffer {
  const sector = Buffer.alloc(SECTOR);
  MAGIC.copy(sector);
  setU32(sector, 8, VERSION);
  uuidBytes(uuid).copy(sector, 16);
  setU64(sector, 32, sectors);
  setU32(sector, CRC_AT, crc32c(sector.subarray(0, CRC_AT)));
  return sector;
}

/** Undefined if there is none of a target of `sectors` sectors: whatever else is there is not ours. */
export function decodeLabel(sector: Buffer, sectors: number): Label | undefined {
  if (!sector.subarray(0, 8).equals(MAGIC)) return undefined;
  if (getU32(sector, CRC_AT) !== crc32c(sector.subarray(0, CRC_AT))) return undefined;
  if (getU32(sector, 8) !== VERSION || tryU64(sector, 32) !== sectors) return undefined;
  return { uuid: uuidText(sector.subarray(16, 32)), sectors };
}
