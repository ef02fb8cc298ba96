/**
 * Offline: the metadata of an image as plain data, and nothing of it left out. What the fields cannot say byte for
 * byte (uninitialised bytes of old drivers, damage) stands beside them as base64 without trailing zeroes. What is
 * not mentioned is zero.
 */
import {
  type BlockDevice,
  type OfflineWork,
  isZero,
  nextTurn,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
import type { Image } from "./examine/findings.ts";
import type { Dialect } from "../format/checksum.ts";
import { BLOCK, SLOTS_START, plogSegmentSize, slotStart } from "../format/geometry.ts";
import { readHead } from "../device/log/read-slot.ts";
import { decodeHead, printBlocks } from "../format/head.ts";
import { IDENTITY_START, type Identity, encodeIdentity } from "../format/identity.ts";
import { type RecordHeader, decodeRecordHeader, decodeRecords } from "../format/plog.ts";
import { HEADER_START, RECORD_START, encodeHeader, encodeRecord } from "../format/superblock.ts";
import { START_NAME, plogBytes, plogNameOffset, takeStartName } from "../device/log/plog-place.ts";
import { plogCapacity } from "../open/plog/plog-scan.ts";
import { type ScannedLog, scan } from "../open/scan.ts";
import { readPast } from "../open/superblock.ts";

/** A range as base64, zeroes at its end left out. */
export interface DumpedBytes {
  /** Bytes from the start of the device. */
  readonly offset: number;
  readonly bytes: string;
}

/** A segment on the cache device. */
export interface DumpedSlot {
  readonly slot: number;
  readonly id: number;
  readonly checksum: number;
  /** See format/head.ts. */
  readonly blocks: string;
  /** Metablocks behind them that do not count but are there. */
  readonly beyond?: string | undefined;
  /** The checksum did not match the data when the dump was made. */
  readonly torn?: true | undefined;
}

export interface DumpedPlogSegment {
  readonly segment: number;
  readonly records: readonly RecordHeader[];
  /** The sector behind the last record, as base64, unless it is zero. */
  readonly after?: string | undefined;
}

/** All metadata of a cache, and of its plog: enough to restore both, but for the data blocks. */
export interface ImageDump {
  readonly format: "writeboost";
  readonly version: 1;
  /** Bytes: size of the cache device, and of what counts of the backing device where that is known. */
  readonly cacheBytes: number;
  readonly backingBytes: number | null;
  readonly dialect: Dialect;
  /** segment_size_order: sector 0, unless `raw` has it. */
  readonly order: number;
  readonly slots: number;
  /** last_writeback_segment_id: sector 2047, unless `raw` has it. */
  readonly record: number;
  /** Sector 8; null: zero, or `raw` has it. */
  readonly identity: Identity | null;
  readonly segments: readonly DumpedSlot[];
  /** Slots whose heads cannot be read: nothing is known of them, and a restore makes them zero. */
  readonly unreadable?: readonly number[] | undefined;
  /** Everything else in the first MiB and in the heads of slots. */
  readonly raw: readonly DumpedBytes[];
  readonly plog: {
    /** Of the device that are the plog. */
    readonly bytes: number;
    readonly segments: readonly DumpedPlogSegment[];
    /** The sector with the copy of the identity record. */
    readonly identity: DumpedBytes | null;
  } | null;
}

/** Throws `EFORMAT` where there is no cache, what devices throw, and the signal's reason. */
export async function dumpImage({ cache, backing, plog }: Image, work: OfflineWork): Promise<ImageDump> {
  // Every checksum is compared, so that a restore can tell data that was damaged then from data that changed since.
  const { progress } = checkSettings(workSettings, work);
  const found = await scan(cache, backing?.size, {
    ...work,
    thorough: true,
    // The rest of the progress is for reading the heads again.
    progress: progress && ((done, total) => progress(done, total * 1.06)),
  });
  const raw: DumpedBytes[] = [];
  const superblock = await dumpSuperblock(cache, found, raw);
  const lost = [...found.unreadable].filter((slot) => found.ids[slot] === 0).sort((a, b) => a - b);
  const segments = await dumpSlots(cache, found, raw, work);
  return {
    format: "writeboost",
    version: 1,
    cacheBytes: cache.size,
    backingBytes: found.backingSize ?? null,
    dialect: found.dialect,
    order: found.geometry.order,
    slots: found.geometry.slots,
    ...superblock,
    segments,
    ...(lost.length === 0 ? {} : { unreadable: lost }),
    raw,
    plog: plog === undefined ? null : await dumpPlog(plog, found, work),
  };
}

/** The first MiB. */
async function dumpSuperblock(
  cache: BlockDevice,
  { geometry, recordOnDevice: record, identity: found }: ScannedLog,
  raw: DumpedBytes[],
): Promise<{ record: number; identity: Identity | null }> {
  const [area, lost] = await readPast(cache, 0, SLOTS_START);
  const identity = typeof found === "object" ? found : null;
  const said = Buffer.alloc(SLOTS_START);
  encodeHeader(geometry.order).copy(said, HEADER_START);
  encodeRecord(record).copy(said, RECORD_START);
  if (identity !== null) encodeIdentity(identity).copy(said, IDENTITY_START);
  for (let offset = 0; offset < SLOTS_START; offset += 512) {
    const sector = area.subarray(offset, offset + 512);
    if (!lost.includes(offset) && !sector.equals(said.subarray(offset, offset + 512)))
      raw.push({ offset, bytes: base64(sector) });
  }
  return { record, identity };
}

async function dumpSlots(
  cache: BlockDevice,
  { geometry, ids, problems, rotten, unreadable }: ScannedLog,
  raw: DumpedBytes[],
  { environment, signal, progress }: OfflineWork,
): Promise<DumpedSlot[]> {
  const bad = new Map(
    problems.map(({ slot, problem }) => [slot, problem === "unreadable" ? "checksum" : problem]),
  );
  for (const slot of rotten) bad.set(slot, "checksum");
  const segments: DumpedSlot[] = [];
  const head = Buffer.alloc(BLOCK);
  for (let slot = 0; slot < ids.length; slot += 1) {
    const offset = slotStart(geometry, slot);
    if (ids[slot] === 0 && unreadable.has(slot)) continue;
    await readHead(cache, offset, head);
    if (slot % 1024 === 0) {
      signal?.throwIfAborted();
      progress?.(17 * ids.length + slot, 18.02 * ids.length);
      await nextTurn(environment.scheduler);
    }
    if (isZero(head)) continue;
    const problem = bad.get(slot);
    const fields =
      problem === undefined || problem === "checksum" ? decodeHead(head, geometry.blocks) : undefined;
    if (fields === undefined) {
      raw.push({ offset, bytes: base64(head) });
      continue;
    }
    const { id, checksum } = fields;
    const beyond = printBlocks(fields.beyond);
    segments.push({
      slot,
      id,
      checksum,
      blocks: printBlocks(fields),
      ...(beyond === "" ? {} : { beyond }),
      ...(problem === "checksum" ? { torn: true } : {}),
    });
  }
  progress?.(1, 1);
  return segments;
}

async function dumpPlog(
  plog: BlockDevice,
  { geometry, backingSize, identity: own }: ScannedLog,
  { signal }: OfflineWork,
): Promise<ImageDump["plog"]> {
  const size = plogSegmentSize(geometry.order);
  const bounds = { blocks: geometry.blocks, backing: (backingSize ?? Number.MAX_SAFE_INTEGER) / 512 };
  const bytes = await plogBytes(plog, own);
  const fit = plogCapacity(plog, geometry.order, bytes);
  const place = plogNameOffset(bytes, geometry.order);
  let name: Buffer | undefined;
  const segments: DumpedPlogSegment[] = [];
  for (let segment = 0; segment < fit; segment += 1) {
    signal?.throwIfAborted();
    const [buffer] = await readPast(plog, segment * size, size);
    if (segment === 0 && place === undefined) name = takeStartName(buffer);
    const records: RecordHeader[] = [];
    let end = 0;
    for (const { dataAt, length } of decodeRecords(buffer, bounds)) {
      const header = decodeRecordHeader(buffer, dataAt - 512);
      // With rubbish behind its fields it cannot be said in fields; nor can what follows it.
      if (header === undefined) break;
      records.push(header);
      end = dataAt + length * 512;
    }
    const after = end < size ? base64(buffer.subarray(end, end + 512)) : "";
    if (records.length > 0 || after !== "") {
      segments.push({ segment, records, ...(after === "" ? {} : { after }) });
    }
  }
  if (place === undefined || bytes > plog.size) {
    const identity = name === undefined ? null : { offset: START_NAME, bytes: base64(name) };
    return { bytes, segments, identity };
  }
  const [sector] = await readPast(plog, place, 512);
  const identity = isZero(sector) ? null : { offset: place, bytes: base64(sector) };
  return { bytes, segments, identity };
}

function base64(bytes: Buffer): string {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  return bytes.toString("base64", 0, end);
}
