/** What data would take on a compressed device of format 2, made with its usual options. */
import type { Footprint } from "@dmkit/block-io";
import { findBackend, listBackends } from "@dmkit/compressor";
import { openCodec } from "../device/codec.ts";
import { BLOCK } from "../format/geometry-v1.ts";
import { defaultJournal, layoutV2 } from "../format/layout-v2.ts";
import { DEFAULT_EXTENT } from "../open/v2/open.ts";

/** Extents of the usual length, each by itself. */
export const compressionFootprint: Footprint = {
  unit: DEFAULT_EXTENT,
  algorithms: listBackends().map((name) => ({ name, levels: findBackend(name).levels })),
  overhead(size) {
    const blocks = Math.ceil(size / BLOCK);
    return (layoutV2(blocks, defaultJournal(size))?.dataStart ?? 0) * BLOCK;
  },
  async open(algorithm, level) {
    const codec = await openCodec(algorithm, algorithm, false, undefined, level);
    return {
      weigh: async (unit) => (await codec.encode(unit)).length,
      close: () => codec.close(),
    };
  },
};
