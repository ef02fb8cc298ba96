/** `writeDirty`: writes all dirty blocks of a cache that nobody is serving to its source, and marks it clean. */
import {
  type BlockDevice,
  type OfflineWork,
  SECTOR,
  type SettingsTable,
  parseOptions,
  realEnvironment,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { openCache } from "../open/open.ts";
import { findMetadata } from "../open/load.ts";
import { cacheOptions } from "../options.ts";

/** Progress is in blocks: written, and dirty at first. */
export interface WriteDirtyOptions extends Partial<OfflineWork> {
  /** Write even though the source is not as it was at the last clean shutdown. */
  readonly force?: boolean | undefined;
}

const writeSettings: SettingsTable<WriteDirtyOptions> = { ...workSettings, force: setting.flag };

/**
 * Blocks written. Errors: EFORMAT, EINVAL (wrong source), EIO; blocks that could not be written stay dirty.
 * Told to stop it rejects with the signal's reason, after the batch under way; run it again to finish.
 */
export async function writeDirty(
  source: BlockDevice,
  cache: BlockDevice,
  options: WriteDirtyOptions = {},
): Promise<number> {
  const {
    force = false,
    environment = realEnvironment,
    progress,
    signal,
  } = checkSettings(writeSettings, options);
  signal?.throwIfAborted();
  const stored = await findMetadata(cache);
  if (stored.version === 1) return 0;
  const device = await openCache(
    parseOptions(cacheOptions, { source: "source", cache: "cache", persistence: 1, force }),
    {
      name: cache.name,
      size: stored.superblock.sourceSectors * SECTOR,
      environment,
      lower: async (reference) => (reference === "source" ? source : cache),
    },
  );
  try {
    await device.clean({ signal, progress: ({ done, total }) => progress?.(done, total) });
  } catch (error) {
    if (signal?.aborted !== true) {
      await device.close();
      throw error;
    }
    // Left as a crash would leave it: what is written back is durable, the rest is dirty still.
    await device.cleaner.pause();
    await device.flush();
    throw error;
  }
  await device.close();
  return device.state.statistics.writtenBack;
}
