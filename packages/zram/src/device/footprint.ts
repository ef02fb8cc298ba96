/** What data would take in memory, page by page. */
import type { Footprint } from "@dmkit/block-io";
import { createCompressor, findBackend, listBackends } from "@dmkit/compressor";
import { MAX_COMPRESSED, PAGE, classOf, classSizes } from "../core/size-classes.ts";

/** Pages, in objects of the sizes there are. */
export const zramFootprint: Footprint = {
  unit: PAGE,
  algorithms: listBackends().map((name) => ({ name, levels: findBackend(name).levels })),
  overhead: () => 0,
  async open(algorithm, level) {
    const compressor = await createCompressor(algorithm, { maxInput: PAGE, level, idleTime: 0 });
    return {
      async weigh(unit) {
        const stream = await compressor.acquire();
        const length = stream.compressSync(unit, MAX_COMPRESSED);
        stream.release();
        return length < 0 ? PAGE : (classSizes[classOf(length)] as number);
      },
      close: () => compressor.close(),
    };
  },
};
