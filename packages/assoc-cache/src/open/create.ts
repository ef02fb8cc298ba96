/**
 * Makes a new cache; whether the device may be written over is for the caller to find out. An interrupted attempt leaves
 * a device without a superblock, never one with old entries, and says so where the superblock will be:
 *
 *      erase both superblocks, flush; empty entry sectors under a new UUID, flush; superblocks, flush
 */
import { type BlockDevice, FORCE_WORD, type Random, SECTOR, randomUuid, refuse } from "@dmkit/block-io";
import { ENTRIES_PER_SECTOR, EntryCodec, entrySectorsFor, entryStates } from "../format/entries.ts";
import { type Geometry, geometryProblem } from "../format/geometry.ts";
import { layoutOf } from "../format/layout.ts";
import type { Policy, Superblock } from "../format/superblock.ts";
import { uuidFromText } from "../format/uuid.ts";
import {
  checksumV1,
  encodeConfigurationV1,
  putSectorInTableV1,
  requiredSectorsV1,
  tableSectorsV1,
} from "../format/v1.ts";
import {
  currentSuperblock,
  eraseSuperblocks,
  eraseSuperblocksV1,
  readSuperblocks,
  writeSuperblocks,
} from "../device/metadata/superblocks.ts";
import { countDirty } from "./entries.ts";

export interface NewCache {
  readonly geometry: Geometry;
  readonly policy: Policy;
  /** Bytes of the source that are cached. */
  readonly size: number;
  /** Lower-case text, or empty. */
  readonly sourceUuid: string;
  /** Overwrite a cache that holds dirty blocks. */
  readonly force: boolean;
  /** Floats in [0, 1), for the UUID. */
  readonly random: Random;
}

const CHUNK_SECTORS = 2048;
/** No block. */
const NOTHING = -1;

/** Throws `EINVAL` (geometry, room, block size) if the cache cannot be made; nothing is written. */
export function requirePossible(
  cache: BlockDevice,
  { geometry }: Pick<NewCache, "geometry">,
  format: "v1" | "v2",
): void {
  checkGeometry(cache, geometry);
  if (format === "v1" && cache.limits.logicalBlockSize !== SECTOR) {
    throw refuse(cache.name, "EINVAL", "format v1 needs a device of 512-byte blocks", "Use format v2.");
  }
  checkRoom(cache, format === "v1" ? requiredSectorsV1(geometry) : layoutOf(geometry).requiredSectors);
}

/** Errors: EINVAL (geometry, room), EBUSY (dirty blocks and no `force`), those of the device. */
export async function createV2(cache: BlockDevice, wanted: NewCache): Promise<Superblock> {
  const { geometry } = wanted;
  requirePossible(cache, wanted, "v2");
  const layout = layoutOf(geometry);
  if (!wanted.force) await refuseDirty(cache);
  const superblock: Superblock = {
    clean: false,
    needsCheck: false,
    uuid: randomUuid(wanted.random),
    sourceUuid: wanted.sourceUuid,
    generation: 1,
    sourceSectors: wanted.size / SECTOR,
    geometry,
    policy: wanted.policy,
    entryStart: layout.entryStart,
    dataStart: layout.dataStart,
    deviceSectors: cache.size / SECTOR,
    dirty: 0,
    fingerprint: undefined,
    witness: undefined,
  };
  await eraseSuperblocks(cache);
  await writeEntries(cache, superblock, () => NOTHING);
  await cache.flush();
  await writeSuperblocks(cache, superblock);
  return superblock;
}

/** Makes room for a cache with historical metadata: nothing on the device is valid until it is closed. */
export async function createV1(cache: BlockDevice, wanted: NewCache): Promise<void> {
  requirePossible(cache, wanted, "v1");
  if (!wanted.force) await refuseDirty(cache);
  await eraseSuperblocksV1(cache);
}

/** Writes historical metadata: table, flush, configuration, flush. There must be no valid one before. */
export async function writeMetadataV1(
  cache: BlockDevice,
  geometry: Geometry,
  writeBack: boolean,
  entries: Iterable<{ readonly frame: number; readonly block: number }>,
): Promise<void> {
  const table = Buffer.alloc(tableSectorsV1(geometry.frames) * SECTOR);
  for (const { frame, block } of entries) putSectorInTableV1(table, frame, block * geometry.blockSectors);
  await cache.write(cache.size - SECTOR - table.length, table);
  await cache.flush();
  const checksum = checksumV1(table);
  await cache.write(cache.size - SECTOR, encodeConfigurationV1({ geometry, writeBack, checksum }));
  await cache.flush();
}

/** Refuses a device that holds the only copy of something, or may do so. Throws `EBUSY`. */
export async function refuseDirty(cache: BlockDevice): Promise<void> {
  const copies = await readSuperblocks(cache);
  const current = currentSuperblock(copies);
  if (current === undefined) {
    if (!copies.first.ours && !copies.second.ours) return;
    throw refuse(
      cache.name,
      "EBUSY",
      "the device carries a cache whose superblocks are damaged",
      `Check it with fsck, or give ${FORCE_WORD}`,
    );
  }
  const dirty = await countDirty(cache, current);
  if (dirty === 0) return;
  throw refuse(
    cache.name,
    "EBUSY",
    dirty === undefined
      ? "the device carries a cache with damaged entries"
      : `the cache holds ${dirty} dirty blocks`,
    `Write them back first (open it with persistence 1 and close it), or give ${FORCE_WORD}`,
  );
}

function checkGeometry(cache: BlockDevice, geometry: Geometry): void {
  const problem = geometryProblem(geometry);
  if (problem !== undefined) throw refuse(cache.name, "EINVAL", problem, "Give powers of two.");
}

function checkRoom(cache: BlockDevice, sectors: number): void {
  if (cache.size >= sectors * SECTOR) return;
  throw refuse(
    cache.name,
    "EINVAL",
    `the cache needs ${sectors} sectors, the device has ${cache.size / SECTOR}`,
    "Give a smaller cache size, smaller blocks or a larger device.",
  );
}

/** Writes all entries. @param blockIn the clean block in a frame, or a negative number. They are not flushed. */
export async function writeEntries(
  cache: BlockDevice,
  superblock: Superblock,
  blockIn: (frame: number) => number,
): Promise<void> {
  const { geometry, entryStart } = superblock;
  const codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
  const used = entrySectorsFor(geometry.frames);
  const sectors = layoutOf(geometry).entrySectors;
  for (let first = 0; first < sectors; first += CHUNK_SECTORS) {
    const count = Math.min(CHUNK_SECTORS, sectors - first);
    const bytes = Buffer.alloc(count * SECTOR);
    for (let sector = 0; sector < count && first + sector < used; sector += 1) {
      const start = (first + sector) * ENTRIES_PER_SECTOR;
      for (let slot = 0; slot < ENTRIES_PER_SECTOR && start + slot < geometry.frames; slot += 1) {
        const block = blockIn(start + slot);
        if (block >= 0) codec.put(bytes, sector * SECTOR, slot, entryStates.clean, block);
      }
      codec.seal(bytes, sector * SECTOR, first + sector);
    }
    await cache.write((entryStart + first) * SECTOR, bytes);
  }
}
