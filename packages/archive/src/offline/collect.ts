/**
 * Collection: log objects and checkpoints that no moment needs which can still be asked for.
 *
 * Needed are the newest checkpoint and all behind it; of each kept moment the checkpoint before it, and the log from
 * there to it. Epochs and fences are never removed: a request of a writer that was replaced may land at any time, and
 * must find its place taken.
 */
import { type SettingsTable, inParallel, realEnvironment, checkSettings, setting } from "@dmkit/block-io";
import { isName, readManifest, removeTag } from "@dmkit/image";
import type { Archive } from "../device/archive.ts";
import { holdImage } from "../open/hold-image.ts";
import {
  type Position,
  checkpointKey,
  checkpointTag,
  isBefore,
  isSame,
  isWithin,
  keepPrefix,
  logsPrefix,
  positionOfKey,
} from "../format/keys.ts";
import { MAX_RECORD, type Moment, decodeMoment } from "../format/records.ts";
import { type ObjectEntry, getVerified } from "@dmkit/object-store";

// Log objects that are removed at a time.
const PARALLEL = 16;

/** What a collection removed, or would. */
export interface CollectedLog {
  readonly objects: number;
  /** Bytes of them. */
  readonly bytes: number;
  readonly checkpoints: number;
}

/** How a collection runs. */
export interface CollectLogOptions {
  /** Only says what would be removed. */
  readonly dryRun?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

const collectSettings: SettingsTable<CollectLogOptions> = { dryRun: setting.flag, signal: setting.signal };

/** The moments that are kept, by name. */
export async function momentsOf({ store, disk }: Archive): Promise<Map<string, Moment>> {
  const prefix = keepPrefix(disk);
  const moments = new Map<string, Moment>();
  for await (const { key } of store.list(prefix)) {
    const name = key.slice(prefix.length);
    // Somebody else's, as in other listings.
    if (!isName(name)) continue;
    moments.set(name, await getVerified(store, key, decodeMoment, { most: MAX_RECORD }));
  }
  return moments;
}

/** Errors: those of the store; those of the newest checkpoint's image, without which nothing is removed. */
export async function collectArchive(
  archive: Archive,
  options: CollectLogOptions = {},
): Promise<CollectedLog> {
  checkSettings(collectSettings, options);
  const checkpoints = await archive.checkpoints();
  const newest = await archive.checkpoint(checkpoints.at(-1) as Position);
  await readManifest(archive.store, archive.disk, newest.digest);
  // Without its tag a collection of images takes it, and from now on it is needed.
  if (options.dryRun !== true) await holdImage(archive, newest, realEnvironment);
  return await collectLog(archive, options, checkpoints);
}

/** The same, without a look at the image. @param known the checkpoints, where they have been listed. */
export async function collectLog(
  archive: Archive,
  { dryRun = false, signal }: CollectLogOptions = {},
  known?: readonly Position[],
): Promise<CollectedLog> {
  const { store, disk, rules } = archive;
  const checkpoints = known ?? (await archive.checkpoints());
  const newest = checkpoints.at(-1) as Position;
  const kept = [...(await momentsOf(archive)).values()].map(({ position }) => ({
    // Of a moment within an object that before it.
    base: checkpoints.findLast((one) => isBefore(one, position)) ?? position,
    position,
  }));
  let objects = 0;
  let bytes = 0;
  // What comes behind the checkpoint is needed, and grows meanwhile: the listing ends there.
  async function* unneeded(): AsyncGenerator<ObjectEntry> {
    const prefix = logsPrefix(disk);
    for await (const entry of store.list(prefix, "", { signal })) {
      const position = positionOfKey(prefix, entry.key, "/");
      if (position === undefined || !rules.mayRemove(position, entry.size, newest)) {
        if (position !== undefined && isBefore(newest, position)) return;
        continue;
      }
      if (!kept.some(({ base, position: moment }) => isWithin(position, base, moment))) yield entry;
    }
  }
  await inParallel(unneeded(), PARALLEL, async ({ key, size }) => {
    if (!dryRun) await store.remove(key, { signal });
    objects += 1;
    bytes += size;
  });
  let removed = 0;
  for (const position of checkpoints.slice(0, -1)) {
    if (kept.some(({ base }) => isSame(base, position))) continue;
    // What the disk held at the beginning has no record of its own.
    if (!dryRun && position.epoch > 0) await store.remove(checkpointKey(disk, position), { signal });
    if (dryRun || (await removeTag(store, disk, checkpointTag(position)))) removed += 1;
  }
  return { objects, bytes, checkpoints: removed };
}
