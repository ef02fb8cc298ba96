/**
 * `dump` and `restore`: the metadata of a cache as JSON, and back. The data of the frames stays where it is.
 */
import { type BlockDevice, BlockIoError, SECTOR } from "@dmkit/block-io";
import { ENTRIES_PER_SECTOR, EntryCodec, type EntryState, entryStates } from "./format/entries.ts";
import { type Superblock, decodeSuperblock, encodeSuperblock } from "./format/superblock.ts";
import { uuidFromText } from "./format/uuid.ts";
import { sectorInTableV1 } from "./format/v1.ts";
import { readEntries } from "./opening/entries.ts";
import { findMetadata } from "./opening/load.ts";
import { eraseSuperblocks, writeSuperblocks } from "./running/superblocks.ts";

export interface DumpedEntry {
  readonly frame: number;
  /** Number of the source's block: sector / block size. */
  readonly block: number;
  readonly state: "clean" | "dirty";
}

/** Plain data, ready for `JSON.stringify`. */
export interface Dump {
  readonly version: 1 | 2;
  /** Of version 2; of version 1 the geometry alone. */
  readonly superblock: Superblock | { readonly geometry: Superblock["geometry"] };
  readonly entries: readonly DumpedEntry[];
}

/** Everything valid; throws `EFORMAT` if there is no cache, or if entries are damaged. */
export async function dump(cache: BlockDevice): Promise<Dump> {
  const stored = await findMetadata(cache);
  const entries: DumpedEntry[] = [];
  if (stored.version === 1) {
    const { geometry } = stored.configuration;
    for (let frame = 0; frame < geometry.frames; frame += 1) {
      const sector = sectorInTableV1(stored.table, frame);
      if (sector > 0) entries.push({ frame, block: sector / geometry.blockSectors, state: "clean" });
    }
    return { version: 1, superblock: { geometry }, entries };
  }
  for await (const { frame, state, block, problem } of readEntries(cache, stored.superblock)) {
    if (problem !== undefined) {
      throw refusal(
        cache,
        "EFORMAT",
        `the entry of frame ${frame} is damaged (${problem})`,
        "Repair it first.",
      );
    }
    entries.push({ frame, block, state: state === entryStates.dirty ? "dirty" : "clean" });
  }
  return { version: 2, superblock: stored.superblock, entries };
}

/** Writes a version 2 dump to a device of the size it was taken from; throws `EINVAL` if it cannot be true. */
export async function restore(cache: BlockDevice, { version, superblock, entries }: Dump): Promise<void> {
  if (version !== 2 || !("uuid" in superblock)) {
    throw refusal(cache, "EINVAL", "only dumps of version 2 can be restored", "Make a new cache instead.");
  }
  const checked = decodeSuperblock(encodeSuperblock(superblock));
  if (typeof checked === "string" || superblock.deviceSectors !== cache.size / SECTOR) {
    const why =
      typeof checked === "string" ? checked : `it is of a device of ${superblock.deviceSectors} sectors`;
    throw refusal(
      cache,
      "EINVAL",
      `the dump does not fit: ${why}`,
      "Restore it to the device it was taken from.",
    );
  }
  const bytes = encodeEntries(cache, superblock, entries);
  await eraseSuperblocks(cache);
  await cache.write(superblock.entryStart * SECTOR, bytes);
  await cache.flush();
  await writeSuperblocks(cache, { ...superblock, generation: superblock.generation + 1 });
}

function encodeEntries(cache: BlockDevice, superblock: Superblock, entries: readonly DumpedEntry[]): Buffer {
  const { frames, blockSectors } = superblock.geometry;
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const used = Math.ceil(frames / ENTRIES_PER_SECTOR);
  const bytes = Buffer.alloc(Math.ceil((used * SECTOR) / 4096) * 4096);
  const blocks = Math.ceil(superblock.sourceSectors / blockSectors);
  for (const { frame, block, state } of entries) {
    const inRange = (value: number, end: number): boolean =>
      Number.isSafeInteger(value) && value >= 0 && value < end;
    if (!inRange(frame, frames) || !inRange(block, blocks)) {
      throw refusal(
        cache,
        "EINVAL",
        `frame ${frame} cannot hold block ${block}`,
        "Restore an unchanged dump.",
      );
    }
    const stored: EntryState = state === "dirty" ? entryStates.dirty : entryStates.clean;
    codec.put(
      bytes,
      Math.floor(frame / ENTRIES_PER_SECTOR) * SECTOR,
      frame % ENTRIES_PER_SECTOR,
      stored,
      block,
    );
  }
  for (let sector = 0; sector < used; sector += 1) codec.seal(bytes, sector * SECTOR, sector);
  return bytes;
}

function refusal(cache: BlockDevice, code: "EINVAL" | "EFORMAT", reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code, device: cache.name, hint });
}
