/** What data would take on a compressed device of format 2, made with its usual options. */
import type { Footprint } from "@dmkit/block-io";
import { findBackend, listBackends } from "@dmkit/compressor";
import { openCodec } from "../device/codec.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { defaultJournal, layoutV2 } from "../format/layout-v2.ts";
import { DEFAULT_EXTENT } from "../open/v2/open.ts";

// Beside its journal a device has two superblocks, a block of metadata, and data.
const LEAST_BLOCKS = 4;

/** Extents of the usual length, each by itself. */
export const compressionFootprint: Footprint = {
  unit: DEFAULT_EXTENT,
  algorithms: listBackends().map((name) => ({ name, levels: findBackend(name).levels })),
  // Of a device with room for all of it, however little of that the data take.
  overhead(size) {
    const [blocks, journal] = [Math.ceil(size / BLOCK), defaultJournal(size)];
    const smallest = layoutV2(Math.ceil(journal / BLOCK) + LEAST_BLOCKS, journal);
    const layout = layoutV2(blocks + (smallest?.dataStart ?? 0), journal) ?? smallest;
    return (layout?.dataStart ?? 0) * BLOCK;
  },
  async open(algorithm, level) {
    const codec = await openCodec(algorithm, algorithm, false, undefined, level);
    return {
      weigh: async (unit) => (await codec.encode(unit)).length,
      close: () => codec.close(),
    };
  },
};
