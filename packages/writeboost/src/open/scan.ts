/**
 * Reads a cache device without changing it: superblock, identity, the first block of every slot, and the
 * checksums of the segments that no flush is known to cover. What recovery, the checker, the dumper and the
 * read-only views start from.
 */
import type { Split } from "../device/recovered.ts";
import type { ScanOptions } from "./scan-options.ts";
import {
  type BlockDevice,
  type BlockIoError,
  contentsOf,
  notBlank,
  realEnvironment,
  refuse,
} from "@dmkit/block-io";
import type { BlockMap } from "../core/block-map.ts";
import type { Log } from "../core/log.ts";
import { type Rules, rules as ours } from "../core/rules.ts";
import { type Claims, ringsOf, smallestRing } from "../core/ring.ts";
import type { Dialect } from "../format/checksum.ts";
import {
  type Geometry,
  MAX_ORDER,
  MIN_SLOTS,
  geometryOf,
  geometryWith,
  slotOf,
  slotStart,
} from "../format/geometry.ts";
import type { Identity, StoredIdentity } from "../format/identity.ts";
import { type SlotProblem, SlotScanner } from "./slot-scanner.ts";
import { GIVEN_UP, type Superblock, headerOf, readSuperblock } from "./superblock.ts";
import { type LogWithGap, withUnreadable } from "./unreadable.ts";
import { type ReadRing, formatShown, requireDialect, requireOrder } from "./stored-format.ts";

export type { SlotProblem } from "./slot-scanner.ts";

export interface ScannedLog extends LogWithGap {
  readonly geometry: Geometry;
  readonly dialect: Dialect;
  readonly superblock: Superblock;
  /** The superblock's. */
  readonly identity: StoredIdentity;
  /** Bytes in front of which all blocks lie: as the identity record says, else as given; undefined where nobody knows. */
  readonly backingSize: number | undefined;
  /** last_writeback_segment_id as far as it is believed: see {@link believed}. */
  readonly record: number;
  /** last_writeback_segment_id as the superblock record has it, or, where it cannot be read, its copy; 0 without. */
  readonly recordOnDevice: number;
  /** Blocks of segments up to here are clean. */
  readonly lastWriteback: number;
  /** By slot: the id found, 0 for none. */
  readonly ids: Float64Array;
  /** By slot: whether the segment is whole, as far as that had to be found out. */
  readonly valid: Uint8Array;
  readonly problems: readonly SlotProblem[];
  /** Slots of which the device does not give the head, or not all of the data, as far as that was wanted. */
  readonly unreadable: ReadonlySet<number>;
  /** Of a thorough scan: slots in which only a checksum that opening does not look at is wrong, or cannot be read. */
  readonly rotten: readonly number[];
  /** Keys and bits of all slots are loaded; nothing has been adopted. */
  readonly map: BlockMap;
  /** Segments whose whole contents were read and checksummed. */
  readonly checksummed: number;
}

/** What is known already. */
export interface Given {
  /** Default: it is read. */
  readonly superblock?: Superblock | undefined;
  readonly rules?: Rules | undefined;
}

/**
 * Throws `EFORMAT`.
 * @param givenSize bytes of the backing device, if there is one; the identity record's counts, where there is that.
 */
export async function scan(
  cache: BlockDevice,
  givenSize: number | undefined,
  options: ScanOptions & Given,
): Promise<ScannedLog> {
  const { assumeOrder, environment = realEnvironment, progress, signal, rules = ours } = options;
  const superblock = options.superblock ?? (await readSuperblock(cache));
  const header = assumeOrder === undefined ? headerOf(cache, superblock) : { order: assumeOrder };
  if (header === "none") {
    const contents = await contentsOf(cache);
    if (contents !== undefined) throw notBlank(cache, contents, {});
    if (superblock.header.kind === "unfinished") throw refuse(cache.name, "EFORMAT", ...GIVEN_UP);
    throw refuse(cache.name, "EFORMAT", "the device is not formatted", "Format it first.");
  }
  const { identity } = superblock;
  const own = typeof identity === "object";
  if (own) requireDialect(cache, identity.dialect, options.dialect);
  const recordOnDevice = superblock.record ?? (own ? identity.recordedId : 0);
  const record = believed(recordOnDevice, identity);
  const backingSize = own ? identity.backingSize : givenSize;
  const thorough = options.thorough === true;
  const work = { progress, signal, environment, thorough, rules, mapped: givenSize ?? 0 };
  const readHeads = async (geometry: Geometry): Promise<SlotScanner> => {
    const heads = new SlotScanner(cache, backingSize ?? ANY_SIZE, geometry, work);
    await heads.readHeads();
    return heads;
  };
  // Where nobody knows how many slots there were, the segments do.
  const isKnown = own && identity.slots > 0;
  const readRing = async (order: number): Promise<ReadRing> => {
    const geometry = ringOn(cache, order, identity);
    const scanner = await readHeads(geometry);
    const slots = isKnown ? geometry.slots : slotsBySegments(cache, order, record, scanner, rules);
    if (slots === geometry.slots) return { geometry, scanner };
    const shorter = geometryWith(order, slots);
    return { geometry: shorter, scanner: await readHeads(shorter) };
  };
  const { geometry, scanner, dialect } = own
    ? {
        ...(await readRing(orderOf(cache, header.order, identity, options))),
        dialect: identity.dialect,
      }
    : await formatShown(cache, header.order, options, readRing);
  const covered = own ? identity.coveredId : 0;
  await scanner.verify(Math.max(record, covered), own && identity.clean ? identity.lastId : 0);
  const { ids, valid, map, problems } = scanner;
  const chain = rules.findLog({ ids, valid, tail: geometry.tail, record, covered });
  const closed = asClosed(isKnown ? chain : await withoutStray(chain, scanner), record, ids.length, identity);
  const log = withUnreadable(closed, scanner, geometry, record, identity);
  const rotten = thorough ? await scanner.verifyRest() : [];
  const { checksummed, unreadable } = scanner;
  return {
    ...log,
    geometry,
    dialect,
    superblock,
    identity,
    backingSize,
    record,
    recordOnDevice,
    lastWriteback: rules.lastWriteback(log, record, geometry.slots),
    ids,
    valid,
    problems,
    unreadable,
    rotten,
    map,
    checksummed,
  };
}

/** The ring as recorded, else as large as there is room for. Throws `EFORMAT` where the device has been cut short. */
function ringOn(cache: BlockDevice, order: number, identity: StoredIdentity): Geometry {
  const room = geometryOf(cache.size, order);
  if (typeof identity === "object" && identity.slots > 0) {
    const geometry = geometryWith(order, identity.slots);
    if (room.slots < geometry.slots) throw tooShort(cache, geometry);
    // Fewer are none that was ever made.
    if (geometry.slots >= MIN_SLOTS) return geometry;
  }
  if (room.slots >= MIN_SLOTS) return room;
  throw refuse(
    cache.name,
    "EFORMAT",
    `there is room for ${room.slots} segments, and at least ${MIN_SLOTS} are needed`,
    "The device has been truncated, or is too small for this segment_size_order.",
  );
}

/** Slots of the ring, where the length of the device need not tell. Throws `EFORMAT` if it has been cut short. */
function slotsBySegments(
  cache: BlockDevice,
  order: number,
  record: number,
  { ids, misplaced }: SlotScanner,
  { findLog }: Rules,
): number {
  if (misplaced.size === 0) return ids.length;
  const claims: Claims = { ids: Float64Array.from(ids), order, record };
  for (const [slot, id] of misplaced) claims.ids[slot] = id;
  const [ring, other] = ringsOf(claims, findLog);
  if (ring !== undefined && other === undefined) return ring;
  const least = ring ?? smallestRing(claims);
  // One head that says nothing sane fits in some ring or other.
  if (least === undefined || least <= ids.length || misplaced.size < 2) return ids.length;
  throw tooShort(cache, geometryWith(order, least));
}

function tooShort(cache: BlockDevice, geometry: Geometry): BlockIoError {
  return refuse(
    cache.name,
    "EFORMAT",
    `the device has been cut short: the log has ${geometry.slots} segment slots and reaches to byte ${slotStart(geometry, geometry.slots)}, the device has ${cache.size} bytes`,
    "Make it at least as long again; what was there has to be there. Nothing has been written.",
  );
}

/**
 * A whole segment later than all of the log, in a slot where no ring has it that explains the others as well: the log
 * would lose it. Rot of an id looks the same.
 */
async function withoutStray(log: Log, scanner: SlotScanner): Promise<Log> {
  if (log.damage !== undefined) return log;
  for (const [slot, id] of scanner.misplaced) {
    if (id <= log.last || !(await scanner.isWholeAt(slot))) continue;
    const damage = `segment ${id} is whole, but in slot ${slot}, where a ring of this length does not have it: the device had another length when it was written`;
    return { ...log, damage };
  }
  return log;
}

/**
 * After an orderly close nothing may be torn, and what has been written back is known exactly: all the others must be
 * there. After a crash the oldest of them may be missing, because their slots may have been in use again.
 */
function asClosed(log: Log, record: number, slots: number, identity: StoredIdentity): Log {
  if (typeof identity !== "object" || !identity.clean || log.damage !== undefined) return log;
  const { lastId } = identity;
  const oldest = Math.max(record, lastId - slots) + 1;
  if (log.last >= lastId && log.first <= oldest) return log;
  const there = log.first > log.last ? "there are none" : `only ${log.first} … ${log.last} are there`;
  const damage = `the cache was closed in order with segments ${oldest} … ${lastId} to be written back, but ${there}`;
  return { ...log, damage };
}

// Bytes: room for every sector number that makes sense, where the size of the backing device is not known.
const ANY_SIZE = 2 ** 53 - 4096;

/**
 * The record without a checksum, held against its copy that has one. Too low costs some writing; too high would
 * make dirty segments clean. A crash may land one of the two only: then the older one counts.
 */
function believed(record: number, identity: StoredIdentity): number {
  return typeof identity === "object" ? Math.min(record, identity.recordedId) : record;
}

/**
 * Makes the newest copies of segments `first` … `last` those that are found; other slots are emptied.
 *
 * In a log of dmkit's own the newest copy, over what is durable on the backing device, is the whole truth
 * (write-path.ts). Older copies are then not dirty, even if nothing says that they were written back: to write
 * one again could take the backing device back in time. Logs of the original drivers promise no such thing:
 * there, dirty sectors that only an older copy has are returned, to be merged.
 */
export function adoptLog(
  { map, geometry, ids, identity }: ScannedLog,
  first: number,
  last: number,
  lastWritebackId: number,
): Split[] {
  const own = typeof identity === "object";
  const split = new Map<number, Split>();
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot] as number;
    if (id < first || id > last) map.leaveOut(slot);
  }
  const order = new Float64Array(Math.max(0, last - first + 1));
  for (let id = first; id <= last; id += 1) {
    const slot = slotOf(geometry, id);
    order[id - first] = slot;
    if (id <= lastWritebackId) map.startClean(slot);
  }
  map.adoptAll(order, (index, previous) => {
    if (own) map.settle(previous);
    if (((map.dirty[previous] as number) & ~(map.valid[index] as number)) === 0) return;
    const block = map.keys[index] as number;
    const copy = { index: previous, id: ids[Math.floor(previous / map.blocks)] as number };
    const known = split.get(block);
    if (known === undefined) split.set(block, { block, copies: [copy] });
    else known.copies.push(copy);
  });
  return [...split.values()];
}

function orderOf(
  cache: BlockDevice,
  stored: number | undefined,
  identity: Identity,
  options: ScanOptions,
): number {
  // Later drivers know order 10 only and leave the byte as it was.
  const order = identity.dialect === "v2" ? MAX_ORDER : (stored ?? identity.order);
  if (identity.order !== order) {
    throw refuse(
      cache.name,
      "EFORMAT",
      `the superblock says segment_size_order ${order}, the identity record ${identity.order}`,
      "A byte of sector 0 has changed: put the order back there (byte 4). Nothing has been written.",
    );
  }
  requireOrder(cache, order, options.order);
  return order;
}
