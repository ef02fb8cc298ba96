/**
 * The first MiB of a cache device, each part of it as far as the device gives it. Where a sector cannot be read:
 *
 *      header     it never changes, and the identity record has the order as well: opening writes it again
 *      record     its copy in the identity record counts; without that, nothing is known to be written back
 *      identity   nobody else knows which backing device and which plog belong to the cache: opening refuses
 */
import { type BlockDevice, type Environment, refuse, isOfPlace } from "@dmkit/block-io";
import { BLOCK, SLOTS_START } from "../format/geometry.ts";
import { IDENTITY_START, type StoredIdentity, decodeIdentity, uuidAt } from "../format/identity.ts";
import {
  LEFT_MAGIC,
  HEADER_START,
  type Header,
  RECORD,
  RECORD_START,
  decodeHeader,
  decodeRecord,
  encodeHeader,
  encodeRecord,
  isBareHeader,
} from "../format/superblock.ts";

export interface Superblock {
  readonly header: Header | { readonly kind: "unreadable" };
  /** Whether sector 0 looks like a header but for magic and order. */
  readonly isBare: boolean;
  readonly identity: StoredIdentity;
  /** The cache uuid where an identity record has it, also in one that is damaged. */
  readonly uuid: string;
  /** last_writeback_segment_id; undefined where it cannot be read. */
  readonly record: number | undefined;
}

/** Throws what is no matter of a place. */
export async function readSuperblock(cache: BlockDevice): Promise<Superblock> {
  const [start, lost] = await readPast(cache, HEADER_START, IDENTITY_START + BLOCK);
  const header = start.subarray(HEADER_START, IDENTITY_START);
  const identity = start.subarray(IDENTITY_START);
  const [end, lostEnd] = await readPast(cache, RECORD_START, BLOCK);
  return {
    header: lost.includes(HEADER_START) ? { kind: "unreadable" } : decodeHeader(header),
    isBare: isBareHeader(header),
    identity: lost.includes(IDENTITY_START) ? "unreadable" : decodeIdentity(identity),
    uuid: uuidAt(identity),
    record: lostEnd.includes(RECORD) ? undefined : decodeRecord(end),
  };
}

/**
 * What the header says, or, where it cannot be read, the identity record; `none` if nothing says that the device is,
 * or was, a cache: whether it is blank is another question. Throws `EFORMAT` for a cache that must not be taken for
 * anything else.
 */
export function headerOf(
  cache: BlockDevice,
  { header, identity }: Superblock,
): { readonly order: number | undefined } | "none" {
  if (cache.size < SLOTS_START) {
    const reason = `${cache.size} bytes are too few for a cache device`;
    throw refuse(
      cache.name,
      "EFORMAT",
      reason,
      "It is another device, or was cut short: give at least a few MiB.",
    );
  }
  if (header.kind === "writeboost") return { order: header.order };
  if (header.kind === "restoring") {
    const hint = "Restore the dump again; nothing was written.";
    throw refuse(cache.name, "EFORMAT", "the restore of a dump was interrupted", hint);
  }
  if (header.kind === "growing") {
    const hint = "Open it for writing once; all it had is on the backing device. Nothing was written.";
    throw refuse(cache.name, "EFORMAT", "the cache was being made larger, which is not finished", hint);
  }
  // What it had is on the backing device, or somebody has given it away: whatever is left of it is not a cache.
  if (header.kind === "unfinished") return "none";
  if (typeof identity === "object") {
    if (header.kind === "unreadable" && identity.left !== true) return { order: identity.order };
    if (header.kind === "unreadable" || (header.kind === "foreign" && header.magic === LEFT_MAGIC)) {
      throw refuse(
        cache.name,
        "EFORMAT",
        "its table was exchanged by force, and the backing device went on without what only the cache has",
        "To do without that for good, zero its first MiB. To have it all the same, over what was written since, repair it offline (fsck), which gives it its header again. Nothing has been written.",
      );
    }
    throw refuse(
      cache.name,
      "EFORMAT",
      `the identity record in sector 8 says that this is a cache, but sector 0 ${
        header.kind === "blank" ? "is zero" : `has the magic 0x${header.magic.toString(16)}`
      }: its header was lost`,
      "Repair it offline (fsck); or, if nothing on it is needed any more, zero its first MiB. Nothing has been written.",
    );
  }
  if (header.kind !== "unreadable" && identity !== "unreadable") return "none";
  throw refuse(
    cache.name,
    "EIO",
    `sector ${header.kind === "unreadable" ? 0 : 8} cannot be read: nobody knows whether this is a cache`,
    "Copy the device to one that is whole, with zeroes in place of what cannot be read, and check that. Nothing has been written.",
  );
}

/** What is said of a device whose first sector says that nothing on it counts: reason and hint. */
export const GIVEN_UP: readonly [reason: string, hint: string] = [
  "nothing on it counts: the cache that was here was given up, or its formatting was interrupted",
  "Nothing is lost that was not given away: a cache that a table no longer names has written back all it had. Serving it for writing formats it, as a blank device.",
];

/** What opening says where the identity record cannot be read: reason and hint. */
export const UNKNOWN_OWNER: readonly [reason: string, hint: string] = [
  "the identity record (sector 8) cannot be read: nobody knows which backing device belongs to the cache, and whether a plog does",
  "If this is the right backing device, and the cache has no plog, zero sectors 8 to 15 and open it again. Nothing has been written.",
];

/**
 * `length` bytes from `offset` on, both multiples of 4 KiB, or of what can be read alone; with zeroes where the device
 * gives nothing, and those sectors: in bytes from `offset`. Throws what is no matter of a place.
 */
export async function readPast(
  device: BlockDevice,
  offset: number,
  length: number,
): Promise<[bytes: Buffer, lost: readonly number[]]> {
  const bytes = Buffer.alloc(length);
  const lost: number[] = [];
  const least = device.limits.logicalBlockSize;
  const read = async (from: number, to: number): Promise<void> => {
    try {
      await device.read(offset + from, bytes.subarray(from, to));
    } catch (error) {
      if (!isOfPlace(error)) throw error;
      if (to - from > least) {
        const middle = from + Math.ceil((to - from) / least / 2) * least;
        await read(from, middle);
        return read(middle, to);
      }
      bytes.fill(0, from, to);
      for (let at = from; at < to; at += 512) lost.push(at);
    }
  };
  const end = Math.min(length, device.size - offset);
  if (end > 0) await read(0, end);
  return [bytes, lost];
}

/** What the record was found to say; see scan.ts. */
interface Recorded {
  readonly superblock: Superblock;
  readonly identity: StoredIdentity;
  /** As far as it is believed. */
  readonly record: number;
}

/** A header that cannot be read is written again; that the place takes nothing is no reason not to go on. */
export async function writeUnreadable(
  cache: BlockDevice,
  {
    superblock: { header, record },
    geometry,
  }: { readonly superblock: Superblock; readonly geometry: { readonly order: number } },
  { logger }: Environment,
): Promise<void> {
  if (header.kind !== "unreadable" && record !== undefined) return;
  logger.log("warn", "sectors of the superblock cannot be read; the identity record has what they said", {
    device: cache.name,
  });
  if (header.kind !== "unreadable") return;
  await cache.write(HEADER_START, encodeHeader(geometry.order)).catch((error: unknown) => {
    if (!isOfPlace(error)) throw error;
  });
}

/**
 * A record beyond the end of the log would make segments clean that come next. Whether the device has a record now that
 * says what is so: where it takes none, the copy in the identity record counts, which is smaller. Throws `EIO` where
 * that is not written before anything else.
 */
export async function correctRecord(
  cache: BlockDevice,
  { record, superblock, identity }: Recorded,
  last: number,
  isIntroduced: boolean,
): Promise<boolean> {
  if (record <= last) return superblock.record !== undefined;
  try {
    await cache.write(RECORD_START, encodeRecord(last));
    return true;
  } catch (error) {
    if (!isOfPlace(error)) throw error;
    if (isIntroduced && identity !== "foreign") return false;
    throw refuse(
      cache.name,
      "EIO",
      `the superblock record (sector 2047) says that segments up to ${record} are written back, the log ends at ${last}, and the record cannot be corrected: ${error.reason}`,
      "Nothing of the log is lost: copy the cache device to one that is whole, and open that.",
    );
  }
}
