/**
 * What has to be done before a device of format 2 can be used: its metadata is read, and what the journal has is
 * brought into place. Used when a device is opened, and by the offline tools.
 */
import { type BlockIoError, SECTOR, readTwice, refuse } from "@dmkit/block-io";
import { type ExtentMap, LOST, TAIL } from "../../core/extent-map.ts";
import { BLOCK, BLOCK_SECTORS, MAX_EXTENT, payloadBytes } from "../../format/geometry-v1.ts";
import { type Change, type DecodedRecord, changeKinds } from "../../format/journal-v2.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { decodeGroup } from "../../format/metadata-v2.ts";
import type { Applier } from "../../device/v2/applier.ts";
import { Store, type StoreParts } from "../../device/v2/store.ts";

const CHUNK = 1024 * 1024;

/** Reads all metadata. A sector that does not check, or is not given, loses its 64 blocks, nothing else. */
export async function loadStore(parts: StoreParts): Promise<Store> {
  const store = new Store(parts);
  const { lower, superblock } = parts;
  const { metaStart, metaBlocks } = superblock.layout;
  const groups = store.versions.length;
  for (let at = 0; at < metaBlocks * BLOCK; at += CHUNK) {
    const chunk = Buffer.alloc(Math.min(CHUNK, metaBlocks * BLOCK - at));
    const missing = await readTwice(lower, metaStart * BLOCK + at, chunk);
    for (let within = 0; within < chunk.length; within += SECTOR) {
      const group = (at + within) / SECTOR;
      if (group >= groups) break;
      const sector = chunk.subarray(within, within + SECTOR);
      const isGiven = !missing.has(within / SECTOR);
      const record = isGiven
        ? decodeGroup(sector, superblock.uuid, group, store.map.states, store.sums)
        : undefined;
      if (record === undefined) {
        if (!isGiven) store.sealed.seal(group);
        giveUp(store, group, isGiven ? "damaged metadata" : "unreadable metadata");
      } else if (!isWellFormed(store.map, group * GROUP)) store.doubtful.add(group);
    }
  }
  return store;
}

/** Whether the extents of a group have heads, and are none too long. */
export function isWellFormed(map: ExtentMap, first: number): boolean {
  const end = Math.min(first + GROUP, map.blocks);
  if (((map.states[first] as number) & TAIL) !== 0) return false;
  for (let block = first; block < end; block += 1) {
    const state = map.states[block] as number;
    if (state !== 0 && state !== LOST && map.find(block).bad) return false;
  }
  return true;
}

/**
 * Gives up groups whose sector is right and whose extents do not fit together. A crash while records are replayed may
 * leave that, and the later records mend it: so it is asked when all of them are in place.
 */
function loseDoubtful(store: Store): void {
  for (const group of store.doubtful)
    if (!isWellFormed(store.map, group * GROUP)) giveUp(store, group, "damaged metadata");
  store.doubtful.clear();
}

function giveUp(store: Store, group: number, why: string): void {
  const { logger, counters } = store.parts;
  const first = group * GROUP;
  store.map.lose(first, Math.min(GROUP, store.map.blocks - first));
  store.unreadable.add(group);
  counters.damaged += 1;
  logger.log("error", why, { first, blocks: GROUP, place: store.groupPlace(group) });
}

/**
 * Brings what the journal has into place, its pending records; the number of the last one. Where metadata was not given
 * that they tell of, it stays as it is, and so does what they say. Throws `EIO` where the next record would be written
 * over what only the journal has.
 * @param inMemory nothing of this is written to a device.
 */
export async function replay(
  pending: readonly DecodedRecord[],
  applier: Applier,
  store: Store,
  inMemory: boolean,
): Promise<number> {
  const { lower, superblock } = store.parts;
  let last = superblock.applied;
  for (const record of pending) {
    if (!isPlausible(record, store.map.blocks)) continue;
    if (inMemory) for (const { first } of record.changes) store.sealed.unseal(Math.floor(first / GROUP));
    requireKept(record, store, last);
    await applier.apply(record.number, record.changes, record.payloads);
    last = record.number;
  }
  const [group] = store.sealed.told.keys();
  if (group !== undefined && store.spare < 0) {
    const reason = `the metadata of ${blocksOf(store, group)}, and of ${store.sealed.told.size - 1} other groups, cannot be read, and the journal has no room to keep what it says of them`;
    throw refuse(lower.name, "EIO", reason, undefined);
  }
  loseDoubtful(store);
  // Recovery is durable before anything is answered from it.
  if (last > superblock.applied) await lower.flush();
  return last;
}

/** What only the record before has stays there, and nothing is written over it: this one has to have it, too. */
function requireKept({ changes }: DecodedRecord, store: Store, last: number): void {
  const refusal = (reason: string): BlockIoError => refuse(store.parts.lower.name, "EIO", reason, undefined);
  const within = (block: number, some: readonly Change[]): boolean =>
    some.some(({ first, blocks }) => block >= first && block < first + blocks);
  const replaced = changes.filter(({ kind }) => kind !== changeKinds.inPlace);
  for (const block of store.held.keys())
    if (!within(block, replaced))
      throw refusal(
        `block ${block} cannot be written at ${store.placeOf(block)}, and only record ${last} of the journal has it`,
      );
  for (const group of store.stuck) {
    const start = group * GROUP;
    const end = Math.min(start + GROUP, store.map.blocks);
    const inside = changes.filter(({ first }) => first >= start && first < end);
    if (inside.reduce((sum, { blocks }) => sum + blocks, 0) < end - start)
      throw refusal(
        `the metadata of ${blocksOf(store, group)} cannot be written, and only record ${last} of the journal has all of it`,
      );
  }
  for (const [group, told] of store.sealed.told)
    for (const block of told)
      if (!within(block, changes))
        throw refusal(
          `the metadata of ${blocksOf(store, group)} cannot be read, and only record ${last} of the journal says what block ${block} is`,
        );
}

function blocksOf({ map }: Store, group: number): string {
  return `blocks ${group * GROUP} … ${Math.min((group + 1) * GROUP, map.blocks) - 1}`;
}

/** A record with good checksums was written by somebody; this guards against somebody's mistakes. */
export function isPlausible({ changes, payloads }: DecodedRecord, blocks: number): boolean {
  let bytes = 0;
  for (const change of changes) {
    if (change.first >= blocks || change.blocks < 1 || change.blocks > blocks - change.first) return false;
    if (!isPlausibleChange(change)) return false;
    if (change.kind === changeKinds.payload) bytes += payloadBytes(change.sectors);
  }
  return bytes <= payloads.length;
}

function isPlausibleChange({ kind, first, blocks, sectors }: Change): boolean {
  if (Math.floor(first / GROUP) !== Math.floor((first + blocks - 1) / GROUP)) return false;
  if (kind === changeKinds.drop || kind === changeKinds.lost) return sectors === 0;
  if (kind !== changeKinds.payload && kind !== changeKinds.inPlace) return false;
  return blocks <= MAX_EXTENT && sectors >= 1 && sectors <= blocks * BLOCK_SECTORS;
}
