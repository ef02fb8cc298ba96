/**
 * The historical metadata while the cache runs. On the device there is none: the configuration is invalidated at
 * open, because after a crash an old table with a valid checksum would describe frames that were used again. It
 * is written at a clean close: data, flush, table, flush, configuration, flush. No dirty block can be kept.
 */
import { SECTOR } from "@dmkit/block-io";
import { checksumV1, encodeConfigurationV1, putSectorInTableV1, tableSectorsV1 } from "../../format/v1.ts";
import type { Metadata } from "./metadata.ts";
import type { CacheState } from "../state.ts";

export class MetadataV1 implements Metadata {
  readonly version = 1;
  readonly keepsDirty = false;
  readonly debt = undefined;
  readonly needsCheck = false;
  readonly #state: CacheState;

  constructor(state: CacheState) {
    this.#state = state;
  }

  claim(): void {
    throw new Error("assoc-cache: historical metadata cannot keep dirty blocks");
  }

  drop(): void {}

  async commit(): Promise<void> {}

  async commitDrops(): Promise<void> {}

  async noteTrouble(): Promise<void> {}

  async policyChanged(): Promise<void> {}

  async saveClean(): Promise<void> {
    const { frames, cache, rules } = this.#state;
    const { geometry } = frames;
    await cache.flush();
    const table = Buffer.alloc(tableSectorsV1(geometry.frames) * SECTOR);
    for (let frame = 0; frame < geometry.frames; frame += 1) {
      if (!rules.isStoredClean(frames, frame)) continue;
      putSectorInTableV1(table, frame, frames.blockOf(frame) * geometry.blockSectors);
    }
    await cache.write(cache.size - SECTOR - table.length, table);
    await cache.flush();
    const checksum = checksumV1(table);
    await cache.write(cache.size - SECTOR, encodeConfigurationV1({ geometry, writeBack: false, checksum }));
    await cache.flush();
  }
}
