/**
 * Opening, format 2: loads the metadata, replays the journal, and starts the device. Where the device below cannot be
 * written, the journal is replayed in memory: what can be read is the same.
 */
import type { Opening } from "../opening.ts";
import {
  type BlockDevice,
  type OpenContext,
  BlockIoError,
  MemoryOverlay,
  isOfPlace,
  isOutOfSpace,
  refuse,
} from "@dmkit/block-io";
import { openCodec, requireWorking } from "../../device/codec.ts";
import { newCounters } from "../../device/counters.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { type LayoutV2, MIN_JOURNAL, defaultJournal, layoutV2 } from "../../format/layout-v2.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";
import type { CompressionOptions } from "../../options.ts";
import { refusal, requireFit } from "../refusals.ts";
import { Applier } from "../../device/v2/applier.ts";
import { Committer } from "../../device/v2/committer.ts";
import { CompressionDeviceV2 } from "../../device/v2/device.ts";
import { Journal } from "../../device/v2/journal/journal.ts";
import { Recall } from "../../device/v2/recall.ts";
import { loadStore, replay } from "./load.ts";
import { Staging } from "../../device/v2/staging.ts";
import { formatV2, requireAlgorithm } from "../../device/v2/superblocks.ts";

/** The algorithm of a new device. */
export const DEFAULT_V2 = "lz4";

export const DEFAULT_EXTENT = 65_536;

/** Makes an empty device of this format. */
export async function createV2(
  lower: BlockDevice,
  { algorithm = DEFAULT_V2, journal }: Pick<CompressionOptions, "algorithm" | "journal">,
  { name, environment }: Pick<OpenContext, "name" | "environment">,
): Promise<SuperblockV2> {
  // An algorithm that does not work is found out before anything is written.
  await requireWorking(algorithm, name);
  return formatV2(lower, planV2(lower, journal), algorithm, environment.random);
}

/** How a new device is divided; `journal` bytes, 0 for as many as fit it. Throws `EINVAL`. */
export function planV2(
  lower: Pick<BlockDevice, "size"> & Partial<Pick<BlockDevice, "name">>,
  journal: number,
): LayoutV2 {
  const wanted = journal === 0 ? defaultJournal(lower.size) : journal;
  const layout = layoutV2(Math.floor(lower.size / BLOCK), Math.max(wanted, MIN_JOURNAL));
  if (layout !== undefined) return layout;
  throw refuse(
    lower.name,
    "EINVAL",
    `${lower.size} bytes leave no room for data, or are more than 16 TiB of it`,
    "Use a device of another size, or a smaller journal.",
  );
}

/** Opens what {@link requireV2} has nothing against. */
export async function openV2(
  lower: BlockDevice,
  superblock: SuperblockV2,
  options: CompressionOptions,
  context: OpenContext,
  { synchronous, rules }: Opening,
): Promise<CompressionDeviceV2> {
  const { name, size, environment } = context;
  const codec = await openCodec(superblock.algorithm, name, synchronous);
  try {
    const counters = newCounters();
    const { readOnly } = lower.limits.capabilities;
    const below = readOnly ? new MemoryOverlay(lower) : lower;
    const parts = { lower: below, codec, superblock, logger: environment.logger, counters, rules };
    const store = await loadStore(parts);
    const applier = new Applier(store);
    const journal = new Journal(parts);
    const pending = await journal.pending();
    const next = 1 + (await replay(pending, applier, store, readOnly).catch(namingReadOnly));
    counters.metadata = 0;
    // Sealed metadata is given up for all of its blocks at once.
    const limit = Math.max(1, Math.floor(options.memory / 2 / BLOCK), store.sealedBlocks);
    const staging = new Staging(limit);
    const recall = new Recall(store, journal, !readOnly);
    const moving = { store, staging, journal, applier, recall };
    const maxExtent = Math.floor((options.max_extent ?? DEFAULT_EXTENT) / BLOCK);
    const makeCommitter = (failed: (error: unknown) => void): Committer => {
      const discardHoles = options.discard_holes;
      return new Committer({ ...moving, maxExtent, discardHoles, next, failed });
    };
    const interval = options.mode === "writethrough" ? 0 : options.interval * 1000;
    return new CompressionDeviceV2({
      name,
      size,
      environment,
      store,
      staging,
      recall,
      makeCommitter,
      interval,
      readOnly,
    });
  } catch (error) {
    await codec.close();
    throw error;
  }
}

/** What has no room to be brought into place can be read where it is. */
function namingReadOnly(error: unknown): never {
  if (!isOutOfSpace(error) && !isOfPlace(error)) throw error;
  const hint = isOutOfSpace(error)
    ? "Make room below; until then it can be opened read-only (-r), which replays in memory."
    : "Open it read-only (-r), which replays in memory and shows all that was flushed; and copy that to a device that takes it, by recompress say.";
  throw new BlockIoError(`the journal cannot be replayed: ${error.reason}`, {
    code: error.code,
    device: error.device,
    op: "open",
    offset: error.offset,
    length: error.length,
    cause: error,
    hint,
  });
}

/** Throws `EINVAL` for a device that is not as the options say, `EFORMAT` for an algorithm that is not known. */
export function requireV2(
  lower: BlockDevice,
  superblock: SuperblockV2,
  { algorithm, journal }: CompressionOptions,
  { name, size }: Pick<OpenContext, "name" | "size">,
): void {
  const { layout, algorithm: stored } = superblock;
  if (algorithm !== undefined && algorithm !== stored)
    throw refusal(name, `the device is compressed with ${stored}`, "Leave the option algorithm out.");
  // What was asked for when it was made has been rounded.
  const asked = journal === 0 ? layout : layoutV2(layout.totalBlocks, Math.max(journal, MIN_JOURNAL));
  if (asked?.journalBlocks !== layout.journalBlocks) {
    const hint = "The journal of a device stays as it was made. Leave the option journal out.";
    throw refusal(name, `the device has a journal of ${layout.journalBlocks * BLOCK} bytes`, hint);
  }
  requireFit(size, layout.dataBlocks, name);
  requireAlgorithm(lower, superblock);
}
