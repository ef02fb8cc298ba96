/** What data would take as an image in a store that has nothing of it yet, in chunks of the usual size. */
import type { Footprint } from "@dmkit/block-io";
import { BlobCoder } from "../device/blob-coder.ts";
import { type BlobCodec, blobCodecs } from "../format/blob.ts";
import { DEFAULT_CHUNK, chunkCount } from "../format/manifest.ts";
import { DIGEST } from "../format/digest.ts";

/** Chunks of the usual size; the store has each of them once. */
export const imageFootprint: Footprint = {
  unit: DEFAULT_CHUNK,
  sharesEqual: true,
  algorithms: blobCodecs.map((name) => ({ name })),
  overhead: (size) => chunkCount(size, DEFAULT_CHUNK) * DIGEST,
  async open(algorithm) {
    const coder = new BlobCoder();
    return {
      weigh: async (unit) => (await coder.encode(unit, algorithm as BlobCodec)).length,
      close: () => coder.close(),
    };
  },
};
