/**
 * An image that nobody serves, of either format, as the next opening would find it: the journal is replayed, but
 * in memory only.
 */
import { compressionRules } from "../core/rules.ts";
import {
  type BlockDevice,
  type BlockIoError,
  MemoryOverlay,
  readGiven,
  refuse,
  silentLogger,
} from "@dmkit/block-io";
import { type Codec, type Flaw, openCodec } from "../device/codec.ts";
import { ExtentMap, type StoredExtent } from "../core/extent-map.ts";
import { newCounters } from "../device/counters.ts";
import { BLOCK, payloadBytes } from "../format/geometry-v1.ts";
import type { DecodedRecord } from "../format/journal-v2.ts";
import { payloadSum } from "../format/metadata-v2.ts";
import { type SuperblockV1, decodeSuperblockV1, isSuperblockV1 } from "../format/superblock-v1.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";
import { algorithmOf, loadEntries, matchGeometry } from "../open/v1/load.ts";
import type { SealedEntries } from "../device/v1/sealed.ts";
import { Applier } from "../device/v2/applier.ts";
import { JournalPayloads } from "../device/v2/journal/journal-payloads.ts";
import { Journal } from "../device/v2/journal/journal.ts";
import { isPlausible, loadStore, replay } from "../open/v2/load.ts";
import type { Store } from "../device/v2/store.ts";
import { readSuperblock, requireAlgorithm } from "../device/v2/superblocks.ts";

/** The one device of an image. */
export const ROLE = "device";

interface Common {
  /** To read from: what is in the journal is in place here. */
  readonly view: BlockDevice;
  readonly algorithm: string;
  readonly codec: Codec;
  readonly map: ExtentMap;
  /** Bytes from the start of the device to block 0. */
  readonly dataOffset: number;
  readonly metaBlocks: number;
}

export interface ImageV1 extends Common {
  readonly format: "v1";
  readonly superblock: SuperblockV1;
  /** The superblock counts 2^32 data blocks too many. */
  readonly wrapped: boolean;
  /** Blocks of the device behind those that the superblock counts. */
  readonly rest: number;
  /** Entries that the device did not give. */
  readonly sealed: SealedEntries | undefined;
}

export interface ImageV2 extends Common {
  readonly format: "v2";
  readonly superblock: SuperblockV2;
  readonly view: MemoryOverlay;
  readonly store: Store;
  /** All records that are valid, in order: the last two, unless the last one was torn. */
  readonly records: readonly DecodedRecord[];
  /** Groups whose metadata the device does not give, and that are not known from the journal as a whole. */
  readonly sealed: Set<number>;
  /** Payloads that they have. */
  readonly kept: JournalPayloads;
  /** Slots of the journal that cannot be read, and may hold what is not in the view. */
  readonly unreadableSlots: readonly number[];
  /** Records that are not known to be in place; those that nobody can have meant are left out. */
  readonly pending: readonly DecodedRecord[];
  /** Numbers of those left out. */
  readonly implausible: readonly number[];
}

export type Image = ImageV1 | ImageV2;

/**
 * Reads the start and the metadata. Throws `EFORMAT`, and what the devices and the algorithm throw.
 *
 * @param payloads without them the algorithm need not be available here.
 * @param past go on where a slot of the journal cannot be read, and say so.
 * @param beforeReplay as of {@link openImageV2}.
 */
export async function openImage(
  device: BlockDevice,
  payloads = true,
  past = false,
  beforeReplay?: (image: ImageV2) => Promise<unknown>,
): Promise<Image> {
  const first = await readStart(device);
  if (isSuperblockV1(first)) return openImageV1(device, decodeSuperblockV1(first), payloads);
  const superblock = device.size < 2 * BLOCK ? undefined : await readSuperblock(device);
  if (superblock === undefined) throw foreign(device);
  return openImageV2(device, superblock, payloads, past, beforeReplay);
}

/** Block 0, or as much of it as the device has; zeroes where it cannot be read: format 2 has another copy. */
export async function readStart(device: BlockDevice): Promise<Buffer> {
  const length = Math.min(BLOCK, device.size);
  return (await readGiven(device, 0, length)) ?? Buffer.alloc(length);
}

export function foreign(device: BlockDevice): BlockIoError {
  return refuse(device.name, "EFORMAT", "there is no superblock of a compressed device", undefined);
}

export async function openImageV1(
  device: BlockDevice,
  superblock: SuperblockV1,
  payloads = true,
): Promise<ImageV1> {
  const { geometry, wrapped, rest } = matchGeometry(device, superblock);
  const algorithm = algorithmOf(device, superblock);
  const { metaBlocks } = geometry;
  const map = new ExtentMap(geometry.dataBlocks);
  const sealed = await loadEntries(device, map, metaBlocks);
  const codec = await openCodec(payloads ? algorithm : "none", device.name, true, 1);
  const dataOffset = (1 + metaBlocks) * BLOCK;
  const found = { superblock, wrapped, rest, sealed, algorithm, metaBlocks };
  return { format: "v1", view: device, codec, map, dataOffset, ...found };
}

/** @param beforeReplay may put metadata right in the view and the store. */
export async function openImageV2(
  device: BlockDevice,
  superblock: SuperblockV2,
  payloads: boolean,
  past: boolean,
  beforeReplay?: (image: ImageV2) => Promise<unknown>,
): Promise<ImageV2> {
  const view = new MemoryOverlay(device);
  if (payloads) requireAlgorithm(device, superblock);
  const codec = await openCodec(payloads ? superblock.algorithm : "none", device.name, true, 1);
  try {
    const parts = {
      lower: view,
      codec,
      superblock,
      logger: silentLogger,
      counters: newCounters(),
      rules: compressionRules,
    };
    const store = await loadStore(parts);
    const journal = new Journal(parts, past);
    const all = await journal.records();
    const records = all.filter((record) => isPlausible(record, store.map.blocks));
    const isPending = ({ number }: DecodedRecord): boolean => number > superblock.applied;
    const { map, dataOffset } = store;
    const image: ImageV2 = {
      format: "v2",
      view,
      superblock,
      algorithm: superblock.algorithm,
      codec,
      map,
      dataOffset,
      metaBlocks: superblock.layout.metaBlocks,
      store,
      records,
      sealed: new Set(),
      kept: new JournalPayloads(superblock.uuid, records),
      unreadableSlots: journal.unreadable,
      pending: records.filter(isPending),
      implausible: all
        .filter((record) => isPending(record) && !records.includes(record))
        .map(({ number }) => number),
    };
    await beforeReplay?.(image);
    for (const group of store.sealed) image.sealed.add(group);
    await replay(image.pending, new Applier(store), store, true);
    return image;
  } catch (error) {
    await codec.close();
    throw error;
  }
}

/** Byte on the device where the payload of an extent begins. */
export function placeOf({ dataOffset }: Image, block: number): number {
  return dataOffset + block * BLOCK;
}

/** The payload of an extent that has one; undefined where the device does not give it. */
export async function readPayload(
  image: Image,
  { head, sectors }: StoredExtent,
): Promise<Buffer | undefined> {
  const unit = image.view.limits.logicalBlockSize;
  const length = payloadBytes(sectors);
  const payload = await readGiven(image.view, placeOf(image, head), Math.ceil(length / unit) * unit);
  return payload?.subarray(0, length);
}

/** Whether a payload has the checksum it should have; format 1 has none. */
export function checks(image: Image, { head }: StoredExtent, payload: Buffer): boolean {
  if (image.format === "v1") return true;
  return payloadSum(image.superblock.uuid, head, payload) === image.store.sums[head];
}

/**
 * Fills whole blocks with the contents of an extent from the payload that the journal still has of it, which is the result;
 * undefined if it has none, or none that makes sense. Format 1 has no journal.
 */
export async function recall(
  image: Image,
  { head, sectors }: StoredExtent,
  into: Buffer,
): Promise<Buffer | undefined> {
  if (image.format === "v1") return undefined;
  const payload = image.kept.find(head, sectors, image.store.sums[head] as number);
  return payload && (await image.codec.decode(payload, into)) === undefined ? payload : undefined;
}

/** Fills whole blocks with what the place of an extent that is not `bad` holds; what is wrong, if anything is. */
export async function readContents(
  image: Image,
  extent: StoredExtent,
  into: Buffer,
): Promise<Flaw | undefined> {
  if (extent.sectors === 0) {
    into.fill(0);
    return undefined;
  }
  const payload = await readPayload(image, extent);
  if (payload === undefined) return "unreadable";
  if (!checks(image, extent, payload)) return "checksum";
  return image.codec.decode(payload, into);
}
