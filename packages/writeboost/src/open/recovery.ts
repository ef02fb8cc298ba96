/**
 * Brings a cache device into a state from which it can go on: durably, before the first request is answered,
 * so that a second crash gives the same result.
 *
 *      scan → refuse damage → invalidate what is not part of the log, flush
 *           → write segments rebuilt from the plog, flush → zero the plog, flush
 *           → correct the superblock record, identity record, flush everything
 */
import type { Devices, Recovered } from "../device/recovered.ts";
import {
  type BlockDevice,
  type Environment,
  BlockIoError,
  inParallel,
  randomDigits,
  refuse,
  requireNoCache,
  isOfPlace,
} from "@dmkit/block-io";
import type { Rules } from "../core/rules.ts";
import type { Rebuilt } from "../core/plog-replay.ts";
import type { Dialect } from "../format/checksum.ts";
import { BLOCK, MAX_ORDER, plogSegmentSize, plogSegments, slotOf, slotStart } from "../format/geometry.ts";
import { IDENTITY_START, type Identity, NO_UUID, NO_WITNESS, encodeIdentity } from "../format/identity.ts";
import { checkFormat, formatCache } from "./making/format-cache.ts";
import { goOnGrowing } from "./making/grow.ts";
import { withoutSuperfluous } from "./making/superfluous.ts";
import { requirePair } from "./pairing.ts";
import { completeRebuilt } from "./plog/plog-complete.ts";
import { judgePlog } from "./plog/plog-owner.ts";
import {
  emptyStart,
  hasName,
  isNamed,
  plogBytes,
  plogNameOffset,
  requireBlankPair,
  startName,
  writePlogName,
} from "../device/log/plog-place.ts";
import { type ScannedPlog, plogCapacity, scanPlog } from "./plog/plog-scan.ts";
import { type ScannedLog, adoptLog, scan } from "./scan.ts";
import { UNKNOWN_OWNER, headerOf, readSuperblock, correctRecord, writeUnreadable } from "./superblock.ts";
import { wayOut } from "./unreadable.ts";

export interface RecoveryOptions {
  /** Default: what is on the device; 10 for a new one. */
  readonly order: number | undefined;
  /** Default: what is on the device; classic for a new one. */
  readonly dialect: Dialect | undefined;
  /** RAM buffers; decides P. */
  readonly pool: number;
  /** Bytes of the backing device that are mapped. */
  readonly size: number;
  /** Format what is not blank, and take a plog of unknown contents. */
  readonly force: boolean;
  /** Whether the log may be one that is archived: its archive is at hand, or nothing is written. */
  readonly archived: boolean;
  readonly progress?: ((slots: number, of: number) => void) | undefined;
}

/** Formats a blank cache device (any that is no cache, if told to), or replays the log of one in use. Errors: `EFORMAT`, `EINVAL`, I/O. */
export async function recover(
  devices: Devices,
  options: RecoveryOptions,
  environment: Environment,
  rules: Rules,
): Promise<Recovered> {
  const { cache, backing, plog } = devices;
  let superblock = await withoutSuperfluous(devices, environment, rules);
  const grown = await goOnGrowing(devices, superblock.header, options);
  if (grown === undefined && headerOf(cache, superblock) === "none") await make(devices, options);
  superblock = await readSuperblock(cache);
  const found = await scan(cache, backing.size, {
    ...options,
    dialect: grown ?? options.dialect,
    superblock,
    environment,
    rules,
  });
  await requirePair(found.identity, devices);
  if (typeof found.identity === "object" && found.identity.archive !== NO_UUID && !options.archived) {
    const hint =
      "Give archive STORE/DISK as before, or archive none: that ends it, and the archive has nothing of what follows.";
    throw refuse(cache.name, "EINVAL", "the log of this cache is archived, and no archive is given", hint);
  }
  if (found.damage !== undefined) {
    const hint = `Check the cache device offline; nothing has been written.${found.unreadable.size > 0 ? wayOut(found) : ""}`;
    throw refuse(cache.name, "EFORMAT", `the log is damaged: ${found.damage}`, hint);
  }
  if (found.identity === "unreadable") {
    const [reason, hint] = UNKNOWN_OWNER;
    throw refuse(cache.name, "EIO", reason, `${hint}${wayOut(found)}`);
  }
  const unread = [...found.unreadable].filter((slot) => isIn(found, slot)).length;
  if (unread > 0)
    environment.logger.log("warn", "segments cannot be read; what only they have fails until they can be", {
      device: cache.name,
      segments: unread,
    });
  if (plog !== undefined && found.dialect === "v2")
    throw refuse(cache.name, "EINVAL", "a cache of the v2 dialect has no plog", "Open it as type 0.");
  const plogSize = plog === undefined ? 0 : await plogBytes(plog, found.identity);
  const fit = plog === undefined ? 0 : plogCapacity(plog, found.geometry.order, plogSize);
  const segments = plog === undefined ? 0 : plogSegments(options.pool, fit);
  const bound = found.backingSize ?? backing.size;
  const { scanned, isNew } =
    (plog && (await scanOwn(plog, found, { bound, segments, force: options.force, rules }, environment))) ??
    NO_PLOG;
  if (scanned?.missing !== undefined) {
    const hint = `What came before is not in the plog. Nothing has been written.${wayOut(found)}`;
    throw refuse(plog?.name, "EIO", `the end of the log is lost: ${scanned.missing}`, hint);
  }
  if (scanned !== undefined) await completeRebuilt(cache, found, scanned.rebuilt, rules);
  await writeUnreadable(cache, found, environment);
  await invalidate(cache, found);
  const last = await rebuild(cache, found, scanned?.rebuilt ?? []);
  if (plog !== undefined && scanned !== undefined)
    await zeroPlog(plog, found.geometry.order, scanned, segments);
  // A rebuilt segment may have taken the slot of the oldest one.
  const first = Math.max(found.first, last + 1 - found.geometry.slots);
  const lastWriteback = rules.lastWriteback({ first, last }, found.record, found.geometry.slots);
  const split = adoptLog(found, first, last, lastWriteback);
  const isRecorded = await correctRecord(cache, found, last, split.length === 0);
  // What is merged may be in the plog alone, in its first sector, too: then the next opening gives the name.
  const nameAtStart =
    plog !== undefined && split.length === 0 && plogNameOffset(plogSize, found.geometry.order) === undefined;
  const introduction = (): Promise<Identity | undefined> =>
    introduce(
      devices,
      found,
      { last, segments, plogSize, isNew, nameAtStart, size: options.size, isEmpty: split.length === 0 },
      environment,
    );
  const identity = split.length === 0 ? await introduction() : undefined;
  // What a former life wrote may be in some volatile cache still: no answer may be given on that ground.
  await Promise.all([cache.flush(), backing.flush()]);
  const { geometry, dialect, map } = found;
  return {
    geometry,
    dialect,
    map,
    first,
    last,
    lastWriteback,
    // What cannot be read, or corrected, is written again as soon as there is anything to be recorded.
    recorded: isRecorded ? Math.min(found.record, last) : -1,
    identity,
    plogSegments: segments,
    plogName: identity?.nameAtStart === true ? startName(identity) : scanned?.startName,
    split,
    introduce: introduction,
  };
}

/** Whether a slot holds a segment of the log. */
function isIn({ ids, first, last }: ScannedLog, slot: number): boolean {
  const id = ids[slot] as number;
  return id >= first && id <= last;
}

type Making = Pick<RecoveryOptions, "force" | "pool" | "order" | "dialect">;

/** Throws `EFORMAT` (what is there), `EINVAL` unless a cache can be made; writes nothing. */
export async function requireMakeable({ cache, backing, plog }: Devices, options: Making): Promise<void> {
  const { force, pool, order = MAX_ORDER, dialect = "classic" } = options;
  if (!force) await requireBlankPair(cache, plog, force);
  await requireNoCache(backing, { force });
  checkFormat(cache, plog, { order, dialect, pool });
}

async function make(devices: Devices, options: Making): Promise<void> {
  const { force, pool, order = MAX_ORDER, dialect = "classic" } = options;
  const { cache, plog } = devices;
  // Nothing is written, nor erased, before everything is known to be right.
  await requireMakeable(devices, options);
  if (force) await requireBlankPair(cache, plog, force);
  await formatCache(cache, plog, { order, dialect, pool });
}

interface PlogFound {
  readonly scanned: ScannedPlog | undefined;
  /** It has not been this cache's plog so far. */
  readonly isNew: boolean;
}

const NO_PLOG: PlogFound = { scanned: undefined, isNew: false };

/** What the plog holds of this cache; of one that is new to it, nothing counts. */
async function scanOwn(
  plog: BlockDevice,
  found: ScannedLog,
  { bound, segments, force, rules }: { bound: number; segments: number; force: boolean; rules: Rules },
  { logger }: Environment,
): Promise<PlogFound> {
  const scanned = await scanPlog(plog, found, bound, segments, rules);
  const isNew = (await judgePlog(plog, found, scanned, force)) === "new";
  if (isNew) return { scanned: { ...scanned, rebuilt: [], missing: undefined, startName: undefined }, isNew };
  // A cache that has been type 0 so far owns nothing in any plog, whatever is there.
  if (typeof found.identity === "object" && found.identity.plog === NO_UUID)
    return { scanned: { ...scanned, rebuilt: [], missing: undefined }, isNew };
  if (scanned.lost > 0) {
    logger.log("warn", "segments that were flushed are lost: the cache device is damaged", {
      first: found.last + 1,
      last: found.last + scanned.lost,
    });
  }
  return { scanned, isNew };
}

/** Slots that claim to be segments and are not part of the log must never be believed again. */
export async function invalidate(cache: BlockDevice, found: ScannedLog): Promise<void> {
  const { stale, geometry } = found;
  if (stale.length === 0) return;
  const zero = Buffer.alloc(BLOCK);
  await inParallel(stale, 32, async (slot) => {
    const offset = slotStart(geometry, slot);
    try {
      await cache.write(offset, zero);
    } catch (error) {
      if (!found.unreadable.has(slot) || !isOfPlace(error)) throw error;
      throw new BlockIoError(`slot ${slot} can neither be read nor emptied, and may hold an old segment`, {
        code: "EIO",
        device: cache.name,
        op: "open",
        offset,
        length: BLOCK,
        cause: error,
        hint: `Nothing of the log is lost: copy the cache device to one that is whole, with zeroes in place of what cannot be read.${wayOut(found)}`,
      });
    }
  });
  await cache.flush();
}

/** Writes segments rebuilt from the plog to their slots, durably. Returns the last segment of the log. */
export async function rebuild(
  cache: BlockDevice,
  found: ScannedLog,
  rebuilt: readonly Rebuilt[],
): Promise<number> {
  const { geometry, map, ids } = found;
  if (rebuilt.length === 0) return found.last;
  // In the order of their ids and with flushes between them: a crash in here must not tear more than K.
  await cache.flush();
  for (let at = 0; at < rebuilt.length; at += geometry.tail) {
    await inParallel(rebuilt.slice(at, at + geometry.tail), 4, ({ id, image }) =>
      cache.write(slotStart(geometry, slotOf(geometry, id)), image),
    );
    await cache.flush();
  }
  for (const { id, length, image } of rebuilt) {
    ids[slotOf(geometry, id)] = id;
    map.load(slotOf(geometry, id), image, length, Number.POSITIVE_INFINITY);
  }
  return (rebuilt.at(-1) as Rebuilt).id;
}

/**
 * Records of an id that is about to be used again must not be found behind the new ones. What else lies in plog
 * segments that are not in use stays, and so does the name: a crash in here must not leave a plog that nobody knows.
 * @param segments plog segments that are about to be used. Default: only what was found counts.
 */
export async function zeroPlog(
  plog: BlockDevice,
  order: number,
  { used, ids, unreadable, startName: name }: ScannedPlog,
  segments: number = ids.length,
): Promise<void> {
  const own = used.filter((segment) => segment < segments || (ids[segment] as number) > 0);
  if (own.length === 0) return;
  const size = plogSegmentSize(order);
  await inParallel(own, 8, async (segment) => {
    try {
      const start = segment > 0 || name === undefined ? Buffer.alloc(0) : emptyStart(name);
      if (start.length > 0) await plog.write(0, start);
      await plog.writeZeroes(segment * size + start.length, size - start.length);
    } catch (error) {
      if (!unreadable.includes(segment) || !isOfPlace(error)) throw error;
      const reason = `plog segment ${segment} can neither be read nor emptied: ${error.reason}`;
      const hint =
        "Nothing of the log is lost: copy the plog to a device that is whole, with zeroes in place of what cannot be read.";
      throw refuse(plog.name, "EIO", reason, hint);
    }
  });
  await plog.flush();
}

interface Introduction {
  readonly last: number;
  /** P. */
  readonly segments: number;
  /** Bytes. */
  readonly plogSize: number;
  /** It has not been this cache's plog so far. */
  readonly isNew: boolean;
  readonly nameAtStart: boolean;
  /** Nothing in the plog counts. */
  readonly isEmpty: boolean;
  /** Bytes of the backing device that are mapped. */
  readonly size: number;
}

/** Writes the identity record, and the name of the plog before that, unless its place belongs to somebody else. */
async function introduce(
  { cache, plog }: Devices,
  { identity: found, geometry, dialect, record: recorded }: ScannedLog,
  { last, segments, plogSize, isNew, nameAtStart, isEmpty, size }: Introduction,
  { random }: Environment,
): Promise<Identity | undefined> {
  if (found === "foreign") return undefined;
  const before = typeof found === "object" ? found : undefined;
  let plogUuid = NO_UUID;
  if (plog !== undefined) {
    plogUuid = before === undefined || before.plog === NO_UUID || isNew ? randomDigits(random) : before.plog;
  }
  const identity: Identity = {
    version: 2,
    dialect,
    order: geometry.order,
    clean: false,
    cache: before?.cache ?? randomDigits(random),
    plog: plogUuid,
    // Never less than before: the log may have blocks behind what is mapped now.
    backingSize: Math.max(size, before?.backingSize ?? 0),
    backingSample: 0,
    plogSegments: segments,
    // The flush that makes the record durable makes the log durable as well.
    coveredId: Math.min(last, before?.coveredId ?? 0),
    lastId: last,
    recordedId: Math.min(last, recorded),
    slots: geometry.slots,
    plogSize,
    nameAtStart,
    witness: NO_WITNESS,
    archive: before?.archive ?? NO_UUID,
  };
  const block = encodeIdentity(identity);
  // The plog first, and durably: a cache that names a plog must find that name on it, whenever the power fails.
  if (plog !== undefined && hasName(identity, plogSize) && !(await isNamed(plog, identity))) {
    if (before === undefined || isNew || isEmpty) {
      // And a plog with a name must find the cache that gave it, or it is another one's; nor is a spoilt name missed.
      await cache.write(IDENTITY_START, encodeIdentity({ ...identity, plog: NO_UUID, plogSegments: 0 }));
      await cache.flush();
    }
    await writePlogName(plog, identity);
  }
  await cache.write(IDENTITY_START, block);
  return identity;
}
