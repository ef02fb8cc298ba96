/** `writeDirty`: writes all dirty blocks of a cache that nobody is serving to its source, and marks it clean. */
import { type BlockDevice, type Environment, SECTOR, parseOptions, realEnvironment } from "@dmkit/block-io";
import { openCache } from "./open.ts";
import { findMetadata } from "./opening/load.ts";
import { cacheOptions } from "./options.ts";

export interface WriteDirtyOptions {
  /** Told after each batch: blocks written, and blocks that were dirty at first. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Write even though the source is not as it was at the last clean shutdown. */
  readonly force?: boolean;
  readonly environment?: Environment;
}

/** Blocks written. Errors: EFORMAT, EINVAL (wrong source), EIO; blocks that could not be written stay dirty. */
export async function writeDirty(
  source: BlockDevice,
  cache: BlockDevice,
  options: WriteDirtyOptions = {},
): Promise<number> {
  const stored = await findMetadata(cache);
  if (stored.version === 1) return 0;
  const device = await openCache(
    parseOptions(cacheOptions, {
      source: "source",
      cache: "cache",
      persistence: 1,
      force: options.force === true,
    }),
    {
      name: cache.name,
      size: stored.superblock.sourceSectors * SECTOR,
      environment: options.environment ?? realEnvironment,
      lower: async (reference) => (reference === "source" ? source : cache),
    },
  );
  const { frames, statistics } = device.state;
  const total = frames.dirty;
  device.cleaner.onBatch = () => options.onProgress?.(statistics.writtenBack, total);
  try {
    await device.clean();
  } finally {
    await device.close();
  }
  return statistics.writtenBack;
}
