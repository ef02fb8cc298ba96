/** Reads a plog device: which of its segments go on where the log on the cache device ends. */
import { type BlockDevice, isZero, refuse } from "@dmkit/block-io";
import { type Rules, rules } from "../../core/rules.ts";
import { type Rebuilt, rebuildSegment } from "../../core/plog-replay.ts";
import { blocksPerSegment, plogSegmentSize } from "../../format/geometry.ts";
import { decodeRecords, recordsCutOff } from "../../format/plog.ts";
import { plogBytes, plogNameOffset, takeStartName } from "../../device/log/plog-place.ts";
import { SEGMENTS_FOR_TWO } from "../../device/log/plog-writer.ts";
import type { ScannedLog } from "../scan.ts";
import { readPast } from "../superblock.ts";

export interface ScannedPlog {
  /** Plog segments that fit on the device. */
  readonly fit: number;
  /** Segments after the end of the log, in id order without gaps; none if there are more than can be. */
  readonly rebuilt: readonly Rebuilt[];
  /** Of those looked at, the plog segments that are not all zero; a name does not count. */
  readonly used: readonly number[];
  /** By plog segment: the id of its records, 0 for none. */
  readonly ids: readonly number[];
  /** The name in the first sector, if there is one there. */
  readonly startName: Buffer | undefined;
  /** Segments behind the end of the log that were flushed and are lost, as far as the plog proves it. */
  readonly lost: number;
  /** What cannot be read and may belong to the end of the log, as text. */
  readonly missing: string | undefined;
  /** Plog segments of which sectors cannot be read. */
  readonly unreadable: readonly number[];
}

/**
 * Plog segments that fit. Throws `EINVAL` if none does, or the device cannot write single sectors.
 * @param bytes of the device that are the plog; default: all.
 */
export function plogCapacity(plog: BlockDevice, order: number, bytes: number = plog.size): number {
  const size = plogSegmentSize(order);
  const fit = Math.floor(Math.min(bytes, plog.size) / size);
  if (plog.limits.logicalBlockSize !== 512) {
    const reason = "a plog device must be able to write single sectors of 512 bytes";
    throw refuse(plog.name, "EINVAL", reason, "Use a device with 512-byte logical blocks, or type 0.");
  }
  if (fit > 0) return fit;
  const reason = `${plog.size} bytes are too few for a plog: one segment has ${size}`;
  const hint = `Give at least ${size} bytes; 8 segments (${8 * size} bytes) are good.`;
  throw refuse(plog.name, "EINVAL", reason, hint);
}

/**
 * How many segments a plog can be ahead of the log, by the invariants of plog-writer.ts. More prove that the end of
 * the log is lost to rot; what an older plog segment still holds need not be all that was flushed of its segment.
 */
function mostAhead(identity: ScannedLog["identity"]): number {
  if (typeof identity !== "object") return Number.POSITIVE_INFINITY;
  return identity.plogSegments >= SEGMENTS_FOR_TWO ? 2 : 1;
}

/**
 * Plog segments that may hold something of this cache: those it had in use. Nobody knows how many the original drivers
 * used; what lies behind those in use is none of our business.
 */
function inUse(identity: ScannedLog["identity"], fit: number): number {
  return typeof identity === "object" ? Math.min(fit, identity.plogSegments) : fit;
}

/** Where the records of a plog segment end at a sector that cannot be read. */
interface Cut {
  readonly segment: number;
  /** Of the records in front of it; 0 where there are none. */
  readonly id: number;
  /** Byte on the plog device. */
  readonly at: number;
}

/**
 * What of the end of the log may be where nothing can be read. Older records are of no account, nor is anything that
 * does not follow what is there, nor all of the plog of a cache that was closed in order.
 * @param end the last segment with the plog, of which only the first part may be there.
 */
function missingOf(
  cuts: readonly Cut[],
  identity: ScannedLog["identity"],
  last: number,
  end: number,
): string | undefined {
  const isOwn = typeof identity === "object";
  if (isOwn && identity.clean && last >= identity.lastId) return undefined;
  const next = end + 1;
  const mayBeNext = ({ segment }: Cut): boolean =>
    !isOwn || (next <= last + mostAhead(identity) && (next - 1) % identity.plogSegments === segment);
  const cut = cuts.find((one) => (one.id === 0 ? mayBeNext(one) : one.id > last && one.id <= next));
  if (cut === undefined) return undefined;
  const segment = cut.id === 0 ? `segment ${next}` : `more of segment ${cut.id}`;
  return `byte ${cut.at} of the plog cannot be read, and there may be ${segment}`;
}

/**
 * @param log the one on the cache device. @param backingSize bytes.
 * @param wanted plog segments that will be used: looked at as well, but nothing in them is believed.
 */
export async function scanPlog(
  plog: BlockDevice,
  { geometry: { order }, last, identity }: Pick<ScannedLog, "geometry" | "last" | "identity">,
  backingSize: number,
  wanted: number = 0,
  { isSound }: Rules = rules,
): Promise<ScannedPlog> {
  const size = plogSegmentSize(order);
  const bytes = await plogBytes(plog, identity);
  const fit = plogCapacity(plog, order, bytes);
  const own = inUse(identity, fit);
  const bounds = { blocks: blocksPerSegment(order), backing: backingSize / 512 };
  const later = new Map<number, Rebuilt>();
  const unreadable: number[] = [];
  const cuts: Cut[] = [];
  const used: number[] = [];
  const ids: number[] = [];
  let highest = 0;
  let startName: Buffer | undefined;
  for (let segment = 0; segment < Math.max(own, wanted); segment += 1) {
    const [buffer, lostSectors] = await readPast(plog, segment * size, size);
    if (segment === 0 && plogNameOffset(bytes, order) === undefined) startName = takeStartName(buffer);
    if (lostSectors.length > 0) unreadable.push(segment);
    if (lostSectors.length > 0 || !isZero(buffer)) used.push(segment);
    if (segment >= own) {
      ids.push(0);
      continue;
    }
    const records = decodeRecords(buffer, bounds, isSound);
    const id = records[0]?.id ?? 0;
    ids.push(id);
    highest = Math.max(highest, id);
    const cut = recordsCutOff(buffer, records, bounds, lostSectors);
    if (cut !== undefined) cuts.push({ segment, id: cut.id, at: segment * size + cut.at });
    if (id <= last) continue;
    const rebuilt = rebuildSegment(buffer, records);
    if (rebuilt !== undefined) later.set(id, rebuilt);
  }
  const rebuilt: Rebuilt[] = [];
  const isRotten = highest > last + mostAhead(identity);
  if (isRotten) later.clear();
  for (let id = last + 1; later.has(id); id += 1) rebuilt.push(later.get(id) as Rebuilt);
  const missing = missingOf(cuts, identity, last, last + rebuilt.length);
  return { fit, rebuilt, used, ids, startName, lost: isRotten ? highest - last : 0, missing, unreadable };
}
