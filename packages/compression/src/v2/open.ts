/** Opening, format 2: loads the metadata, replays the journal, and starts the device. */
import { type BlockDevice, BlockIoError, type OpenContext, SECTOR } from "@dmkit/block-io";
import { type Codec, openCodec, payloadBytes } from "../codec.ts";
import { type ExtentMap, LOST, TAIL } from "../core/extent-map.ts";
import { type Counters, newCounters } from "../counters.ts";
import { BLOCK, BLOCK_SECTORS, MAX_EXTENT } from "../format/geometry-v1.ts";
import { type Change, type DecodedRecord, changeKinds } from "../format/journal-v2.ts";
import { GROUP, MIN_JOURNAL, defaultJournal, layoutV2 } from "../format/layout-v2.ts";
import { decodeGroup } from "../format/metadata-v2.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import type { CompressionOptions } from "../options.ts";
import { Applier } from "./applier.ts";
import { Committer } from "./committer.ts";
import { CompressionDeviceV2 } from "./device.ts";
import { Journal } from "./journal.ts";
import { Staging } from "./staging.ts";
import { Store } from "./store.ts";
import { formatV2 } from "./superblocks.ts";

const CHUNK = 1024 * 1024;
const DEFAULT_EXTENT = 65_536;

/** Makes an empty device of this format. */
export async function createV2(
  lower: BlockDevice,
  options: CompressionOptions,
  { name, environment }: OpenContext,
): Promise<SuperblockV2> {
  const algorithm = options.algorithm ?? "lz4";
  // An algorithm that does not work is found out before anything is written.
  await (await openCodec(algorithm, name, true, 1)).close();
  const journal = options.journal === 0 ? defaultJournal(lower.size) : options.journal;
  const layout = layoutV2(Math.floor(lower.size / BLOCK), Math.max(journal, MIN_JOURNAL));
  if (layout === undefined) {
    throw new BlockIoError(`${lower.size} bytes leave no room for data, or are more than 16 TiB of it`, {
      code: "EINVAL",
      device: lower.name,
      op: "open",
      hint: "Use a device of another size, or a smaller journal.",
    });
  }
  return formatV2(lower, layout, algorithm, environment.random);
}

export async function openV2(
  lower: BlockDevice,
  superblock: SuperblockV2,
  options: CompressionOptions,
  context: OpenContext,
  synchronous: boolean,
): Promise<CompressionDeviceV2> {
  const { name, size, environment } = context;
  checkAgainst(options, superblock, context);
  const codec = await openCodec(superblock.algorithm, name, synchronous);
  try {
    const counters = newCounters();
    const parts = { lower, codec, superblock, logger: environment.logger, counters };
    const store = await loadStore(parts);
    const applier = new Applier(store);
    const journal = new Journal(lower, superblock);
    const next = 1 + (await replay(journal, applier, store));
    counters.metadata = 0;
    const staging = new Staging(Math.max(1, Math.floor(options.memory / 2 / BLOCK)));
    const maxExtent = Math.floor((options.max_extent ?? DEFAULT_EXTENT) / BLOCK);
    const makeCommitter = (failed: (error: unknown) => void): Committer => {
      const discardHoles = options.discard_holes;
      return new Committer({ store, staging, journal, applier, maxExtent, discardHoles, next, failed });
    };
    const interval = options.mode === "writethrough" ? 0 : options.interval * 1000;
    return new CompressionDeviceV2({ name, size, environment, store, staging, makeCommitter, interval });
  } catch (error) {
    await codec.close();
    throw error;
  }
}

function checkAgainst(
  { algorithm }: CompressionOptions,
  superblock: SuperblockV2,
  { name, size }: OpenContext,
): void {
  const refuse = (reason: string, hint: string): never => {
    throw new BlockIoError(reason, { code: "EINVAL", device: name, op: "open", hint });
  };
  if (algorithm !== undefined && algorithm !== superblock.algorithm) {
    refuse(`the device is compressed with ${superblock.algorithm}`, "Leave the option algorithm out.");
  }
  const most = superblock.layout.dataBlocks * BLOCK;
  if (size > most || size % BLOCK !== 0) {
    refuse(
      `${size} bytes do not fit`,
      `There are ${most / SECTOR} sectors; take a multiple of ${BLOCK_SECTORS}.`,
    );
  }
}

interface LoadParts {
  readonly lower: BlockDevice;
  readonly codec: Codec;
  readonly superblock: SuperblockV2;
  readonly logger: OpenContext["environment"]["logger"];
  readonly counters: Counters;
}

/** Reads all metadata. A sector that does not check loses its 64 blocks, nothing else. */
export async function loadStore(parts: LoadParts): Promise<Store> {
  const store = new Store(parts);
  const { lower, superblock, logger, counters } = parts;
  const { metaStart, metaBlocks } = superblock.layout;
  const groups = store.versions.length;
  for (let at = 0; at < metaBlocks * BLOCK; at += CHUNK) {
    const chunk = Buffer.alloc(Math.min(CHUNK, metaBlocks * BLOCK - at));
    await lower.read(metaStart * BLOCK + at, chunk);
    for (let within = 0; within < chunk.length; within += SECTOR) {
      const group = (at + within) / SECTOR;
      if (group >= groups) break;
      const sector = chunk.subarray(within, within + SECTOR);
      const record = decodeGroup(sector, superblock.uuid, group, store.map.states, store.sums);
      const first = group * GROUP;
      if (record !== undefined && isWellFormed(store.map, first)) continue;
      store.map.lose(first, Math.min(GROUP, store.map.blocks - first));
      counters.damaged += 1;
      logger.log("error", "damaged metadata", {
        first,
        blocks: GROUP,
        place: metaStart * BLOCK + group * SECTOR,
      });
    }
  }
  return store;
}

/** Whether the extents of a group have heads, and are none too long. */
function isWellFormed(map: ExtentMap, first: number): boolean {
  const end = Math.min(first + GROUP, map.blocks);
  if (((map.states[first] as number) & TAIL) !== 0) return false;
  for (let block = first; block < end; block += 1) {
    const state = map.states[block] as number;
    if (state !== 0 && state !== LOST && map.find(block).bad) return false;
  }
  return true;
}

/** Brings what the journal has into place; the number of the last record. */
async function replay(journal: Journal, applier: Applier, store: Store): Promise<number> {
  const { lower, superblock } = store.parts;
  let last = superblock.applied;
  for (const record of await journal.pending()) {
    if (!isPlausible(record, store.map.blocks)) continue;
    await applier.apply(record.number, record.changes, record.payloads);
    last = record.number;
  }
  // Recovery is durable before anything is answered from it.
  if (last > superblock.applied) await lower.flush();
  return last;
}

/** A record with good checksums was written by somebody; this guards against somebody's mistakes. */
function isPlausible({ changes, payloads }: DecodedRecord, blocks: number): boolean {
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
